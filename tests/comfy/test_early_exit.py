"""Models that are cut behind the last block that a loss reads: the whole model's numbers to the bit, and nothing of the rest."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import torch
from stillguard.engine import RGB, Objective, Observation, Sign
from stillguard.engine.draws import SeededDraws
from torch import Tensor
from video_models import FILES, Loaded, load, randn

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from stillguard.nodes.bridge.protect.loss_spec import LossSpec
    from stillguard.nodes.bridge.surrogates.denoiser import DifferentiableDenoiser
    from stillguard.nodes.bridge.video.model import VideoSurrogate

pytestmark = pytest.mark.usefixtures("comfy")
# One latent is 32 pixels in LTX.
SIDES = {"LTX": 64}
# Their like runs without --slow.
SLOW = {"SVD", "Wan Animate", "LTX", "Hunyuan (replace)"}


@pytest.fixture(scope="module")
def folder(comfy: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("early")


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in FILES])
def loaded(request: pytest.FixtureRequest, folder: Path) -> Loaded:
    return load(request.param, folder)


@pytest.fixture(scope="module")
def wan(folder: Path) -> Loaded:
    return load("Wan", folder)


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


def network_of(surrogate: VideoSurrogate) -> Any:
    return surrogate.model.model.diffusion_model


def count(network: Any, kind: str = "output") -> int:
    from stillguard.nodes.bridge.surrogates.taps import tapped_blocks

    return len(tapped_blocks(network, kind))  # type: ignore[arg-type]


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


def check_same(losses: tuple[LossSpec, ...], photo: Tensor, last: int | None, *, low_memory: bool = False) -> None:
    whole, cut = (Run(losses, photo, cut=choice, low_memory=low_memory) for choice in (False, True))
    expected, found = whole.gradient(), cut.gradient()
    assert float(expected.abs().max()) > 0
    assert torch.equal(found, expected)
    assert all(torch.equal(cut.values[name], value) for name, value in whole.values.items())
    assert cut.denoiser.last == last
    every = count(whole.denoiser.network)
    assert count(cut.denoiser.network) == (every if last is None else last + 1)
    assert (cut.denoiser.patcher.model_size() < whole.denoiser.patcher.model_size()) == (last is not None)


@pytest.mark.parametrize("low_memory", [False, True])
def test_a_cut_models_gradient_is_the_whole_ones_to_the_bit(loaded: Loaded, low_memory: bool) -> None:
    """Outputs of a block in the middle, with the photo's way through conditioning, VAE and image encoder."""
    surrogate, photo = surrogate_of(loaded), photo_of(loaded)
    last = (count(network_of(surrogate)) - 1) // 2
    check_same((outputs(surrogate, last),), photo, last, low_memory=low_memory)


@pytest.mark.slow
@pytest.mark.parametrize("low_memory", [False, True])
def test_every_place_to_cut(loaded: Loaded, low_memory: bool) -> None:
    """Every block's output, on both sides of a border between lists of blocks too; behind the last one nothing is cut."""
    surrogate, photo = surrogate_of(loaded), photo_of(loaded)
    every = count(network_of(surrogate))
    for block in range(every):
        check_same((outputs(surrogate, block),), photo, None if block == every - 1 else block, low_memory=low_memory)


def holder(network: Any, block: int) -> int:
    """Of a UNet, the number of the container in which that attention is, found by its name."""
    from stillguard.nodes.bridge.surrogates.taps import tapped_blocks

    wanted = tapped_blocks(network, "attention")[block]
    (name,) = [name for name, part in network.named_modules() if part is wanted]
    part, number, *_ = name.split(".")
    before = {"input_blocks": 0, "middle_block": len(network.input_blocks), "output_blocks": len(network.input_blocks) + 1}
    return before[part] + (0 if part == "middle_block" else int(number))


def check_attention(loaded: Loaded, block: int, *, low_memory: bool) -> None:
    surrogate = surrogate_of(loaded)
    network = network_of(surrogate)
    last = holder(network, block) if hasattr(network, "input_blocks") else block
    check_same((attention(surrogate, block),), photo_of(loaded), None if last == count(network) - 1 else last, low_memory=low_memory)


@pytest.mark.parametrize("family", ["SVD", "Hunyuan (concat)"])
def test_attention_of_the_first_block(folder: Path, family: str) -> None:
    check_attention(load(family, folder), 0, low_memory=False)


@pytest.mark.slow
@pytest.mark.parametrize("low_memory", [False, True])
def test_attention_of_every_block(loaded: Loaded, low_memory: bool) -> None:
    for block in range(count(network_of(surrogate_of(loaded)), "attention")):
        check_attention(loaded, block, low_memory=low_memory)


