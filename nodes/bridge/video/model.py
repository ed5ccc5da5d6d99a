"""An image-to-video MODEL behind its own conditioning, as losses on videos ask for it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import comfy.clip_vision
import comfy.model_management
import comfy.sample
import comfy.sd
import latent_preview
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ....engine.compute.memory import META
from ....engine.losses.anti_i2v import squared_distance
from ....engine.observation import Features, Observation
from ....engine.surrogates.denoiser import Tap
from ....engine.surrogates.video_setup import VideoSetup
from ..autograd import ordinary
from ..memory.devices import Place
from ..memory.room import Pass
from ..surrogates.clip_vision import DifferentiableCLIPVision, clip_vision_view
from ..surrogates.denoiser import Conditioned, Conditioning, DifferentiableDenoiser, denoiser_resident
from ..surrogates.run_surrogates import Surrogates
from ..surrogates.vae import DifferentiableVAE, vae_view
from .conditioner import Conditioner, VideoSize
from .families import Family, Prepared
from .stand_ins import StandInCLIPVision, StandInVAE

_OWN = "stillguard"


@dataclass(frozen=True)
class Sampling:
    """How the prior video is made."""

    steps: int = 20
    cfg: float = 2.5
    sampler: str = "euler"
    scheduler: str = "simple"
    seed: int = 0


@dataclass(frozen=True, eq=False)
class VideoSurrogate:
    """What a STILLGUARD_I2V_SURROGATE carries: a user's own image-to-video model and what conditions it.

    video: IMAGE [F,H,W,C] in place of a sampled prior. blocks: whose attention Temporal Attention reads.
    """

    model: ModelPatcher
    family: Family
    vae: comfy.sd.VAE
    clip_vision: comfy.clip_vision.ClipVisionModel | None
    positive: Conditioning
    negative: Conditioning
    size: VideoSize
    sampling: Sampling
    video: Tensor | None
    blocks: tuple[int, ...]


def video_setup(
    surrogates: Surrogates,
    surrogate: VideoSurrogate,
    levels: tuple[float, ...] = VideoSetup.levels,
    *,
    fresh: bool = False,
    looked_into: bool = False,
) -> VideoSetup:
    """One for each choice of levels and noise, so that losses which agree share what the model is asked. fresh: see VideoSetup.

    looked_into: for a loss that reads blocks of the adversarial picture only.
    """
    vae = vae_view(surrogates, surrogate.vae)
    clip = None if surrogate.clip_vision is None else clip_vision_view(surrogates, surrogate.clip_vision)
    resident = denoiser_resident(surrogates, surrogate.model, "The video model")
    resident.needs_encoders = True

    def model() -> DifferentiableVideoModel:
        seen = None if clip is None else StandInCLIPVision(clip)
        conditioner = Conditioner(surrogate.family, StandInVAE(vae), seen, surrogate.positive, surrogate.negative, surrogate.size)
        sampling, video = surrogate.sampling, surrogate.video
        return DifferentiableVideoModel(resident.view, conditioner, sampling=sampling, video=video, place=surrogates.place)

    def setup() -> VideoSetup:
        return VideoSetup(surrogates.once(id(surrogate), model), levels, fresh=fresh)

    key = (id(surrogate), levels, fresh)
    encoders: list[DifferentiableVAE | DifferentiableCLIPVision] = [vae] if clip is None else [vae, clip]
    made = surrogates.once(key, setup)
    resident.passes[key] = video_pass(made, encoders)
    if looked_into:
        resident.passes[*key, "inside"] = video_pass(made, encoders, inside=True)
    return made


class DifferentiableVideoModel:
    """A denoiser behind the conditioning of its family: the engine's VideoModel.

    video: IMAGE [F,H,W,3] that takes the place of the prior sampled from the model.
    """

    def __init__(
        self,
        denoiser: DifferentiableDenoiser,
        conditioner: Conditioner,
        *,
        sampling: Sampling,
        video: Tensor | None,
        place: Place | None = None,
    ) -> None:
        self.denoiser, self.conditioner = denoiser, conditioner
        self._sampling, self._video, self._place = sampling, video, place or Place()
        self._told: Conditioned | None = None

    @property
    def sampled(self) -> Tensor | None:
        """Of the latest picture that `condition` was given."""
        return None if self._told is None else self._told.mask

    def shape(self, image: Tensor) -> tuple[int, ...]:
        return self.conditioner.shape(image.shape[-2], image.shape[-1])

    def output_scale(self, level: float) -> float:
        return self.denoiser.output_scale(level)

    def prior(self, image: Tensor) -> Tensor:
        if self._video is not None:
            return self.denoiser.scaled(self.conditioner.video(self._video, image))
        prepared, own = self.conditioner.prepare(image), self.denoiser.source
        if self.denoiser.last is None:
            with _nothing_loaded(self.denoiser.patcher):
                return self.denoiser.scaled(self._sample(self.denoiser.patcher, prepared))
        # The copy is no whole model: the user's own makes the video, as it would for any other node.
        with self._place.lent(own):
            latents = self._sample(own, prepared)
        return self.denoiser.scaled(ordinary(latents))

    def _sample(self, patcher: ModelPatcher, prepared: Prepared) -> Tensor:
        chosen, noise = self._sampling, comfy.sample.prepare_noise(prepared.samples, self._sampling.seed)
        latents: Tensor = comfy.sample.sample(
            patcher,
            noise,
            chosen.steps,
            chosen.cfg,
            chosen.sampler,
            chosen.scheduler,
            prepared.positive,
            prepared.negative,
            prepared.samples,
            noise_mask=prepared.mask,
            callback=_watched(patcher, chosen.steps),
            disable_pbar=True,
            seed=chosen.seed,
        )
        return latents

    def still(self, image: Tensor) -> Tensor:
        return self.denoiser.scaled(self.conditioner.still(image))

    def noised(self, latents: Tensor, noise: Tensor, level: float) -> Tensor:
        return self.denoiser.noised(latents, noise, level)

    def condition(self, image: Tensor) -> Features:
        conditioned = self.conditioned(image)
        # Without a graph: the encoders' may have to go before the denoiser runs.
        self._told = conditioned.detached()
        return tuple(conditioned.varying.values())

    def conditioned(self, image: Tensor) -> Conditioned:
        """What the model is told of a picture [1,3,H,W], with its graph."""
        prepared = self.conditioner.prepare(image)
        return self.denoiser.conditioned(prepared.positive, prepared.samples, prepared.mask)

    def estimate(self, noisy: Tensor, level: float, conditioning: Features, *, taps: Sequence[Tap] = ()) -> Features:
        return self.denoiser.estimate(noisy, level, self._told_of(conditioning), taps)

    def read(self, noisy: Tensor, level: float, conditioning: Features, *, taps: Sequence[Tap]) -> Features:
        return self.denoiser.read(noisy, level, self._told_of(conditioning), taps)

    def _told_of(self, conditioning: Features) -> Conditioned:
        if self._told is None:
            raise RuntimeError("The model was asked before it was told of a picture.")
        return replace(self._told, varying=dict(zip(self._told.varying, conditioning, strict=True)))


def video_pass(setup: VideoSetup, encoders: Sequence[DifferentiableVAE | DifferentiableCLIPVision], *, inside: bool = False) -> Pass:
    """encoders: those that the conditioning goes through. inside: with what losses read of the adversarial picture only; without, what is
    kept of the clean one for each level."""
    view = cast(DifferentiableVideoModel, setup.model)

    def ask(seen: Observation) -> Features:
        # A twin, so that what it is told of nothing stays here.
        asked = copy.copy(view)

        def condition() -> Features:
            # Parts such as a prompt do not come from the picture.
            return tuple(tensor.to(META) for tensor in asked.condition(seen.image))

        with torch.no_grad():
            noisy = torch.empty(view.conditioner.prepare(seen.image).samples.shape, device=META)
        told = seen.features(view.conditioner, "conditioning", condition)
        taps = [_compared(tap) for tap in setup.taps] if inside else setup.lasting_taps
        if not setup.only_inside:
            return seen.features(view, "estimate", lambda: asked.estimate(noisy, 0.5, told, taps=taps))
        if not taps:
            # Nothing is kept of the clean picture but numbers.
            return tuple(tensor[:0] for tensor in told)
        return seen.features(view, "estimate", lambda: asked.read(noisy, 0.5, told, taps=taps))

    networks = (view.denoiser.network, *(encoder.patcher.model for encoder in encoders))
    return Pass("video", networks, ask, clean=0 if inside else len(setup.levels), checkpointed=view.denoiser)


def _compared(tap: Tap) -> Tap:
    """What a measure takes, which is compared with the same of another picture."""
    return replace(tap, measure=lambda read: squared_distance(read, torch.empty_like(read))) if tap.of else tap


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
