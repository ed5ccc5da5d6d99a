"""Speech as Hallo hears it, through the audio encoder that core loaded.

Core's Audio Encoder Encode gives 50 features a second. Hallo makes 25 of them, one for each frame, before the transformer and not after
it, so that what the layers say is another thing: it takes the encoder itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch
import torchaudio
from comfy.audio_encoders.wav2vec2 import Wav2Vec2Model
from torch import Tensor
from torch.nn import functional as F

from ....engine.animators.talking_head.head import TalkingHead
from ....engine.animators.talking_head.sampler import FRAMES_PER_SECOND
from ..autograd import ordinary

# Standard deviation of samples in [-1,1], far below what a microphone gives in a quiet room.
_SILENCE = 1e-4


@dataclass(frozen=True, eq=False)
class Speech:
    """features: [N,layers,channels], one a frame, on the CPU. frames: how many of them the sound lasts; the others are of silence."""

    features: Tensor
    frames: int


def heard(encoder: Any, audio: Any, head: TalkingHead, *, multiple: int = 1) -> Speech:
    """From AUDIO_ENCODER and AUDIO: hidden states of every layer, without what enters the first.

    multiple: silence is added until there are a multiple of so many frames, as Hallo does for whole clips.
    Raises ValueError for another encoder than the head's, and for a sound that is silent, too short, several, or not of numbers.
    """
    model = getattr(encoder, "model", None)
    if not isinstance(model, Wav2Vec2Model):
        raise ValueError(f"The audio encoder is a {type(model or encoder).__name__} and the talking head reads wav2vec2-base: load that.")
    width = int(model.feature_projection.projection.out_features)
    # One moment, to have an encoder of another size refused before it is run.
    window = head.windows(torch.zeros(1, len(model.encoder.layers), width)).shape[1]
    # As core runs it, whose weights may be inference tensors.
    with torch.inference_mode():
        samples, rate = _one_voice(audio), int(encoder.model_sample_rate)
        samples = torchaudio.functional.resample(samples, audio["sample_rate"], rate)
        frames = -(-len(samples) * FRAMES_PER_SECOND // rate)
        if frames < window:
            raise ValueError(
                f"The sound lasts {len(samples) / rate:.2f} s and the talking head hears {window / FRAMES_PER_SECOND:.2f} s around each "
                "frame: give a longer one."
            )
        samples = (samples - samples.mean()) / (samples.var(correction=0) + 1e-7).sqrt()
        added = -frames % multiple
        samples = F.pad(samples, (0, added * rate // FRAMES_PER_SECOND))
        states = _hidden_states(encoder, samples[None], frames + added)
    # Losses differentiate through what reads the features.
    with torch.inference_mode(False):
        return Speech(ordinary(states), frames)


def _one_voice(audio: Any) -> Tensor:
    """AUDIO -> [samples], its channels' mean."""
    if not isinstance(audio, dict) or "waveform" not in audio:
        raise ValueError("What is connected to `audio` is no sound: connect Load Audio.")
    waveform = audio["waveform"].float()
    if len(waveform) != 1:
        raise ValueError(f"`audio` holds {len(waveform)} sounds, and a portrait speaks one: connect one.")
    if not waveform.numel():
        raise ValueError("The sound holds no samples: load another one with Load Audio.")
    if not bool(waveform.isfinite().all()):
        raise ValueError("The sound has samples that are not numbers (NaN or infinity): look for the node before this one that made them.")
    samples = waveform[0].mean(0)
    if float(samples.std(correction=0)) < _SILENCE:
        raise ValueError("The sound is silent, so that there is nothing to say: connect one with speech.")
    return samples


def _hidden_states(encoder: Any, samples: Tensor, frames: int) -> Tensor:
    """Samples [1,n] -> [frames,layers,channels]."""
    comfy.model_management.load_model_gpu(encoder.patcher)
    model = encoder.model
    sounds = model.feature_extractor(samples.to(encoder.load_device))
    sounds = F.interpolate(sounds.mT, size=frames, mode="linear", align_corners=True).mT
    _, layers = model.encoder(model.feature_projection(sounds))
    states: Tensor = torch.stack(layers[1:], dim=2)[0]
    return states.float().cpu()
