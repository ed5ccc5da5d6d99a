"""Runs of losses on a video model's early blocks, with the model cut behind these or whole."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from stillguard.engine import Objective, Observation
from stillguard.engine.draws import SeededDraws
from torch import Tensor
from video_models import Loaded, randn

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from stillguard.nodes.bridge.protect.loss_spec import LossSpec
    from stillguard.nodes.bridge.surrogates.denoiser import DifferentiableDenoiser
    from stillguard.nodes.bridge.video.model import VideoSurrogate

# One latent is 32 pixels in LTX.
SIDES = {"LTX": 64}


def surrogate_of(loaded: Loaded, **changes: object) -> VideoSurrogate:
    """With a video in place of the model's own: sampling has a test of its own."""
    side = SIDES.get(loaded.family.name, 32)
    spec = loaded.spec(side=side)
    video = randn(spec.size.length, side, side, 3, seed=6).sigmoid()
    return replace(spec, **{"video": video, **changes})  # type: ignore[arg-type]


def photo_of(loaded: Loaded) -> Tensor:
    side = SIDES.get(loaded.family.name, 32)
    return torch.nn.functional.interpolate(randn(1, 3, 8, 8, seed=0), size=(side, side), mode="bicubic").sigmoid()


def outputs(surrogate: VideoSurrogate, *blocks: int, weight: float = 1.0) -> LossSpec:
    from stillguard.nodes.losses.anti_i2v import representation_anchor

    return representation_anchor(weight, surrogate, None, None, layers=", ".join(map(str, blocks)))


def attention(surrogate: VideoSurrogate, block: int) -> LossSpec:
    from stillguard.nodes.losses.i2vguard import temporal_attention

    return temporal_attention(1.0, replace(surrogate, blocks=(block,)))


class Run:
    """A run of these losses. cut: as the nodes do; else all of the model is there and runs to its end."""

    def __init__(self, losses: tuple[LossSpec, ...], photo: Tensor, *, cut: bool = True, low_memory: bool = False) -> None:
        from stillguard.nodes.bridge.protect.loss_spec import surrogates_of
        from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates

        self.surrogates = surrogates_of(losses) if cut else Surrogates()
        self.photo, self.low_memory, self.cut = photo, low_memory, cut
        self.losses = losses

    @cached_property
    def objective(self) -> Objective:
        from stillguard.nodes.bridge.protect.loss_spec import objective_of

        objective = objective_of(self.losses, self.surrogates)
        for term in () if self.cut else objective.terms:
            term.loss.setup.use_estimate()  # type: ignore[attr-defined]
        return objective

    @property
    def denoiser(self) -> DifferentiableDenoiser:
        denoiser: DifferentiableDenoiser = self.objective.terms[0].loss.setup.model.denoiser  # type: ignore[attr-defined]
        return denoiser

    def gradient(self) -> Tensor:
        from stillguard.nodes.bridge.autograd import autograd_session

        side = self.photo.shape[-1]
        with autograd_session():
            objective = self.objective
            with self.surrogates.on_device(height=side, width=side, low_memory=self.low_memory), self.surrogates.step():
                leaf = (self.photo + 0.02 * randn(*self.photo.shape, seed=4)).clamp(0.01, 0.99).requires_grad_()
                seen = Observation(leaf, draws=SeededDraws(5), low_memory=self.low_memory)
                self.values = objective.backward(Observation(self.photo.clone()), seen)
        assert leaf.grad is not None
        return leaf.grad


def with_lora(model: ModelPatcher) -> ModelPatcher:
    """On every linear layer, those of blocks that go included."""
    patched = model.clone()
    weights = {name: weight for name, weight in model.model.named_parameters() if name.endswith(".weight") and weight.ndim == 2}
    changes = {name: ("diff", (randn(*weight.shape, seed=1) * weight.float().std(),)) for name, weight in weights.items()}
    patched.add_patches({name: change for name, change in changes.items() if name.startswith("diffusion_model.")}, 0.5)
    return patched
