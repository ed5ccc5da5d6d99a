"""How a Diffusion Surrogate learns during a run: low-rank adapters on its copy, which the cached model never sees."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ....engine.compute.memory import META
from ....engine.losses.learning import ASPL, CoTraining, Prior
from ....engine.observation import Features, Observation
from ....engine.picture import split_alpha
from ....engine.surrogates.lora import Adapters, adaptable
from ....engine.surrogates.picture_setup import PictureSetup
from ..autograd import ordinary
from ..memory.room import Pass
from .checks import check_conditioning
from .denoiser import Conditioning, denoiser_resident, owned
from .diffusion import DifferentiableDiffusionModel, DiffusionSurrogate, diffusion_pass
from .run_surrogates import Surrogates
from .vae import DifferentiableVAE, draws_latents, vae_view


@dataclass(frozen=True, eq=False)
class LowRank:
    """Settings of a surrogate that learns: the bridge's Learning. See engine's CoTraining.

    instance: the prompt that stands for what is on the photo. class_images, photos: IMAGE [N,H,W,C], and the prompt of the former. With
    photos the surrogate learns by ASPL, without them by co-training.
    """

    instance: Conditioning
    class_images: Tensor | None
    class_prompt: Conditioning | None
    photos: Tensor | None
    prior_weight: float
    every: int
    steps: int
    rank: int
    rate: float

    def __post_init__(self) -> None:
        if not self.instance:
            raise ValueError("The surrogate has no prompt under which to learn the photo: connect CLIP Text Encode to `instance_prompt`.")
        if (self.class_images is None) != (self.class_prompt is None):
            given, missing = ("class_images", "class_prompt") if self.class_prompt is None else ("class_prompt", "class_images")
            raise ValueError(f"`{given}` is connected and `{missing}` is not: connect both, or neither.")
        check_conditioning(self.instance, "instance_prompt")
        check_conditioning(self.class_prompt or [], "class_prompt")

    def view(self, surrogates: Surrogates, surrogate: DiffusionSurrogate) -> DifferentiableDiffusionModel:
        vae, resident = vae_view(surrogates, surrogate.vae), denoiser_resident(surrogates, surrogate.model)
        denoiser = resident.view
        adapters = Adapters(adaptable(denoiser.network), rank=self.rank, device=denoiser.device)

        def under(positive: Conditioning, negative: Conditioning) -> DifferentiableDiffusionModel:
            return DifferentiableDiffusionModel(denoiser, owned(positive), owned(negative), adapters)

        view = under(surrogate.positive, surrogate.negative)
        view.lessons = self._lessons(view, under(self.instance, self.instance), vae)
        if self.class_images is not None and self.class_prompt is not None:
            setup = PictureSetup(under(self.class_prompt, self.class_prompt), vae, view.lessons.instance.posterior)
            view.lessons.prior = Prior(setup, _pictures(self.class_images), self.prior_weight)
        resident.passes[id(surrogate), False] = diffusion_pass(view, vae)
        resident.passes[id(surrogate), "training"] = training_pass(view, vae)
        return view

    def _lessons(self, view: DifferentiableDiffusionModel, instance: DifferentiableDiffusionModel, vae: DifferentiableVAE) -> CoTraining:
        setup = PictureSetup(instance, vae, "post" if draws_latents(vae) else None)
        if self.photos is None:
            return CoTraining(adapters=view.adapters, instance=setup, owners=(view,), every=self.every, steps=self.steps, rate=self.rate)
        return ASPL(
            adapters=view.adapters,
            instance=setup,
            owners=(view,),
            every=self.every,
            steps=self.steps,
            rate=self.rate,
            photos=_pictures(self.photos),
        )


def check_learning(model: ModelPatcher) -> None:
    """Raises ValueError for a model on which no adapters can be put."""
    if not adaptable(model.model.diffusion_model):
        raise ValueError(
            "This model has none of the layers that learn here, which are those of Stable Diffusion's attention: connect an SD 1.x, SD 2.x "
            "or SDXL model, or connect the Diffusion Surrogate directly."
        )


def training_pass(view: DifferentiableDiffusionModel, vae: DifferentiableVAE) -> Pass:
    """A training step, which ends before the attack goes on: with the adapters' gradients and what AdamW keeps of each."""

    def ask(seen: Observation) -> Features:
        sides = (side // vae.multiple for side in seen.image.shape[-2:])
        shape = (1, vae.socket.latent_channels, *((1,) if vae.socket.latent_dim == 3 else ()), *sides)
        told, noisy = view.asked(shape).on(META), torch.empty(shape, device=META)
        adapters = Adapters(adaptable(view.denoiser.network), rank=view.adapters.rank, device=META)
        learned = [parameter.requires_grad_(True) for parameter in adapters.parameters]
        kept = [torch.empty_like(parameter) for parameter in learned for _ in range(2)]
        (estimate,) = view.denoiser.estimate(noisy, 0.5, told, adapters=adapters)
        kept += torch.autograd.grad(estimate, learned, torch.empty_like(estimate), allow_unused=True, materialize_grads=True)
        return (torch.empty((), device=META, requires_grad=True),)

    return Pass("diffusion model", (view.denoiser.network,), ask, clean=0, checkpointed=view.denoiser)


def _pictures(images: Tensor) -> Tensor:
    """IMAGE [N,H,W,C] -> [N,3,H,W], for autograd."""
    return split_alpha(ordinary(images).movedim(-1, 1).float())[0].expand(-1, 3, -1, -1)
