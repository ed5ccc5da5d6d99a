"""Runs with models that are cut behind the last block that a loss reads: copies that are kept, cancelling, memory, half precision."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import torch
from cut_models import Run, outputs, photo_of, surrogate_of
from stillguard.engine import RGB, Sign
from torch import Tensor
from video_models import FILES, Loaded, load

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

pytestmark = pytest.mark.usefixtures("comfy")


@pytest.fixture(scope="module")
def folder(comfy: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("early")


@pytest.fixture(scope="module")
def wan(folder: Path) -> Loaded:
    return load("Wan", folder)


class Protected:
    """Whole protection runs with one model, and how often core's loader was asked for a copy."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded, self.surrogate = loaded, surrogate_of(loaded, video=None)

    def run(self, last: int) -> tuple[Tensor, int]:
        from comfy.model_patcher import ModelPatcher
        from stillguard.nodes.bridge.protect.run import Settings, protect_images, space_spec

        settings = Settings(space_spec(RGB(8.0)), Sign(1.0), None, 32, 1, 1, low_memory=False)
        copies: list[object] = []

        def clone(patcher: ModelPatcher, *args: Any, **kwargs: Any) -> ModelPatcher:
            copies.extend([patcher] if patcher is self.surrogate.model and kwargs.get("disable_dynamic") else [])
            return made(patcher, *args, **kwargs)

        made = ModelPatcher.clone
        with torch.inference_mode(), mock.patch.object(ModelPatcher, "clone", clone):
            photo = photo_of(self.loaded).movedim(1, -1)
            protected, *_ = protect_images(photo, (outputs(self.surrogate, last),), settings, mask=None, node_id=None)
        return protected, len(copies)


def test_a_kept_copy_stands_for_none_that_is_cut_elsewhere(folder: Path) -> None:
    """After a run with early blocks comes one with all, and back: each has its own copy, and an equal run finds it."""
    fresh, _ = Protected(load("Wan", folder)).run(0)
    runs = Protected(load("Wan", folder))
    for last, copied in ((0, 1), (0, 0), (1, 1), (0, 1)):
        protected, made = runs.run(last)
        assert made == copied
        assert torch.equal(protected, fresh) == (last == 0)


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("low_memory", [False, True])
@pytest.mark.usefixtures("no_collector")
def test_a_run_that_is_cancelled_inside_leaves_nothing(wan: Loaded, low_memory: bool) -> None:
    """Neither a hook nor a graph nor the copy, and after one that ends well neither."""
    import comfy.model_management as management

    surrogate = surrogate_of(wan)
    for cancelled in (False, True):
        run = Run((outputs(surrogate, 0),), photo_of(wan), low_memory=low_memory)
        with contextlib.ExitStack() as stack:
            if cancelled:
                block = "comfy.ldm.wan.model.WanAttentionBlock.forward"
                stack.enter_context(mock.patch(block, side_effect=management.InterruptProcessingException))
                stack.enter_context(pytest.raises(management.InterruptProcessingException))
            run.gradient()
        hooks = [part for part in run.denoiser.network.modules() if part._forward_hooks or part._forward_pre_hooks]
        assert not hooks
        assert "forward" not in vars(run.denoiser.network.blocks[0])
        alive = weakref.ref(run.denoiser.patcher.model)
        del run
        assert alive() is None


@pytest.mark.usefixtures("no_collector")
def test_a_pass_that_ends_early_holds_nothing_but_what_was_read(wan: Loaded) -> None:
    """What the network had made by then goes with the exception that ended it."""
    from stillguard.engine.compute.memory import LiveBytes
    from stillguard.engine.surrogates.denoiser import Tap
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.protect.loss_spec import surrogates_of
    from stillguard.nodes.bridge.video.model import video_setup

    surrogate, photo = surrogate_of(wan), photo_of(wan)
    with autograd_session():
        surrogates = surrogates_of((outputs(surrogate, 0),))
        model = video_setup(surrogates, surrogate).model
        with surrogates.on_device(height=32, width=32, low_memory=False), torch.no_grad():
            told, noisy = model.condition(photo), torch.zeros(model.shape(photo))
            with LiveBytes() as live:
                (read,) = model.read(noisy, 0.5, told, taps=[Tap("output", 0)])
                assert live.live == read.untyped_storage().nbytes()


