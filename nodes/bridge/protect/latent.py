"""The latent space of a VAE socket."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import comfy.model_management
import comfy.sd
from torch import Tensor

from ....engine.observation import WorkingSize
from ....engine.spaces import RGB
from ....engine.spaces.latent import AsPublished, Denoising, Latent, OneStep
from ..autograd import ordinary
from ..surrogates.diffusion import DiffusionSurrogate, diffusion_view
from ..surrogates.run_surrogates import Surrogates
from ..surrogates.vae import autoencoder_view, refuse_other_than_pictures
from .regions import check_region
from .run import SpaceSpec

Mode = Literal["decoder", "one step", "as published"]


@dataclass(frozen=True, eq=False)
class LatentSetup:
    """What a STILLGUARD_SPACE carries from Latent Space; see engine.spaces.Latent.

    surrogate: the diffusion model of the modes other than "decoder". region: MASK [1 or B,H,W], in which after step `at` nothing changes,
    or, where not frozen, something still does. Raises ValueError where a mode lacks its model, or the VAE is none of pictures or another.
    """

    vae: comfy.sd.VAE
    mode: Mode = "decoder"
    surrogate: DiffusionSurrogate | None = None
    form: Literal["difference", "decoded"] = "difference"
    trust: float | None = None
    start_from: Literal["near", "clean"] = "near"
    region: Tensor | None = None
    at: int = 100
    frozen: bool = True

    def __post_init__(self) -> None:
        refuse_other_than_pictures(self.vae)
        if self.mode == "decoder":
            return
        if self.surrogate is None:
            raise ValueError(f'The mode "{self.mode}" needs a diffusion model: connect a Diffusion Surrogate, or set mode to "decoder".')
        if self.surrogate.vae is not self.vae:
            raise ValueError("The diffusion surrogate has another VAE than the latent space: connect the same one to both.")

    def spec(self, images: Tensor, *, pixels: RGB, longest: int, steps: int) -> SpaceSpec:
        if self.region is not None:
            check_region(self.region, images, "freeze mask")
            if 0 < steps <= self.at:
                raise ValueError(
                    f"The freeze mask takes effect after step {self.at} and the run has {steps} steps: "
                    "set more steps, or freeze_step to a lower number."
                )

        def make(surrogates: Surrogates, index: int) -> Latent:
            vae = autoencoder_view(surrogates, self.vae)
            size = WorkingSize(longest=longest, multiple=surrogates.multiple)
            space = Latent(vae, self._denoising(surrogates), size, self.form, self.trust, self.start_from)
            if self.region is None:
                return space
            mask = ordinary(self.region)[index % self.region.shape[0]][None, None].to(comfy.model_management.get_torch_device())
            return space.freeze(self.at, mask) if self.frozen else space.composite(self.at, mask)

        return SpaceSpec(None, make)

    def _denoising(self, surrogates: Surrogates) -> Denoising | None:
        if self.mode == "decoder" or self.surrogate is None:
            return None
        model = diffusion_view(surrogates, self.surrogate, guided=self.mode == "as published")
        return OneStep(model) if self.mode == "one step" else AsPublished(model)