@pytest.fixture
def deep(folder: Path) -> Loaded:
    """Wan Animate with twelve blocks, its own over and over, and as many face blocks as core makes of them, each with its own weights."""
    import copy

    loaded = load("Wan Animate", folder)
    network = loaded.model.model.diffusion_model
    network.blocks = torch.nn.ModuleList(copy.deepcopy(network.blocks[number % 2]) for number in range(12))
    fuser = network.face_adapter.fuser_blocks
    network.face_adapter.fuser_blocks = torch.nn.ModuleList(copy.deepcopy(fuser[0]) for _ in range(-(-12 // 5)))
    # No file can give it again.
    loaded.model.cached_patcher_init, loaded.model.size = None, 0
    return loaded


@pytest.mark.parametrize(
    ("last", "kept"), [(0, 0), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in ((1, 1), (4, 1), (5, 1), (10, 2))), (6, 2)]
)
def test_face_blocks_go_with_the_blocks_behind_which_they_run(deep: Loaded, last: int, kept: int) -> None:
    surrogate = surrogate_of(deep)
    run = Run((outputs(surrogate, last),), photo_of(deep))
    found = run.gradient()
    assert len(run.denoiser.network.face_adapter.fuser_blocks) == kept
    assert torch.equal(found, Run((outputs(surrogate, last),), photo_of(deep), cut=False).gradient())


def test_losses_of_one_model_agree_on_the_last_block(wan: Loaded) -> None:
    """The deepest counts, a loss without weight does not, and one that uses the estimate keeps the model whole."""
    from stillguard.nodes.bridge.protect.loss_spec import surrogates_of
    from stillguard.nodes.losses.anti_i2v import denoising, velocity_min
    from stillguard.nodes.losses.freeze import frozen_video
    from stillguard.nodes.losses.i2vguard import contrastive_frames, l2_penalty

    surrogate = surrogate_of(wan)
    key, every = id(surrogate.model), count(network_of(surrogate))
    first, second = outputs(surrogate, 0), outputs(replace(surrogate), 0, 1)
    assert surrogates_of((first, second, l2_penalty(1.0))).last_block(key) == (1 if every > 2 else None)
    assert surrogates_of((first, outputs(surrogate, every - 1, weight=0.0))).last_block(key) == 0
    for whole in (denoising, velocity_min, frozen_video):
        assert surrogates_of((first, whole(1.0, surrogate))).last_block(key) is None
    assert surrogates_of((first, contrastive_frames(1.0, surrogate, None))).last_block(key) is None
    assert surrogates_of((l2_penalty(1.0),)).last_block(key) is None


def test_two_losses_share_a_cut_model(wan: Loaded) -> None:
    """Of other noise levels and of the same: each has its own bits."""
    surrogate = surrogate_of(wan)
    check_same((outputs(surrogate, 0), attention(surrogate, 0)), photo_of(wan), 0)


def test_a_loss_that_says_nothing_of_what_it_needs_is_found_out(wan: Loaded) -> None:
    from stillguard.nodes.losses.anti_i2v import denoising, velocity_min

    surrogate = surrogate_of(wan)
    for other, error in (
        (denoising(1.0, surrogate), "cut behind block 0"),
        (velocity_min(1.0, surrogate), "cut behind block 0"),
        (outputs(surrogate, 1), "a loss reads block 1"),
    ):
        run = Run((outputs(surrogate, 0), replace(other, reads=None)), photo_of(wan))
        with pytest.raises(RuntimeError, match=error):
            run.gradient()


def with_lora(model: ModelPatcher) -> ModelPatcher:
    """On every linear layer, those of blocks that go included."""
    patched = model.clone()
    weights = {name: weight for name, weight in model.model.named_parameters() if name.endswith(".weight") and weight.ndim == 2}
    changes = {name: ("diff", (randn(*weight.shape, seed=1) * weight.float().std(),)) for name, weight in weights.items()}
    patched.add_patches({name: change for name, change in changes.items() if name.startswith("diffusion_model.")}, 0.5)
    return patched


def test_the_users_own_model_makes_the_first_video(loaded: Loaded) -> None:
    """The same bits as the whole copy's, with patches too; and it is left as it was."""
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates
    from stillguard.nodes.bridge.video.model import video_setup

    with torch.inference_mode():
        surrogate = surrogate_of(loaded, video=None, model=with_lora(loaded.model))
    photo = photo_of(loaded)
    side = photo.shape[-1]
    before = {key: value.clone() for key, value in surrogate.model.model.state_dict().items()}
    found = []
    for last_blocks in ({}, {id(surrogate.model): 0}):
        with autograd_session():
            surrogates = Surrogates(last_blocks=last_blocks)
            setup = video_setup(surrogates, surrogate)
            with surrogates.on_device(height=side, width=side, low_memory=False), surrogates.step():
                prior = setup.prior(Observation(photo))
        assert not prior.is_inference()
        found.append(prior)
    whole, cut = found
    assert torch.equal(cut, whole)
    assert count(setup.model.denoiser.network) == 1
    surrogate.model.unpatch_model(surrogate.model.offload_device)
    assert all(torch.equal(value, before[key]) for key, value in surrogate.model.model.state_dict().items())


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
    fresh = [Protected(load("Wan", folder)).run(last)[0] for last in (0, 1)]
    runs = Protected(load("Wan", folder))
    for last, copied in ((0, 1), (0, 0), (1, 1), (0, 1)):
        protected, made = runs.run(last)
        assert made == copied
        assert torch.equal(protected, fresh[last])


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


def test_a_gradient_that_overflows_fp16_is_tried_again(half: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    from comfy.ldm.wan.model import WanAttentionBlock
    from stillguard.engine.compute.half import Scales

    forward, found = WanAttentionBlock.forward, []
    monkeypatch.setattr(WanAttentionBlock, "forward", lambda block, x, *args, **kwargs: forward(block, Steep.apply(x), *args, **kwargs))
    losses = (outputs(surrogate_of(half), 0),)
    for cut in (False, True):
        tries: list[Tensor] = []
        run = Run(losses, photo_of(half), cut=cut)

        def attempt(run: Run = run, tries: list[Tensor] = tries) -> tuple[Tensor, list[Tensor]]:
            tries.append(run.gradient())
            return tries[-1], [tries[-1].sum()]

        gradient, _ = Scales().repeated(attempt)
        assert not torch.isfinite(tries[0]).all()
        found.append((gradient, len(tries)))
    (expected, often), (gradient, again) = found
    assert again == often > 1
    assert torch.isfinite(gradient).all()
    assert float(torch.cosine_similarity(gradient.flatten(), expected.flatten(), dim=0)) > 0.999


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
