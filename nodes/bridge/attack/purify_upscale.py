"""DiffShortcut and Noisy Upscaling inside ComfyUI, with core's Stable Diffusion x4 upscaler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.sample
import comfy.sd
import comfy.utils
from comfy.model_patcher import ModelPatcher
from comfy_extras.nodes_sdupscale import SD_4XUpscale_Conditioning
from torch import Tensor

from ....engine.picture import resize
from ....engine.purify.upscaling import FACTOR, Repaint, diffshortcut, noisy_upscaling
from ..memory.devices import whole
from .purify import Watch, purify_images, sampler_seed

# Face restorers know squares of this side, whole pictures included.
_FACE = 512
_TILE, _OVERLAP = 512, 32


@dataclass(frozen=True, eq=False)
class X4Upscaler:
    """The sockets of the upscaler and how it samples. noise_level: 0 to 350, of the noise that it adds to what it is given."""

    model: ModelPatcher
    vae: comfy.sd.VAE
    positive: list[Any]
    negative: list[Any]
    noise_level: int
    steps: int
    guidance: float

    def __post_init__(self) -> None:
        if not isinstance(self.model.model, comfy.model_base.SD_X4Upscaler):
            raise ValueError(
                "This model is not the Stable Diffusion x4 upscaler: "
                "load x4-upscaler-ema.safetensors with Load Checkpoint and connect its model."
            )
        if self.vae.spacial_compression_decode() != FACTOR:
            raise ValueError(
                f"This VAE enlarges latents {self.vae.spacial_compression_decode()} times and the x4 upscaler's own {FACTOR} times: "
                "connect the VAE of the upscaler's checkpoint."
            )

    @property
    def most(self) -> int:
        """The highest noise level that the model knows."""
        return int(self.model.model.noise_augmentor.max_noise_level)

    def enlarged(self, image: Tensor, *, seed: int, watch: Watch) -> Tensor:
        """[1,3,h,w] in [0,1] -> [1,3,4h,4w]."""
        conditioned = SD_4XUpscale_Conditioning.execute(
            image.movedim(1, -1).cpu(), self.positive, self.negative, float(FACTOR), min(1.0, self.noise_level / self.most)
        )
        positive, negative, latent = conditioned.args
        samples = latent["samples"]
        # The sampler and the spacing that the model is published with.
        sampled = comfy.sample.sample(
            self.model,
            comfy.sample.prepare_noise(samples, seed),
            self.steps,
            self.guidance,
            "ddim",
            "ddim_uniform",
            positive,
            negative,
            samples,
            callback=lambda step, estimate, noisy, total: watch.report(step + 1, total),
            disable_pbar=True,
            seed=sampler_seed(seed),
        )
        pixels: Tensor = self.vae.decode(sampled).movedim(-1, 1)
        return pixels


def noisy_upscaling_images(
    images: Tensor, upscaler: X4Upscaler, *, sigma: float, longest: int, enlarge: bool, seed: int, node_id: str | None
) -> Tensor:
    """Noisy Upscaling over IMAGE [B,H,W,C]. enlarge: keep the upscaler's size instead of the picture's."""

    def purify(picture: Tensor, seed: int, watch: Watch) -> Tensor:
        repainted = noisy_upscaling(
            picture, lambda small: upscaler.enlarged(small, seed=seed, watch=watch), sigma=sigma, longest=longest, seed=seed
        )
        return repainted if enlarge else resize(repainted, (picture.shape[-2], picture.shape[-1]))

    return purify_images(images, purify, seed=seed, node_id=node_id)


def diffshortcut_images(images: Tensor, upscaler: X4Upscaler, restorer: Any | None, *, side: int, seed: int, node_id: str | None) -> Tensor:
    """DiffShortcut over IMAGE [B,H,W,C], at the picture's own size. restorer: an UPSCALE_MODEL, or None to go without."""

    def purify(picture: Tensor, seed: int, watch: Watch) -> Tensor:
        repainted = diffshortcut(
            picture,
            lambda small: upscaler.enlarged(small, seed=seed, watch=watch),
            restore=None if restorer is None else lambda large: restored(large, restorer),
            side=side,
        )
        return resize(repainted, (picture.shape[-2], picture.shape[-1]))

    return purify_images(images, purify, seed=seed, node_id=node_id)


def restored(image: Tensor, restorer: Any) -> Tensor:
    """[1,3,H,W] in [0,1] through an UPSCALE_MODEL, in tiles as core does it; a face restorer sees the whole as one square."""
    if restorer.purpose == "FaceSR":
        image = resize(image, (_FACE, _FACE))
    run = _codeformer(restorer) if restorer.architecture.id == "CodeFormer" else restorer
    device = restorer.patcher.load_device
    # Core's own estimate in Upscale Image (using Model).
    room = _TILE * _TILE * 3 * image.element_size() * max(restorer.scale, 1.0) * 384.0

    def one(tile: Tensor) -> Tensor:
        comfy.model_management.throw_exception_if_processing_interrupted()
        return run(tile.float())

    with whole([restorer.patcher], room=room):
        enlarged: Tensor = comfy.utils.tiled_scale(
            image.to(device),
            one,
            tile_x=_TILE,
            tile_y=_TILE,
            overlap=_OVERLAP,
            upscale_amount=restorer.scale,
            output_device=comfy.model_management.intermediate_device(),
        )
    return enlarged.clamp(0, 1)


def _codeformer(restorer: Any) -> Repaint:
    """Its network was trained on [-1,1], and spandrel hands it [0,1] as they are. Its fidelity weight is 0.5 by default."""
    return lambda tile: (restorer.model(tile * 2 - 1)[0] + 1) / 2
