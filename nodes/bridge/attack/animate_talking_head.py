"""The talking head run as a victim inside ComfyUI."""

from __future__ import annotations

from dataclasses import dataclass

import comfy.latent_formats
import comfy.model_management
import comfy.sd
import comfy.utils
import latent_preview
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ....engine.animators.talking_head.masks import located
from ....engine.animators.talking_head.sampler import CLIP, Portrait, animate
from ....engine.picture import resize
from ....engine.surrogates.sd_unet import LATENT_SCALE
from ..memory.devices import bring, whole
from ..progress import PREVIEW_SIDE
from ..surrogates.speech import Speech
from ..surrogates.talking_face import Face
from ..surrogates.talking_head import LoadedTalkingHead


@dataclass(frozen=True)
class Talking:
    """How to animate; see engine.animators.talking_head.sampler. longest: side of the video."""

    steps: int
    guidance: float
    seed: int
    longest: int
    as_published: bool


def animate_talking_head(
    face: Face, speech: Speech, loaded: LoadedTalkingHead, vae: comfy.sd.VAE, settings: Talking, *, node_id: str | None
) -> Tensor:
    """IMAGE [N,h,w,3], 25 frames a second, as many as the speech lasts; the picture's aspect is kept.

    Raises ComfyUI's interruption when cancelled, which is seen between steps.
    """
    device = comfy.model_management.get_torch_device()
    # Out of inference mode: weights that are moved in it could not be differentiated through later.
    with torch.inference_mode(False), torch.no_grad():
        picture = resize(face.picture, _size(face.picture, settings.longest))
        height, width = picture.shape[-2:]
        # On the CPU nobody asks for room, and to count it takes a moment.
        room = 0.0 if device.type == "cpu" else loaded.memory_required(height, width, frames=CLIP)
        between = _VAE(vae, [loaded.net_patcher, loaded.head_patcher], room)
        latent = vae.encode(picture.movedim(1, -1)).float() * LATENT_SCALE
        with whole(between.patchers, room=room):
            portrait = Portrait(
                latent.to(device),
                face.embedding.to(device),
                located(face.region, height, width).to(device),
                tuple(level.to(device) for level in face.regions.levels(height // 8, width // 8, loaded.head.levels)),
            )
            frames = _frames(loaded, between, portrait, speech.features, settings, node_id)
    return frames[: speech.frames].movedim(1, -1)


def _size(picture: Tensor, longest: int) -> tuple[int, int]:
    """(height, width) of the video: the picture's aspect, sides that the VAE can halve three times."""
    scale = longest / max(picture.shape[-2:])
    tall, wide = (max(64, round(side * scale / 8) * 8) for side in picture.shape[-2:])
    return tall, wide


@dataclass(frozen=True)
class _VAE:
    """Core's, which may send other networks away to have room for itself: they come back at once."""

    socket: comfy.sd.VAE
    patchers: list[ModelPatcher]
    room: float

    def encode(self, image: Tensor) -> Tensor:
        latent: Tensor = self.socket.encode(image.movedim(1, -1))
        bring(self.patchers, room=self.room)
        return latent.to(comfy.model_management.get_torch_device())

    def decode(self, latents: Tensor) -> Tensor:
        pictures: Tensor = self.socket.decode(latents)
        bring(self.patchers, room=self.room)
        return pictures.float().movedim(-1, 1)


def _frames(loaded: LoadedTalkingHead, vae: _VAE, portrait: Portrait, features: Tensor, settings: Talking, node_id: str | None) -> Tensor:
    previewer = latent_preview.Latent2RGBPreviewer(comfy.latent_formats.SD15().latent_rgb_factors)
    bar: comfy.utils.ProgressBar | None = None
    made: list[Tensor] = []
    states = animate(
        loaded.net,
        loaded.head,
        vae,
        portrait,
        features,
        steps=settings.steps,
        guidance=settings.guidance,
        seed=settings.seed,
        as_published=settings.as_published,
    )
    for state in states:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar = bar or comfy.utils.ProgressBar(state.clips * settings.steps, node_id=node_id)
        estimate = state.state.estimate
        middle = previewer.decode_latent_to_preview(estimate[:, :, estimate.shape[2] // 2])
        bar.update_absolute((state.clip - 1) * settings.steps + state.state.done, preview=("JPEG", middle, PREVIEW_SIDE))
        if state.frames is not None:
            made.append(state.frames)
    return torch.cat(made)
