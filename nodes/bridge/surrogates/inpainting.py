"""A user's own inpainting model, as losses on models that repaint a part of a picture ask for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from ....engine.compute.memory import META
from ....engine.losses.inpainting import InpaintingSetup
from ....engine.observation import Features, Observation
from ..autograd import ordinary
from ..memory.room import Pass
from .denoiser import Conditioned, denoiser_resident, owned
from .diffusion import DifferentiableDiffusionModel, DiffusionSurrogate
from .run_surrogates import Surrogates
from .vae import DifferentiableVAE, autoencoder_view, refuse_other_than_pictures, vae_view

# What core puts beside the noisy latents of Stable Diffusion's and SDXL's inpainting models, in this order.
_BESIDE = ("mask", "masked_image")


def check_inpainting(surrogate: DiffusionSurrogate) -> None:
    """Raises ValueError for a model that does not repaint, or repaints in another way, for one that is to learn, which these losses do not
    see, and for a VAE of anything but pictures."""
    if surrogate.learning is not None:
        raise ValueError("A model that repaints does not learn here: connect the Diffusion Surrogate without Learning Surrogate.")
    model = surrogate.model.model
    wanted = 2 * model.latent_format.latent_channels + 1
    if tuple(model.concat_keys) != _BESIDE or model.model_config.unet_config.get("in_channels") != wanted:
        raise ValueError(
            "The diffusion surrogate's model does not repaint a part of a picture as Stable Diffusion's inpainting models do: load an "
            "inpainting checkpoint of SD 1.5, SD 2 or SDXL (Flux Fill and others are not supported)."
        )
    refuse_other_than_pictures(surrogate.vae)


def repaint_mask(mask: Tensor) -> Tensor:
    """MASK [1,H,W] -> [1,1,H,W] of 0 and 1, where 1 is repainted. Raises ValueError where it is not one, or not of both."""
    if mask.shape[0] != 1:
        raise ValueError(f"There are {mask.shape[0]} repaint masks, and a loss has one: connect one, and protect such photos one by one.")
    repainted = mask[:, None] >= 0.5
    if not repainted.any():
        raise ValueError(
            "The repaint mask is empty, so that an editor would repaint nothing: paint white what he repaints (Load Image gives an empty "
            "mask for a picture in which nothing is painted)."
        )
    if repainted.all():
        raise ValueError(
            "The repaint mask covers the whole picture, so that the editor's model sees nothing of the photo: leave black what he keeps, "
            "such as a face, or invert the mask."
        )
    return repainted.float()


def inpainting_setup(surrogates: Surrogates, surrogate: DiffusionSurrogate, mask: Tensor, *, steps: int | None = None) -> InpaintingSetup:
    """For one loss: what is left of a picture depends on how that varies its mask. Call inside `autograd_session`.

    mask: as `repaint_mask` gives it. steps: of sampling, for a loss that decodes what they end in.
    """
    vae, resident = vae_view(surrogates, surrogate.vae), denoiser_resident(surrogates, surrogate.model)

    def make() -> DifferentiableInpaintingModel:
        return DifferentiableInpaintingModel(resident.view, owned(surrogate.positive), owned(surrogate.negative))

    view = surrogates.once(("inpainting", id(surrogate)), make)
    resident.passes[id(surrogate), "inpainting", steps] = inpainting_pass(view, vae, steps=steps or 1)
    if steps is None:
        return InpaintingSetup(view, _Unclamped(vae), ordinary(mask))
    return InpaintingSetup(view, _Unclamped(autoencoder_view(surrogates, surrogate.vae)), ordinary(mask))


class DifferentiableInpaintingModel(DifferentiableDiffusionModel):
    """One that is told beside its prompt what to repaint and what there is around it: the engine's InpaintingModel."""

    def repainted(self, noisy: Tensor, level: float, mask: Tensor, left: Tensor) -> Tensor:
        return self.asked_with(self.conditioned(noisy.shape), noisy, level, mask, left)[0]

    def asked_with(self, told: Conditioned, noisy: Tensor, level: float, mask: Tensor, left: Tensor) -> Features:
        """The same. told: what the model is told without a picture, in whose place core puts an empty one."""
        beside = torch.cat([mask.to(left).expand(left.shape[0], -1, -1, -1), self.scaled(left)], 1).expand(noisy.shape[0], -1, -1, -1)
        return self.denoiser.estimate(noisy, level, replace(told, varying={**told.varying, "c_concat": beside}))


def inpainting_pass(view: DifferentiableInpaintingModel, vae: DifferentiableVAE, *, steps: int = 1) -> Pass:
    """The denoiser's own, over so many steps of sampling, through all of which the gradient goes."""

    def ask(seen: Observation) -> Features:
        sides = tuple(side // vae.multiple for side in seen.image.shape[-2:])
        latents = left = torch.empty(1, vae.socket.latent_channels, *sides, device=META).requires_grad_()
        # As of other diffusion models: what was counted must not stay.
        told, mask = view.asked(left.shape).on(META), torch.empty(1, 1, *sides, device=META)
        for index in range(steps):
            (latents,) = seen.features(view, ("repainted", index), partial(view.asked_with, told, latents, 0.5, mask, left))
        return (latents,)

    return Pass("diffusion model", (view.denoiser.network,), ask, checkpointed=view.denoiser)


@dataclass(frozen=True, eq=False)
class _Unclamped:
    """The engine's Decoder."""

    vae: DifferentiableVAE

    def encode(self, image: Tensor) -> Tensor:
        return self.vae.encode(image)

    def decode(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents, clamped=False)
