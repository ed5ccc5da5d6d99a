"""Copies of a user's models: patched as he patched them, whole, in the host's memory until they run, and his model left alone."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import torch
from gpu_cases import comfy_on
from pretend_gpu import CUDA, PretendGPU, label
from stillguard.engine import Objective, Observation, Term
from stillguard.engine.draws import SeededDraws
from torch import Tensor, nn
from video_models import Loaded, load, randn

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

pytestmark = pytest.mark.usefixtures("comfy")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def wan(comfy: None, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return load("Wan", tmp_path_factory.mktemp("wan"))


def plain(model: ModelPatcher) -> ModelPatcher:
    return model


def with_lora(model: ModelPatcher) -> ModelPatcher:
    """As a LoRA loader leaves it: differences of weights, applied when core loads the model."""
    patched = model.clone()
    shapes = {key: weight for key, weight in model.model.state_dict().items() if key.startswith("diffusion_model.") and weight.ndim == 2}
    patched.add_patches({key: ("diff", (randn(*weight.shape, seed=1) * weight.float().std(),)) for key, weight in shapes.items()}, 0.5)
    return patched


def with_shift(model: ModelPatcher) -> ModelPatcher:
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    return ModelSamplingSD3().patch(model, 3.0)[0]


def from_state_dict(model: ModelPatcher) -> ModelPatcher:
    """As loaders of other packs make it: core knows no file that could give it again."""

    reloaded = with_lora(with_shift(model))
    reloaded.cached_patcher_init = None
    return reloaded


def loaded_before(model: ModelPatcher) -> ModelPatcher:
    """Core has patched its weights in place, as after a video was made with it."""
    import comfy.model_management

    patched = from_state_dict(model)
    comfy.model_management.load_models_gpu([patched])
    return patched


def gradient(loaded: Loaded, model: ModelPatcher, *, low_memory: bool) -> tuple[float, Tensor, Tensor]:
    """The loss, its gradient, and the noise level in the middle."""
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates import run_surrogates as surrogates
    from stillguard.nodes.losses.i2vguard import contrastive_frames

    photo = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with autograd_session(), mock.patch.object(surrogates, "takes_turns", return_value=low_memory):
        run = surrogates.Surrogates()
        loss = contrastive_frames(1.0, loaded.spec(model=model), torch.zeros(1, 8, 8, 3)).make(run)
        with run.on_device(height=64, width=64, low_memory=low_memory):
            leaf = (photo + 0.02 * randn(*photo.shape, seed=4)).clamp(0.01, 0.99).requires_grad_()
            with run.step():
                seen = Observation(leaf, draws=SeededDraws(5), low_memory=low_memory)
                value = Objective((Term("frames", 1.0, loss),)).backward(Observation(photo.clone()), seen)["frames"]
            sigma = loss.setup.model.denoiser.sigma(0.5, torch.zeros(1))
    return float(value), leaf.grad, sigma


@pytest.mark.parametrize("patch", [with_lora, with_shift, from_state_dict, loaded_before])
def test_a_patched_model_is_never_run_unpatched(wan: Loaded, patch: Callable[[ModelPatcher], ModelPatcher]) -> None:
    """In fast mode and in low memory, where networks take turns; and the user's own model samples as before."""
    import comfy.model_management

    with torch.inference_mode():
        model = patch(wan.model)
    unpatched, fast, low = (gradient(wan, one, low_memory=turns) for one, turns in ((wan.model, False), (model, False), (model, True)))
    assert low[0] == pytest.approx(fast[0], rel=1e-5)
    assert float((low[1] - fast[1]).norm() / fast[1].norm()) < 1e-4
    assert torch.equal(low[2], fast[2])
    assert float(torch.cosine_similarity(unpatched[1].flatten(), fast[1].flatten(), dim=0)) < 0.99
    # What core itself makes of the patches.
    with torch.inference_mode():
        comfy.model_management.load_models_gpu([model], force_full_load=True)
        theirs = {key: value.clone() for key, value in model.model.state_dict().items()}
        sigma = model.get_model_object("model_sampling").percent_to_sigma(0.5)
    assert float(fast[2]) == pytest.approx(float(sigma))
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.memory.copies import independent_copy

    with autograd_session():
        ours = independent_copy(model).model.state_dict()
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())
    comfy.model_management.unload_all_models()