@pytest.mark.parametrize("family", [name if name == "CogVideoX" else pytest.param(name, marks=pytest.mark.slow) for name in FILES])
def test_less_memory_is_counted(folder: Path, family: str) -> None:
    """Of weights, and of what a step takes beside them."""
    from stillguard.nodes.bridge.autograd import autograd_session

    loaded = load(family, folder)
    side, needs = photo_of(loaded).shape[-1], []
    for cut in (False, True):
        run = Run((outputs(surrogate_of(loaded), 0),), photo_of(loaded), cut=cut)
        with autograd_session():
            assert run.objective.terms
            residents = [one for one in run.surrogates._residents.values() if one.view is run.denoiser]
            found = [one.footprint(side, side, low_memory=False) for one in residents[0].passes.values()]
            assert len(found) == 2
        needs.append((run.surrogates._weights(False), max(one.kept for one in found), max(one.peak for one in found)))
        assert all(one.peak >= one.kept > 0 for one in found)
    # The VAE's encoder, which is larger than these models, may make the peak.
    assert all(less < more for less, more in zip(needs[1][:2], needs[0][:2], strict=True))
    assert needs[1][2] <= needs[0][2]


class Steep(torch.autograd.Function):
    """x itself, whose gradient is 2^20 times as large: more than fp16 holds."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 2.0**20


@pytest.fixture
def half(wan: Loaded, monkeypatch: pytest.MonkeyPatch) -> Loaded:
    """Wan in fp16, as on a GPU: kernels of the CPU compute in half precision too."""
    import comfy.model_management
    import comfy.sd
    from stillguard.nodes.bridge.memory import precision

    monkeypatch.setattr(precision, "gradient_dtype", lambda device: torch.float16)
    monkeypatch.setattr(comfy.model_management, "unet_manual_cast", lambda *_, **__: None)
    assert wan.model.cached_patcher_init is not None
    with torch.inference_mode():
        model = comfy.sd.load_diffusion_model(wan.model.cached_patcher_init[1][0], model_options={"dtype": torch.float16})
    return replace(wan, model=model)


def test_a_gradient_that_overflows_fp16_is_tried_again(wan: Loaded, half: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    from comfy.ldm.wan.model import WanAttentionBlock
    from stillguard.engine.compute.half import Scales

    forward = WanAttentionBlock.forward
    monkeypatch.setattr(WanAttentionBlock, "forward", lambda block, x, *args, **kwargs: forward(block, Steep.apply(x), *args, **kwargs))
    tries: list[Tensor] = []
    run = Run((outputs(surrogate_of(half), 0),), photo_of(half))

    def attempt() -> tuple[Tensor, list[Tensor]]:
        tries.append(run.gradient())
        return tries[-1], [tries[-1].sum()]

    gradient, _ = Scales().repeated(attempt)
    assert len(tries) > 1
    assert not torch.isfinite(tries[0]).all()
    expected = Run((outputs(surrogate_of(wan), 0),), photo_of(wan), cut=False).gradient()
    assert float(torch.cosine_similarity(gradient.flatten(), expected.flatten(), dim=0)) > 0.98


def test_what_does_not_fit_fp16_is_cut_at_the_same_place_in_fp32(half: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    from stillguard.nodes.bridge.surrogates import denoiser as views

    with torch.inference_mode():
        model = half.model.clone()
        weight = model.model.diffusion_model.blocks[0].ffn[2].weight
        model.add_patches({"diffusion_model.blocks.0.ffn.2.weight": ("diff", (torch.full(weight.shape, 60000.0),))})
    made: list[tuple[bool, int | None]] = []

    class Noted(views.DifferentiableDenoiser):
        def __init__(self, source: ModelPatcher, **choices: Any) -> None:
            super().__init__(source, **choices)
            made.append(self._change_name)

    monkeypatch.setattr(views, "DifferentiableDenoiser", Noted)
    runs = Protected(replace(half, model=model))
    # The user's own, in fp16 too, could make no video.
    runs.surrogate = surrogate_of(runs.loaded)
    protected, _ = runs.run(0)
    assert torch.isfinite(protected).all()
    assert made == [(False, 0), (True, 0)]
