"""A small talking head that is really trained, in the bench's cache: drawn portraits, whose mouths open as loud as a voice is.

Pictures are FACE of a drawing at 128 px in the shipped autoencoder's latents: so near that its latents hold the mouth. Of a voice the
network is told a mel spectrogram, 25 columns a second. Portraits and voices of `HELD_OUT` and of the files that are not named in training
are unknown to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from bench import animator_files, paths
from drawings import drawing
from safetensors.torch import load_file, save_file
from stillguard.engine.animators.face.motions import speech
from stillguard.engine.animators.face.poses import NAMES
from stillguard.engine.animators.pose_animator import noise_schedule
from stillguard.engine.animators.talking_head.masks import Regions
from stillguard.engine.animators.talking_head.sampler import FRAMES_PER_SECOND
from stillguard.engine.conversions import from_pillow, on_white
from stillguard.engine.picture import resize
from stillguard.engine.surrogates.sd_unet import LATENT_SCALE
from stillguard.engine.surrogates.tiny_autoencoder import load_tiny_autoencoder
from stillguard.engine.weights.reading import read_weights
from stillguard.lab.animator import CONTEXT, SIDE, WIDTHS
from stillguard.lab.talker import LATENT, Talker
from stillguard.lab.training import Loss, Training, run
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

CACHE = paths.BENCH / "talking"
TRAINED, HELD_OUT = range(2000, 2096), range(2100, 2112)
OPENINGS = 9  # from closed to open
FACE = (slice(130, 226), slice(208, 304))  # rows and columns of a drawing
LAYERS, CHANNELS, RATE = 2, 8, 16000
# How much more than the rest the lips count, of which the picture holds few.
LIPS = 4.0
FRAMES, DROPPED = 8, 0.1


class Voice(NamedTuple):
    """features: [N,layers,channels], as TalkingHead.windows takes them. opening: of the mouth, [N] in [0,1]."""

    features: Tensor
    opening: Tensor


def voice(file: Path) -> Voice:
    """Of a sound file, 25 frames a second."""
    waveform = samples(file)
    opening = speech(waveform[None], RATE, FRAMES_PER_SECOND)[:, NAMES.index("mouth_aaa")]
    hop = RATE // FRAMES_PER_SECOND
    mel = spectrogram(
        waveform.numpy(),
        window_function(2 * hop),
        frame_length=2 * hop,
        hop_length=hop,
        fft_length=2048,
        power=2.0,
        mel_filters=mel_filter_bank(1025, LAYERS * CHANNELS, 60.0, 7600.0, RATE),
        log_mel="log10",
    )
    bands = torch.from_numpy(np.asarray(mel)).float().T
    bands = (bands - bands.mean()) / bands.std()
    count = min(len(bands), len(opening))
    return Voice(bands[:count].unflatten(1, (LAYERS, CHANNELS)), opening[:count])


def samples(file: Path) -> Tensor:
    """One channel at RATE."""
    import av

    with av.open(str(file)) as opened:
        resampler = av.AudioResampler("flt", "mono", RATE)
        parts = [part for frame in opened.decode(audio=0) for part in resampler.resample(frame)]
        parts += resampler.resample(None)
    return torch.from_numpy(np.concatenate([part.to_ndarray()[0] for part in parts]))


def faces(seeds: Sequence[int]) -> Tensor:
    """[portraits,OPENINGS,3,SIDE,SIDE] in [0,1], made once."""
    file = CACHE / f"faces_{seeds[0]}_{len(seeds)}.safetensors"
    if not file.is_file():
        made = torch.stack([opened(seed) for seed in seeds])
        CACHE.mkdir(parents=True, exist_ok=True)
        save_file({"faces": (made * 255).round().byte()}, file)
    return load_file(file)["faces"].float() / 255


def opened(seed: int) -> Tensor:
    """One portrait with its mouth from closed to open."""
    drawn = [on_white(from_pillow(drawing(seed, index / (OPENINGS - 1)))[None]) for index in range(OPENINGS)]
    return resize(torch.cat(drawn)[..., FACE[0], FACE[1]], (SIDE, SIDE)).clamp(0, 1)


def lips(pictures: Tensor) -> Tensor:
    """Where mouths move, [1,1,SIDE,SIDE]: 1 in the box of what changes by more than a tenth in any portrait."""
    moved = (pictures[:, -1] - pictures[:, 0]).abs().amax((0, 1)) > 0.1
    rows, columns = moved.any(1).nonzero(), moved.any(0).nonzero()
    mask = torch.zeros(1, 1, SIDE, SIDE)
    mask[..., int(rows.min()) : int(rows.max()) + 1, int(columns.min()) : int(columns.max()) + 1] = 1
    return mask


def regions(mouth: Tensor) -> Regions:
    """Background, face and lips, soft, as Hallo's maps are: the whole picture is the face here."""
    soft = F.avg_pool2d(F.avg_pool2d(mouth, 9, 1, 4), 9, 1, 4)
    return Regions(F.interpolate(torch.cat([torch.zeros_like(soft), 1 - soft, soft], 1), (64, 64), mode="area")[0])