def test_a_patch_that_only_cores_loading_applies_is_refused(wan: Loaded) -> None:
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.memory.copies import independent_copy

    model = wan.model.clone()
    model.add_weight_wrapper("diffusion_model.head.head.weight", lambda weight: weight)
    with autograd_session(), pytest.raises(ValueError, match="connect it without that patch"):
        independent_copy(model)


def test_a_copy_is_made_in_the_hosts_memory() -> None:
    """A model that lies on the GPU is not doubled there, not even for a moment."""
    from comfy.model_patcher import ModelPatcher
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.memory.copies import independent_copy

    with PretendGPU() as gpu:
        model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64)).to("cuda")
        before = gpu.used
        gpu.peak = before
        with autograd_session():
            twin = independent_copy(ModelPatcher(model, CUDA, CPU)).model
        assert gpu.peak == before
        assert {label(tensor) for tensor in twin.state_dict().values()} == {CPU}
        assert {label(tensor) for tensor in model.state_dict().values()} == {CUDA}
        assert all(torch.equal(twin.state_dict()[key], value.cpu()) for key, value in model.state_dict().items())


class Handle:
    """Native memory: whoever dies last frees it."""

    def __deepcopy__(self, memo: object) -> Handle:
        raise AssertionError("a handle was copied")

    def __del__(self) -> None:
        pass


@pytest.mark.parametrize("name", ["_v", "_v_block", "_comfy_graph", "_pins", "anything"])
@pytest.mark.parametrize("wrapped", [lambda handle: handle, lambda handle: {"device": [handle]}], ids=["plain", "inside"])
def test_native_handles_are_never_copied(name: str, wrapped: Callable[[Handle], object]) -> None:
    """Under dynamic VRAM models hold pointers; a copy that frees one frees the original's memory."""
    from comfy.model_patcher import ModelPatcher
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.memory.copies import independent_copy

    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model.dynamic_pins, model.current_patcher = {"device": Handle()}, ModelPatcher(nn.Linear(1, 1), CPU, CPU)
    model[0]._v_signature, model[0].scale = 7, 0.5
    held = wrapped(Handle())
    setattr(model[1], name, held)
    with autograd_session():
        twin = independent_copy(ModelPatcher(model, CPU, CPU)).model
    assert torch.equal(twin[0].weight, model[0].weight)
    assert twin[0].weight.data_ptr() != model[0].weight.data_ptr()
    assert not {"dynamic_pins", "_v_signature", name} & {key for part in twin.modules() for key in vars(part)}
    assert twin.current_patcher is None
    assert twin[0].scale == 0.5
    assert getattr(model[1], name) is held


def test_the_compiler_is_off_while_gradients_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """In versions of ComfyUI that have the switch; afterwards it is as the user set it."""
    import comfy.cli_args
    from stillguard.nodes.bridge.autograd import autograd_session

    monkeypatch.setattr(comfy.cli_args.args, "disable_comfy_compiler", False, raising=False)
    with autograd_session():
        assert comfy.cli_args.args.disable_comfy_compiler
    assert not comfy.cli_args.args.disable_comfy_compiler


@pytest.mark.parametrize("low_memory", [False, True])
def test_the_first_video_is_made_with_the_model_that_is_there(wan: Loaded, low_memory: bool) -> None:
    """Core loads nothing meanwhile, its numbers are those of core's sampler, and a cancelled run ends."""
    import comfy.model_management as management
    from comfy.model_patcher import ModelPatcher
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates import run_surrogates as surrogates
    from stillguard.nodes.bridge.video.model import video_setup

    import nodes

    photo = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with autograd_session(), mock.patch.object(surrogates, "takes_turns", return_value=low_memory):
        run = surrogates.Surrogates()
        setup = video_setup(run, wan.spec())
        with run.on_device(height=64, width=64, low_memory=low_memory):
            with mock.patch.object(ModelPatcher, "load", side_effect=AssertionError("core loads")):
                prior = setup.prior(Observation(photo))
            prepared, sampling = setup.model.conditioner.prepare(photo), wan.spec().sampling
            management.interrupt_current_processing()
            with pytest.raises(management.InterruptProcessingException):
                setup.model.prior(photo)
        with torch.no_grad():
            how = (sampling.seed, sampling.steps, sampling.cfg, sampling.sampler, sampling.scheduler)
            latent = {"samples": prepared.samples}
            (theirs,) = nodes.common_ksampler(wan.model, *how, prepared.positive, prepared.negative, latent)
    torch.testing.assert_close(prior, wan.model.model.process_latent_in(theirs["samples"]), rtol=0, atol=1e-5)


