"""Any diffusion or flow MODEL of core with gradients: noise levels, the estimate of what is clean, and taps."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.sampler_helpers
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ....engine.compute.half import with_scaled_gradient
from ....engine.observation import Features
from ....engine.surrogates.denoiser import Tap
from ....engine.surrogates.lora import NO_ADAPTERS, Adapters, flattened, paired
from ..autograd import ordinary
from ..memory.copies import independent_copy, keep
from ..memory.precision import cast_denoiser
from .early_exit import cut_after, last_block, run_until
from .resident import Resident
from .run_surrogates import Surrogates
from .taps import Recorder, recomputable, recomputed, tapped_blocks

log = logging.getLogger("stillguard")

Conditioning = list[list[Any]]
"""What a CONDITIONING socket carries."""


@dataclass(frozen=True)
class Conditioned:
    """What a model is told beside the noisy latents, as its `apply_model` takes it.

    varying: tensors that gradients may flow through; fixed: everything else. mask: 1 where latents are sampled, None where all are; where
    it is 0 the `latent_image` among `varying` stays.
    """

    varying: dict[str, Tensor]
    fixed: dict[str, Any]
    mask: Tensor | None = None

    def detached(self) -> Conditioned:
        return replace(self, varying={name: value.detach() for name, value in self.varying.items()})

    def on(self, device: torch.device) -> Conditioned:
        mask = None if self.mask is None else self.mask.to(device)
        return replace(self, varying={name: value.to(device) for name, value in self.varying.items()}, mask=mask)


class DifferentiableDenoiser:
    """An independent copy of a MODEL: the engine's Denoiser. in_fp32: in fp32. last: of its blocks, behind which it is cut; None: whole."""

    def __init__(self, model: ModelPatcher, *, in_fp32: bool = False, last: int | None = None) -> None:
        self.source, self.last = model, last
        self._in_fp32 = in_fp32
        self.patcher = independent_copy(model, change_name=self._change_name, change=self._change)
        self.checkpointing = False
        self._sigmas: dict[float, float] = {}

    @property
    def _change_name(self) -> tuple[bool, int | None]:
        return self._in_fp32, self.last

    def _change(self, copied: ModelPatcher) -> None:
        cast_denoiser(copied.model, copied.load_device, in_fp32=self._in_fp32)
        if self.last is not None:
            network = copied.model.diffusion_model
            count = len(tapped_blocks(network, "output"))
            cut_after(network, self.last)
            # Core keeps the size that it has seen.
            copied.size = 0
            log.info("The losses read no further than block %d of the model's %d, and the others are left out.", self.last, count)

    def keep(self) -> None:
        """Leave the copy for the next run."""
        keep(self.source, self._change_name, self.patcher)

    @property
    def model(self) -> Any:
        """Core's own around the network."""
        return self.patcher.model

    @property
    def network(self) -> nn.Module:
        """UNet or transformer."""
        network: nn.Module = self.model.diffusion_model
        return network

    @property
    def device(self) -> torch.device:
        device: torch.device = self.patcher.load_device
        return device

    def scaled(self, latents: Tensor) -> Tensor:
        """As a VAE gives them -> as the model has them, on its device."""
        processed: Tensor = self.model.process_latent_in(latents.to(self.device))
        return processed

    def unscaled(self, latents: Tensor) -> Tensor:
        """The way back."""
        processed: Tensor = self.model.process_latent_out(latents)
        return processed

    def noised(self, latents: Tensor, noise: Tensor, level: float) -> Tensor:
        noisy: Tensor = self.model.model_sampling.noise_scaling(self.sigma(level, latents), noise, latents)
        return noisy

    def sigma(self, level: float, like: Tensor) -> Tensor:
        """[B] of latents [B,...]."""
        if level not in self._sigmas:
            # Some schedules read it from the device, which then has to be waited for. Some call the highest level endless, and all call the
            # lowest none, which is no timestep of any and by which losses would divide.
            sampling = self.model.model_sampling
            least, most = float(sampling.sigma_min), float(sampling.sigma_max)
            self._sigmas[level] = min(max(float(sampling.percent_to_sigma(1 - level)), least), most)
        return torch.full((like.shape[0],), self._sigmas[level], device=like.device)

    def output_scale(self, level: float) -> float:
        """|d estimate / d output of the network| at that level."""
        sigma = self.sigma(level, torch.zeros(1))
        estimate: Tensor = self.model.model_sampling.calculate_denoised(sigma, torch.ones(1), torch.zeros(1))
        return float(estimate.abs())

    def conditioned(self, conditioning: Conditioning, samples: Tensor, mask: Tensor | None = None) -> Conditioned:
        """samples: latents as conditioning nodes give them, in whose shape the model is asked; with a mask what stays where it is 0."""
        noise = torch.zeros_like(samples, device=self.device)
        latents = samples.to(self.device) if mask is None else self.scaled(samples)
        if mask is not None:
            mask = comfy.sampler_helpers.prepare_mask(mask, noise.shape, self.device)
        conds = comfy.samplers.encode_model_conds(
            self.model.extra_conds,
            comfy.sampler_helpers.convert_cond(conditioning),
            noise,
            self.device,
            "positive",
            latent_image=latents,
            denoise_mask=mask,
            seed=0,
        )
        processed = {
            name: cond.process_cond(batch_size=noise.shape[0], area=None, device=self.device)
            for name, cond in conds[0]["model_conds"].items()
        }
        everything = {name: cond.cond for name, cond in processed.items()}
        if mask is not None:
            everything["latent_image"] = latents
        varying = {name: value for name, value in everything.items() if isinstance(value, Tensor) and value.is_floating_point()}
        return Conditioned(varying, {name: value for name, value in everything.items() if name not in varying}, mask)

    def estimate(
        self, noisy: Tensor, level: float, told: Conditioned, taps: Sequence[Tap] = (), *, adapters: Adapters = NO_ADAPTERS
    ) -> Features:
        """The estimate of the clean latents, fp32 and shaped like `noisy`, then the taps. Raises RuntimeError where the copy is cut.

        adapters: on layers of the network, through which gradients flow too.
        """
        if self.last is not None:
            raise RuntimeError(f"The model was cut behind block {self.last}, and a loss uses its estimate: state that in its LossSpec.")

        def ask(told: Conditioned, noisy: Tensor) -> Features:
            found: list[Tensor] = []
            read = self._run(noisy, level, told, taps, lambda run: found.append(run()), adapters)
            (estimate,) = found
            if told.mask is not None and (latents := told.varying.get("latent_image")) is not None:
                estimate = estimate * told.mask + latents * (1 - told.mask)
            return (estimate.float(), *read)

        return self._asked(ask, noisy, told, adapters)

    def read(self, noisy: Tensor, level: float, told: Conditioned, taps: Sequence[Tap]) -> Features:
        """The taps alone, one or more: nothing runs that is behind the last of them. Raises RuntimeError where the copy lacks its block."""
        last = last_block(self.network, taps)
        if self.last is not None and last > self.last:
            raise RuntimeError(f"The model was cut behind block {self.last}, and a loss reads block {last}: state that in its LossSpec.")

        def ask(told: Conditioned, noisy: Tensor) -> Features:
            return tuple(self._run(noisy, level, told, taps, lambda run: run_until(self.network, last, run)))

        return self._asked(ask, noisy, told)

    def _asked(
        self,
        ask: Callable[[Conditioned, Tensor], Features],
        noisy: Tensor,
        told: Conditioned,
        adapters: Adapters = NO_ADAPTERS,
    ) -> Features:
        names, matrices = list(told.varying), adapters.matrices

        def run(noisy: Tensor, *given: Tensor) -> Features:
            varying, applied = given[: len(names)], paired(matrices, given[len(names) :])
            with adapters.applied(applied):
                return ask(replace(told, varying=dict(zip(names, varying, strict=True))), noisy)

        given = (*told.varying.values(), *flattened(matrices))
        if self.model.get_dtype_inference() != torch.float16:
            return run(noisy, *given)
        return with_scaled_gradient(run, noisy, *given, network=self)

    def _run(
        self,
        noisy: Tensor,
        level: float,
        told: Conditioned,
        taps: Sequence[Tap],
        call: Callable[[Callable[[], Tensor]], None],
        adapters: Adapters = NO_ADAPTERS,
    ) -> list[Tensor]:
        """What the taps read while `call` calls the model."""
        given, sigma = {**told.fixed, **told.varying}, self.sigma(level, noisy)
        latents = given.pop("latent_image", None)
        if told.mask is not None and latents is not None:
            kept = self.model.scale_latent_inpaint(x=noisy, sigma=sigma, noise=torch.zeros_like(noisy), latent_image=latents)
            noisy = noisy * told.mask + kept * (1 - told.mask)
        recorder = Recorder(self.network, taps, noisy.shape)
        options = {**self.patcher.model_options.get("transformer_options", {}), "optimized_attention_override": recorder.attend}
        options |= {"sigmas": sigma, "cond_or_uncond": [0]}
        with recorder.listening(), recomputed(recomputable(self.network, taps) if self.checkpointing else (), adapters):
            call(lambda: self.model.apply_model(noisy, sigma, transformer_options=options, **given))
        return recorder.take()


def denoiser_resident(surrogates: Surrogates, model: ModelPatcher, name: str = "The diffusion model") -> Resident[DifferentiableDenoiser]:
    """The model of a socket, one copy however many surrogate nodes it is connected to; no more of it than the run's losses read."""

    def make(in_fp32: bool) -> Resident[DifferentiableDenoiser]:
        view = DifferentiableDenoiser(model, in_fp32=in_fp32, last=surrogates.last_block(id(model)))
        return Resident(name, view, view.patcher, network=view.network, checkpointed=view, in_place=True, keep=view.keep)

    return surrogates.get(id(model), make)


def owned(conditioning: Conditioning) -> Conditioning:
    """With ordinary tensors: those of another node are inference tensors. Call inside `autograd_session`."""
    return [[_owned(part) for part in pair] for pair in conditioning]


def _owned(value: Any) -> Any:
    if isinstance(value, Tensor):
        return ordinary(value)
    if isinstance(value, dict):
        return {key: _owned(item) for key, item in value.items()}
    return [_owned(item) for item in value] if isinstance(value, list) else value
