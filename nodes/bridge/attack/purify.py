"""Purifiers inside ComfyUI: what all of them share, and Impress, which needs gradients through a whole VAE."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import comfy.model_management
import comfy.sd
import comfy.utils
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ....engine.compute.half import HalfPrecisionError
from ....engine.draws import SEEDS, following
from ....engine.picture import check_finite, resize, split_alpha
from ....engine.purify.impress import RoundTrip, impress
from ....engine.surrogates.perceptual import load_perceptual_network
from ..autograd import autograd_session, ordinary
from ..memory.devices import patched, whole
from ..memory.room import Room, decoding_pass, perceptual_pass, vae_pass
from ..progress import IN_SINGLE, PREVIEW_SIDE, SECONDS_BETWEEN_PREVIEWS, preview_picture, preview_sized, show_text
from ..surrogates.views import DifferentiableVAE, refuse_other_than_pictures


class Watch:
    """Progress over a batch, a preview at most twice a second, and the place where a cancelled run ends."""

    def __init__(self, pictures: int, *, node_id: str | None) -> None:
        self._bar = comfy.utils.ProgressBar(pictures, node_id=node_id)
        self._pictures, self._next = pictures, 0.0
        self.picture = 0

    def report(self, done: int, total: int, image: Tensor | None = None) -> None:
        """`done` of `total` parts of the current picture. Raises ComfyUI's interruption when the user has cancelled."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        preview = None
        if image is not None and (now := time.monotonic()) >= self._next:
            self._next, preview = now + SECONDS_BETWEEN_PREVIEWS, ("JPEG", preview_picture(preview_sized(image[:1])), PREVIEW_SIDE)
        self._bar.update_absolute(self.picture * total + done, total=self._pictures * total, preview=preview)


Purify = Callable[[Tensor, int, Watch], Tensor]
"""One picture [1,3,H,W] in [0,1], its seed, where to report -> the purified one, of any size."""


def purify_images(images: Tensor, purify: Purify, *, seed: int, node_id: str | None) -> Tensor:
    """IMAGE [B,H,W,C] -> IMAGE, each picture on its own with seed + its index; transparency is carried along, greyscale stays grey.

    Raises ValueError for pixels that are not numbers and for other than 1, 3 or 4 channels, ComfyUI's interruption when cancelled.
    """
    pictures = images.movedim(-1, 1).float()
    check_finite(pictures)
    colour, alpha = split_alpha(pictures)
    watch, results = Watch(len(pictures), node_id=node_id), []
    for index, picture in enumerate(colour):
        watch.picture = index
        # Contiguous: kernels round differently for other strides, and a picture's result must not depend on the batch that it came in.
        result = purify(picture[None].expand(-1, 3, -1, -1).clamp(0, 1).contiguous(), following(seed, index), watch)
        result = result.to(comfy.model_management.intermediate_device()).float().clamp(0, 1)
        result = result.mean(1, keepdim=True) if colour.shape[1] == 1 else result
        own = None if alpha is None else resize(alpha[index : index + 1].to(result), (result.shape[-2], result.shape[-1]))
        results.append(result if own is None else torch.cat([result, own], dim=1))
    return torch.cat(results).movedim(1, -1)


def sampler_seed(seed: int) -> int:
    """For core's samplers, some of which draw from the seed after this one: the last has none after it, and becomes the first."""
    return seed % (SEEDS - 1)


def padded(image: Tensor, multiple: int) -> Tensor:
    """[B,C,H,W] with its last row and column repeated until both sides are multiples; differentiable."""
    height, width = image.shape[-2:]
    return F.pad(image, (0, -width % multiple, 0, -height % multiple), mode="replicate")


@dataclass(frozen=True)
class ImpressSettings:
    """See engine.purify.impress."""

    iterations: int
    rate: float
    alpha: float
    threshold: float
    noise: float
    low_memory: bool


def impress_images(
    images: Tensor, vae: comfy.sd.VAE, backbone: Path, settings: ImpressSettings, *, seed: int, node_id: str | None
) -> Tensor:
    """Impress over IMAGE [B,H,W,C]; raises as `purify_images` does, and ValueError for a VAE of videos."""
    refuse_other_than_pictures(vae)
    try:
        return _impressed(images, vae, backbone, settings, seed=seed, node_id=node_id, single=False)
    except HalfPrecisionError:
        show_text(IN_SINGLE.format("The VAE"), node_id=node_id)
    return _impressed(images, vae, backbone, settings, seed=seed, node_id=node_id, single=True)


def _impressed(
    images: Tensor, vae: comfy.sd.VAE, backbone: Path, settings: ImpressSettings, *, seed: int, node_id: str | None, single: bool
) -> Tensor:
    """single: with the VAE in fp32."""
    with autograd_session():
        view, lpips = DifferentiableVAE(vae, single=single), load_perceptual_network(backbone)
        device, patchers = comfy.model_management.get_torch_device(), [view.patcher, patched(lpips)]
        room = Room([vae_pass(view), decoding_pass(view), perceptual_pass(lpips)], lambda _: float(sum(p.model_size() for p in patchers)))
        height, width = (side + -side % view.multiple for side in images.shape[1:3])
        needed = room.claim(height, width, low_memory=settings.low_memory, warn=lambda text: show_text(text, node_id=node_id))
        round_trip = _round_trip(view, low_memory=settings.low_memory)

        def purify(picture: Tensor, seed: int, watch: Watch) -> Tensor:
            steps = impress(
                picture.to(device),
                round_trip,
                lpips,
                iterations=settings.iterations,
                rate=settings.rate,
                alpha=settings.alpha,
                threshold=settings.threshold,
                noise=settings.noise,
                seed=seed,
            )
            for step in steps:
                watch.report(step.done, step.total, step.image)
            return step.image

        with whole(patchers, room=needed):
            return purify_images(ordinary(images), purify, seed=seed, node_id=node_id)


def _round_trip(view: DifferentiableVAE, *, low_memory: bool) -> RoundTrip:
    def decoded(latent: Tensor) -> Tensor:
        return checkpoint(view.decode, latent, use_reentrant=False) if low_memory else view.decode(latent)

    def round_trip(image: Tensor) -> Tensor:
        whole = padded(image, view.multiple)
        latent = checkpoint(view.encode, whole, use_reentrant=False) if low_memory else view.encode(whole)
        return decoded(latent)[..., : image.shape[-2], : image.shape[-1]]

    return round_trip