def test_a_measures_network_that_was_taken_away_in_part_comes_back_whole(comfy: None) -> None:
    """ComfyUI frees memory for other models module by module; parameters of a module with children never move."""
    import comfy.model_management as management
    from stillguard.engine.metrics.networks.dino import DinoTransformer
    from stillguard.nodes.bridge.evaluate.compare import on_device

    network = DinoTransformer(width=64, depth=2, patch=16, positions=197).eval().requires_grad_(False)
    with comfy_on(PretendGPU()) as gpu:
        hooks = on_device(network)
        pictures = torch.rand(1, 3, 224, 224, device=CUDA)
        whole = network(pictures)
        (entry,) = management.current_loaded_models
        assert entry.model.partially_unload(CPU, 1e4) > 0
        assert {label(tensor) for tensor in network.state_dict().values()} == {CPU, CUDA}
        assert torch.equal(network(pictures), whole)
        for hook in hooks:
            hook.remove()
        del entry, network, hooks, pictures, whole
        management.unload_all_models()
        assert gpu.used == 0


def test_a_copy_dies_with_its_run(wan: Loaded) -> None:
    """Without the garbage collector, after fast and low memory."""
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates import run_surrogates as surrogates
    from stillguard.nodes.bridge.video.model import video_setup

    gc.collect()
    gc.disable()
    try:
        for low_memory in (False, True):
            with autograd_session(), mock.patch.object(surrogates, "takes_turns", return_value=low_memory):
                run: Any = surrogates.Surrogates()
                model = video_setup(run, wan.spec()).model
                with run.on_device(height=64, width=64, low_memory=low_memory):
                    pass
                alive = weakref.ref(model.denoiser.patcher.model)
                del run, model
                assert alive() is None
    finally:
        gc.enable()


class Kept:
    """Protects with the Wan model and notes how often core's loader was asked for a copy."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded

    def run(self, *, low_memory: bool = False) -> tuple[Tensor, int]:
        from comfy.model_patcher import ModelPatcher
        from stillguard.engine import RGB, Sign
        from stillguard.nodes.bridge.protect.run import Settings, protect_images, space_spec
        from stillguard.nodes.losses.i2vguard import contrastive_frames

        photo = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
        losses = (contrastive_frames(1.0, self.loaded.spec(), torch.zeros(1, 8, 8, 3)),)
        settings = Settings(space_spec(RGB(8.0)), Sign(1.0), None, 64, 1, 1, low_memory=low_memory)
        with torch.inference_mode(), mock.patch.object(ModelPatcher, "clone", autospec=True, side_effect=ModelPatcher.clone) as copies:
            protected, *_ = protect_images(photo, losses, settings, mask=None, node_id=None)
        return protected, copies.call_count


@pytest.fixture
def run(tmp_path: Path) -> Kept:
    return Kept(load("Wan", tmp_path))


def test_the_next_run_finds_the_copies(run: Kept) -> None:
    first, made = run.run()
    again, anew = run.run()
    assert made > 0
    assert anew == 0
    assert torch.equal(again, first)
    # Networks that take turns start where the others' run left them.
    assert run.run(low_memory=True)[1] == 0


def test_copies_are_freed_when_comfyui_asks_and_when_their_models_go(run: Kept) -> None:
    import comfy.model_management as management
    from stillguard.nodes.bridge.memory import copies

    gc.collect()
    before = len(copies._KEPT)
    run.run()
    assert len(copies._KEPT) > before
    weights = [weakref.ref(twin.model) for _, twin in copies._KEPT.values()]
    management.unload_all_models()
    assert len(copies._KEPT) == before
    left = [weight for model in weights if model() is not None for weight in model().parameters()]
    assert all(weight.is_meta for weight in left)
    run.run()
    run.loaded = None  # type: ignore[assignment]
    gc.collect()
    assert len(copies._KEPT) == before


def test_copies_are_not_kept_where_the_hosts_memory_is_full() -> None:
    import comfy.model_management as management
    from comfy.model_patcher import ModelPatcher
    from stillguard.nodes.bridge.memory import copies

    original, twin = (ModelPatcher(nn.Linear(2, 2), CPU, CPU) for _ in range(2))
    for free, kept in ((twin.model_size(), False), (twin.model_size() + 1, True)):
        with mock.patch.object(management, "get_free_memory", return_value=free):
            copies.keep(original, None, twin)
        assert (original in copies._KEPT) == kept