def untrained(mouth: Tensor) -> Talker:
    """mouth: from `lips`."""
    state = read_weights(animator_files.talking_head(CACHE / "sizes", widths=WIDTHS, context=CONTEXT))
    return Talker(state, torch.ones(1, 1, SIDE, SIDE), regions(mouth).levels(LATENT, LATENT, len(WIDTHS)))


def denoising(latents: Tensor, voices: Sequence[Voice], mouth: Tensor, talker: Talker) -> Loss:
    """The loss over FRAMES frames of random portraits and voices. latents: [portraits,OPENINGS,4,h,w] in the UNets' scale."""
    signal = noise_schedule().alphas_cumprod
    weight = F.max_pool2d(mouth, 8) * (LIPS - 1) + 1
    weight = (weight / weight.mean())[:, :, None]

    def loss(network: nn.Module, generator: torch.Generator) -> Tensor:
        def whole_number(high: int, *shape: int) -> Tensor:
            return torch.randint(high, shape, generator=generator)

        length = 1 if float(torch.rand((), generator=generator)) < 0.7 else 4
        batch = FRAMES // length
        clean, heard = [], []
        who = whole_number(len(latents), batch)
        for row in who:
            said = voices[int(whole_number(len(voices)))]
            at = int(whole_number(len(said.opening) - length + 1))
            times = list(range(at, at + length))
            opening = (said.opening[times] * (OPENINGS - 1)).round().long()
            clean.append(latents[row, opening].transpose(0, 1))
            heard.append(talker.head.windows(said.features, times))
        # More often where there is more noise: where there is less, the noisy mouth itself tells how far it is open.
        timesteps = (torch.rand(batch, generator=generator).sqrt() * 1000).long()
        frames = torch.stack(clean)
        noise = torch.randn(frames.shape, generator=generator)
        a, b = (value.sqrt().view(-1, 1, 1, 1, 1) for value in (signal[timesteps], 1 - signal[timesteps]))
        guided = bool(torch.rand((), generator=generator) >= DROPPED)
        velocity = network(a * frames + b * noise, timesteps, latents[who, 0], torch.stack(heard), guided=guided)
        error: Tensor = (weight * (velocity - (a * noise - b * frames)).square()).mean()
        return error

    return loss


def trained(voices: Sequence[Voice], minutes: float) -> Talker:
    """From the cache, or trained for so many minutes on one core."""
    pictures = faces(TRAINED)
    mouth = lips(pictures)
    talker, file = untrained(mouth), CACHE / "talker.safetensors"
    if not file.is_file():
        torch.manual_seed(0)
        vae = load_tiny_autoencoder()
        with torch.inference_mode():
            latents = torch.stack([vae.encode(portrait) * LATENT_SCALE for portrait in pictures]).clone()

        def ship(training: Training, folder: Path) -> str:
            if training.seconds >= minutes * 60:
                save_file({key: value.contiguous() for key, value in training.average.items()}, file, metadata=training.facts())
            return "talking head"

        given = {"minutes": minutes, "steps": None, "save_every": 2.0, "learning_rate": 1e-3}
        run(
            Training(talker, seed=0, half_life=300),
            denoising(latents, voices, mouth, talker),
            SimpleNamespace(checkpoint=CACHE / "talker.pt", out=CACHE, **given),
            ship,
        )
    talker.load_state_dict(load_file(file))
    return talker.eval().requires_grad_(False)
