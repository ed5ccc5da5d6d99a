"""Impress inside ComfyUI, with gradients through a whole VAE."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import comfy.model_management
import comfy.sd
import comfy.utils
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ....engine.compute.half import HalfPrecisionError
from ....engine.purify.impress import RoundTrip, impress
from ....engine.surrogates.perceptual import load_perceptual_network
from ..autograd import autograd_session, ordinary
from ..memory.devices import patched, whole
from ..memory.room import Room
from ..progress import RUN_IN_FP32, show_text
from ..surrogates.perceptual import perceptual_pass
from ..surrogates.vae import DifferentiableVAE, decoding_pass, refuse_other_than_pictures, vae_pass
from .purify import Watch, padded, purify_images


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
        return _impressed(images, vae, backbone, settings, seed=seed, node_id=node_id, in_fp32=False)
    except HalfPrecisionError:
        show_text(RUN_IN_FP32.format("The VAE"), node_id=node_id)
    return _impressed(images, vae, backbone, settings, seed=seed, node_id=node_id, in_fp32=True)


def _impressed(
    images: Tensor, vae: comfy.sd.VAE, backbone: Path, settings: ImpressSettings, *, seed: int, node_id: str | None, in_fp32: bool
) -> Tensor:
    """in_fp32: with the VAE in fp32."""
    with autograd_session():
        view, lpips = DifferentiableVAE(vae, in_fp32=in_fp32), load_perceptual_network(backbone)
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
