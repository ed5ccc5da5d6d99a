"""A user's own diffusion model of pictures, as losses on image models ask for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ....engine.compute.memory import META
from ....engine.losses.learning import CoTrained, CoTraining
from ....engine.objective import Loss
from ....engine.observation import Features, Observation
from ....engine.surrogates.denoiser import Tap
from ....engine.surrogates.lora import NO_ADAPTERS, Adapters
from ....engine.surrogates.picture_setup import PictureSetup
from ..memory.room import Pass
from .denoiser import Conditioned, Conditioning, DifferentiableDenoiser, denoiser_resident, owned
from .run_surrogates import Surrogates
from .vae import DifferentiableVAE, drawn_vae_view, vae_view


@dataclass(frozen=True, eq=False)
class DiffusionSurrogate:
    """What a STILLGUARD_DIFFUSION_SURROGATE carries."""

    model: ModelPatcher
    vae: comfy.sd.VAE
    positive: Conditioning
    negative: Conditioning
    learning: Learning | None = None


class Learning(Protocol):
    """How a surrogate learns during a run."""

    def view(self, surrogates: Surrogates, surrogate: DiffusionSurrogate, /) -> DifferentiableDiffusionModel:
        """The model of a surrogate with its lessons."""
        ...


def diffusion_setup(surrogates: Surrogates, surrogate: DiffusionSurrogate, *, posterior: str | None = None) -> PictureSetup:
    """One for each surrogate, so that losses share what the model is asked. Call inside `autograd_session`.

    posterior: see PictureSetup. Raises ValueError where something is to be drawn from a VAE that has no distribution. Where the surrogate
    learns, it does for all losses that read its model: see `taught`.
    """

    def model() -> DifferentiableDiffusionModel:
        return diffusion_view(surrogates, surrogate) if surrogate.learning is None else surrogate.learning.view(surrogates, surrogate)

    def make() -> PictureSetup:
        vae = vae_view(surrogates, surrogate.vae) if posterior is None else drawn_vae_view(surrogates, surrogate.vae)
        return PictureSetup(surrogates.once(("asked", id(surrogate)), model), vae, posterior)

    return surrogates.once((id(surrogate), posterior), make)


def taught(loss: Loss) -> Loss:
    """The same, between whose steps the surrogates that it reads learn, if any of them does."""
    for view in loss.surrogates:
        if isinstance(view, DifferentiableDiffusionModel) and view.lessons is not None:
            loss = CoTrained(loss, view.lessons)
    return loss


def diffusion_view(surrogates: Surrogates, surrogate: DiffusionSurrogate, *, guided: bool = False) -> DifferentiableDiffusionModel:
    """The model of a surrogate as it is before it learns. guided: it is asked twice at a time, for guidance."""
    vae, resident = vae_view(surrogates, surrogate.vae), denoiser_resident(surrogates, surrogate.model)

    def make() -> DifferentiableDiffusionModel:
        return DifferentiableDiffusionModel(resident.view, owned(surrogate.positive), owned(surrogate.negative))

    view = surrogates.once(("view", id(surrogate)), make)
    resident.passes[id(surrogate), guided] = diffusion_pass(view, vae, calls=2 if guided else 1)
    return view


class DifferentiableDiffusionModel:
    """A denoiser behind its prompt: the engine's PromptedModel.

    adapters: that are put on it while it is asked. lessons: by which these learn during a run.
    """

    def __init__(
        self, denoiser: DifferentiableDenoiser, positive: Conditioning, negative: Conditioning, adapters: Adapters = NO_ADAPTERS
    ) -> None:
        self.denoiser, self.adapters, self._prompts = denoiser, adapters, {False: positive, True: negative}
        self.lessons: CoTraining | None = None
        # What the model is told depends on the size of the latents.
        self._told: dict[tuple[bool, tuple[int, ...]], Conditioned] = {}

    def scaled(self, latents: Tensor) -> Tensor:
        return self.denoiser.scaled(latents)

    def unscaled(self, latents: Tensor) -> Tensor:
        return self.denoiser.unscaled(latents)

    def noised(self, latents: Tensor, noise: Tensor, level: float) -> Tensor:
        return self.denoiser.noised(latents, noise, level)

    def output_scale(self, level: float) -> float:
        return self.denoiser.output_scale(level)

    def estimate(self, noisy: Tensor, level: float, *, taps: Sequence[Tap] = (), negative: bool = False) -> Features:
        return self.denoiser.estimate(noisy, level, self.conditioned(noisy.shape, negative), taps, adapters=self.adapters)

    def prompt(self, noisy: Tensor, *, negative: bool = False) -> Tensor:
        """Raises ValueError for a model that is told no text, or not only by tokens."""
        tokens = self.conditioned(noisy.shape, negative).varying.get("c_crossattn")
        if tokens is None or tokens.ndim != 3:
            raise ValueError(
                'This diffusion model reads no tokens of a prompt, which are to be fitted: set mode to "one step" or "decoder".'
            )
        return tokens

    def estimate_under(self, noisy: Tensor, level: float, prompt: Tensor) -> Tensor:
        told = self.conditioned(noisy.shape, negative=True)
        told = replace(told, varying={**told.varying, "c_crossattn": prompt})
        return self.denoiser.estimate(noisy, level, told, adapters=self.adapters)[0]

    def conditioned(self, shape: Sequence[int], negative: bool = False) -> Conditioned:
        """What the model is told beside noisy latents of this shape."""
        key = (negative, tuple(shape))
        if key not in self._told:
            self._told[key] = self.asked(shape, negative)
        return self._told[key]

    def asked(self, shape: Sequence[int], negative: bool = False) -> Conditioned:
        """The same, computed anew."""
        with torch.no_grad():
            return self.denoiser.conditioned(self._prompts[negative], torch.zeros(tuple(shape))).detached()


def diffusion_pass(view: DifferentiableDiffusionModel, vae: DifferentiableVAE, *, calls: int = 1) -> Pass:
    """The denoiser's own: the VAE's is counted where the VAE is. calls: of one estimate, such as two with guidance."""

    def ask(seen: Observation) -> Features:
        sides = (side // vae.multiple for side in seen.image.shape[-2:])
        shape = (1, vae.socket.latent_channels, *((1,) if vae.socket.latent_dim == 3 else ()), *sides)
        # Anew: parts that are computed, such as sizes, have no values here, and must not stay for the run.
        told = view.asked(shape).on(META)
        noisy = torch.empty(shape, device=META).requires_grad_()
        asked = view.denoiser
        return seen.features(
            view, "estimate", lambda: tuple(asked.estimate(noisy, 0.5, told, adapters=view.adapters)[0] for _ in range(calls))
        )

    return Pass("diffusion model", (view.denoiser.network,), ask, checkpointed=view.denoiser)
