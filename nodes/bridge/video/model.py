"""A MODEL socket with its conditioning, as I2VGuard's losses ask for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.sampler_helpers
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ....engine.compute.half import with_scaled_gradient
from ....engine.observation import Features
from ..memory.copies import independent_copy, keep
from ..memory.precision import cast_denoiser
from .conditioner import Conditioner
from .families import Family
from .taps import Taps, attention_blocks, recomputable

_OWN = "stillguard"


@dataclass(frozen=True)
class Sampling:
    """How the prior video is made."""

    steps: int = 20
    cfg: float = 2.5
    sampler: str = "euler"
    scheduler: str = "simple"
    seed: int = 0


@dataclass(frozen=True)
class _Told:
    """What the model is told of a picture. varying: tensors that may depend on it; fixed: everything else."""

    varying: dict[str, Tensor]
    fixed: dict[str, Any]
    mask: Tensor | None


class DifferentiableVideoModel:
    """An independent copy of a MODEL behind its conditioning: the engine's VideoModel."""

    def __init__(
        self,
        model: ModelPatcher,
        family: Family,
        conditioner: Conditioner,
        *,
        blocks: tuple[int, ...],
        sampling: Sampling,
        video: Tensor | None,
        single: bool = False,
    ) -> None:
        """blocks: whose attention is tapped. video: IMAGE [F,H,W,3] that takes the place of the prior sampled from the model.

        single: in fp32.
        """
        self._source, self._single, self.conditioner = model, single, conditioner
        self.patcher = independent_copy(model, form=single, shape=self._cast)
        self._family, self._sampling, self._video = family, sampling, video
        self.checkpointing = False
        temporal = family.patch is None
        self._tapped = [attention_blocks(self.unet, temporal=temporal)[index] for index in blocks]
        self._recomputable = recomputable(self.unet, self._tapped, temporal=temporal)
        self._told: _Told | None = None
        self._sigmas: dict[float, float] = {}

    def _cast(self, copied: ModelPatcher) -> None:
        cast_denoiser(copied.model, copied.load_device, single=self._single)

    def keep(self) -> None:
        """Leave the copy for the next run."""
        keep(self._source, self._single, self.patcher)

    @property
    def _base(self) -> Any:
        return self.patcher.model

    @property
    def unet(self) -> nn.Module:
        """The denoiser, UNet or transformer."""
        network: nn.Module = self._base.diffusion_model
        return network

    def prior(self, image: Tensor) -> Tensor:
        if self._video is not None:
            return self._processed(self.conditioner.video(self._video, image))
        prepared, chosen = self.conditioner.prepare(image), self._sampling
        noise = comfy.sample.prepare_noise(prepared.samples, chosen.seed)
        with _nothing_loaded(self.patcher):
            latents = comfy.sample.sample(
                self.patcher,
                noise,
                chosen.steps,
                chosen.cfg,
                chosen.sampler,
                chosen.scheduler,
                prepared.positive,
                prepared.negative,
                prepared.samples,
                noise_mask=prepared.mask,
                callback=_watched(self.patcher, chosen.steps),
                disable_pbar=True,
                seed=chosen.seed,
            )
        return self._processed(latents)

    def still(self, image: Tensor) -> Tensor:
        return self._processed(self.conditioner.still(image))

    def _processed(self, latents: Tensor) -> Tensor:
        processed: Tensor = self._base.process_latent_in(latents.to(self.patcher.load_device))
        return processed

    def noised(self, latents: Tensor, noise: Tensor, level: float) -> Tensor:
        noisy: Tensor = self._base.model_sampling.noise_scaling(self._sigma(level, latents), noise, latents)
        return noisy

    def _sigma(self, level: float, like: Tensor) -> Tensor:
        if level not in self._sigmas:
            # Some schedules read it from the device, which then has to be waited for.
            self._sigmas[level] = float(self._base.model_sampling.percent_to_sigma(1 - level))
        return torch.full((like.shape[0],), self._sigmas[level], device=like.device)

    def condition(self, image: Tensor) -> Features:
        told = self.told(image)
        # Without a graph: the encoders' may have to go before the denoiser runs.
        self._told = replace(told, varying={name: value.detach() for name, value in told.varying.items()})
        return tuple(told.varying.values())

    def told(self, image: Tensor) -> _Told:
        prepared = self.conditioner.prepare(image)
        device = self.patcher.load_device
        noise, mask = torch.zeros_like(prepared.samples, device=device), prepared.mask
        latents = prepared.samples.to(device) if mask is None else self._processed(prepared.samples)
        if mask is not None:
            mask = comfy.sampler_helpers.prepare_mask(mask, noise.shape, device)
        conds = comfy.samplers.encode_model_conds(
            self._base.extra_conds,
            comfy.sampler_helpers.convert_cond(prepared.positive),
            noise,
            device,
            "positive",
            latent_image=latents,
            denoise_mask=mask,
            seed=0,
        )
        processed = {
            name: cond.process_cond(batch_size=noise.shape[0], area=None, device=device) for name, cond in conds[0]["model_conds"].items()
        }
        everything = {name: cond.cond for name, cond in processed.items()}
        if mask is not None:
            everything["latent_image"] = latents
        varying = {name: value for name, value in everything.items() if isinstance(value, Tensor) and value.is_floating_point()}
        return _Told(varying, {name: value for name, value in everything.items() if name not in varying}, mask)

    def estimate(self, noisy: Tensor, level: float, conditioning: Features) -> Features:
        if self._base.get_dtype_inference() != torch.float16:
            return self._estimate(noisy, level, conditioning)
        return with_scaled_gradient(lambda *conditioning: self._estimate(noisy, level, conditioning), *conditioning, network=self)

    def _estimate(self, noisy: Tensor, level: float, conditioning: Features) -> Features:
        if self._told is None:
            raise RuntimeError("The model was asked before it was told of a picture.")
        told = {**self._told.fixed, **dict(zip(self._told.varying, conditioning, strict=True))}
        latents, mask, sigma = told.pop("latent_image", None), self._told.mask, self._sigma(level, noisy)
        if mask is not None and latents is not None:
            kept = self._base.scale_latent_inpaint(x=noisy, sigma=sigma, noise=torch.zeros_like(noisy), latent_image=latents)
            noisy = noisy * mask + kept * (1 - mask)
        taps = Taps(self._tapped, frames=noisy.shape[-3] if noisy.ndim == 5 else noisy.shape[0], tokens=self._tokens(noisy))
        options = {**self.patcher.model_options.get("transformer_options", {}), "optimized_attention_override": taps.override}
        with taps.listening(), self._checkpointed():
            estimate = self._base.apply_model(noisy, sigma, transformer_options={**options, "sigmas": sigma, "cond_or_uncond": [0]}, **told)
        if mask is not None and latents is not None:
            estimate = estimate * mask + latents * (1 - mask)
        return (estimate.float(), *taps.maps)

    def _tokens(self, noisy: Tensor) -> int | None:
        patch = self._family.patch
        return None if patch is None else -(-noisy.shape[-2] // patch) * -(-noisy.shape[-1] // patch)

    @contextmanager
    def _checkpointed(self) -> Iterator[None]:
        with ExitStack() as stack:
            if self.checkpointing:
                for part in self._recomputable:
                    stack.enter_context(_recomputed(part))
            yield


def _watched(patcher: ModelPatcher, steps: int) -> Callable[[int, Tensor, Tensor, int], None]:
    """Core's own progress bar and preview of the node that runs, and the place where a cancelled run ends."""
    show = latent_preview.prepare_callback(patcher, steps)

    def report(step: int, estimate: Tensor, noisy: Tensor, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        show(step, estimate, noisy, total)

    return report


@contextmanager
def _nothing_loaded(patcher: ModelPatcher) -> Iterator[None]:
    """Core's sampler works with the model where it is. Loading would copy it a second time beside the one whose turn it is, and may
    take away networks that the run has on the device.
    """

    def prepare(
        executor: object, model: ModelPatcher, shape: object, conds: object, *_: object, **__: object
    ) -> tuple[Any, Any, list[Any]]:
        return model.model, conds, []

    patcher.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, _OWN, prepare)
    try:
        yield
    finally:
        patcher.remove_wrappers_with_key(WrappersMP.PREPARE_SAMPLING, _OWN)


@contextmanager
def _recomputed(block: nn.Module) -> Iterator[None]:
    """While it lasts, the block keeps its inputs instead of its activations."""
    forward = block.forward
    block.forward = lambda *args, **kwargs: checkpoint(forward, *args, use_reentrant=False, **kwargs)
    try:
        yield
    finally:
        del block.forward
