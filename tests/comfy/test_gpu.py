"""Every node that computes, on a pretend GPU in every memory state of ComfyUI: the CPU's numbers, no byte left, core's books right."""

from __future__ import annotations

import contextlib
import gc
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from gpu_cases import CASES, ON_THE_HOST, comfy_on, mask, metric_files, photo
from pretend_gpu import CUDA, PretendGPU, label
from stillguard.engine.picture import to_levels
from torch import Tensor

pytestmark = pytest.mark.usefixtures("comfy")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, vgg_file: Path, comfy: None) -> Iterator[Path]:
    import folder_paths

    folder = tmp_path_factory.mktemp("gpu")
    (folder / vgg_file.name).symlink_to(vgg_file)
    metric_files(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(folder_paths.folder_names_and_paths, "stillguard", ([str(folder)], {".pth", ".safetensors"}))
        yield folder


@pytest.fixture(scope="module")
def on_cpu(folder: Path) -> dict[tuple[str, bool], Tensor]:
    return {}


FOOTPRINTS: dict[tuple[Any, ...], Any] = {}


@contextlib.contextmanager
def counted_once(name: str, *, low_memory: bool) -> Iterator[None]:
    """How much memory a case takes is counted in its first run on the pretend GPU: there counting takes as long as all the rest.

    It reads shapes alone, so that it finds the same in every state of the device.
    """
    from stillguard.nodes.bridge.memory import room

    count, calls = room._counted, itertools.count()

    def remembered(each: Any, *size: Any) -> Any:
        key = (name, low_memory, next(calls), each.kind, *size)
        if key not in FOOTPRINTS:
            FOOTPRINTS[key] = count(each, *size)
        return FOOTPRINTS[key]

    with mock.patch.object(room, "_counted", remembered):
        yield


def run(name: str, folder: Path, *, low_memory: bool) -> Tensor:
    case = CASES[name]
    with torch.inference_mode(), counted_once(name, low_memory=low_memory):
        return (case.run(folder, low_memory=low_memory) if case.low_memory else case.run(folder)).cpu()


def expected(name: str, folder: Path, on_cpu: dict[tuple[str, bool], Tensor], *, low_memory: bool) -> Tensor:
    import comfy.cli_args

    key = (name, low_memory)
    if key not in on_cpu:
        with mock.patch.object(comfy.cli_args.args, "fp32_text_enc", True):
            on_cpu[key] = run(name, folder, low_memory=low_memory)
    return on_cpu[key]


def check_books() -> None:
    """What core believes of each loaded model is so."""
    import comfy.model_management as management

    for loaded in management.current_loaded_models:
        assert loaded.model is not None
        here = sum(tensor.nbytes for tensor in loaded.model.model.state_dict().values() if label(tensor) == CUDA)
        assert abs(here - loaded.model.loaded_size()) <= 0.05 * here + 4096, type(loaded.model.model).__name__
    assert not management.in_training


STATES: dict[str, dict[str, Any]] = {
    "normal": {},
    "lowvram": {"vram": "LOW_VRAM"},
    "novram": {"vram": "NO_VRAM"},
    "highvram": {"vram": "HIGH_VRAM"},
    "cpu-vae": {"cpu_vae": True},
}
# Their like runs without --slow: another model of the same layers, another purifier with the same network.
SLOW = {
    ("I2VGuard, Wan Animate", True),
    ("I2VGuard, CogVideoX", True),
    ("I2VGuard, Hunyuan (concat)", True),
    ("I2VGuard, given video", True),
    ("Purify (DiffPure), ADM", False),
    ("I2VGuard, SVD", False),
    ("Inpainting losses", False),
    ("Inpainting Baseline", True),
    ("Latent Space, one step", False),
    ("Latent Space, one step", True),
    ("Latent Space, decoder", True),
    ("Latent Space, as published", False),
    ("I2VGuard, given video", False),
    ("Anti-I2V, the preset", False),
    ("Anti-I2V, the preset", True),
    ("Anti-I2V's losses", False),
    ("Dual Space", True),
    ("Baselines' losses", False),
    ("Mist v1", True),
    ("VGMShield", True),
    ("Audio Nullifying", False),
    ("Silencer", False),
    ("Silencer", True),
    ("Dormant, reference", False),
}
RUNS = [(name, low) for name, case in CASES.items() for low in ((False, True) if case.low_memory else (False,))]
# One of each way to use the device, for what is the same for all others.
WAYS = [
    ("Protect", False),
    ("Diffusion Surrogate", True),
    ("Protect", True),
    ("Dormant, recommended", True),
    ("I2VGuard, Wan", False),
    ("I2VGuard, Wan", True),
    ("Animate (Pose)", False),
    ("Purify (Impress)", False),
    ("Purify (DDSPure), latents", False),
    ("Latent Space, as published", True),
]


# Of these, without --slow: whole on the device, and by turns.
QUICK = {("Protect", False), ("I2VGuard, Wan", True)}


def marked(runs: list[tuple[str, bool]], slow: set[tuple[str, bool]]) -> list[Any]:
    """Parameters with names that can be read; those in `slow` run with --slow only."""
    return [
        pytest.param(name, low, id=f"{name}{', low memory' if low else ''}", marks=[pytest.mark.slow] if (name, low) in slow else [])
        for name, low in runs
    ]


@contextlib.contextmanager
def nothing_left(gpu: PretendGPU) -> Iterator[None]:
    """Afterwards, and after all models have left, every byte is back, without the garbage collector's help."""
    import comfy.model_management as management

    gc.collect()
    gc.disable()
    try:
        yield
        check_books()
        management.unload_all_models()
        assert gpu.used < 100_000  # kornia keeps its JPEG tables
    finally:
        gc.enable()


def check_values(name: str, found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape
    if CASES[name].drawn:
        assert found.isfinite().all()
    else:
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize(("name", "low_memory"), marked(RUNS, SLOW))
def test_every_node(name: str, low_memory: bool, folder: Path, on_cpu: dict[tuple[str, bool], Tensor]) -> None:
    wanted = expected(name, folder, on_cpu, low_memory=low_memory)
    with comfy_on(PretendGPU()) as gpu, nothing_left(gpu):
        check_values(name, run(name, folder, low_memory=low_memory), wanted)
        assert gpu.allocations > 0 or name == ON_THE_HOST


@pytest.mark.parametrize(("name", "low_memory"), marked(WAYS, {("Latent Space, as published", True)}))
@pytest.mark.parametrize("state", ["novram", "cpu-vae"])
def test_other_states(name: str, low_memory: bool, state: str, folder: Path, on_cpu: dict[tuple[str, bool], Tensor]) -> None:
    wanted = expected(name, folder, on_cpu, low_memory=low_memory)
    with comfy_on(PretendGPU(), **STATES[state]) as gpu, nothing_left(gpu):
        check_values(name, run(name, folder, low_memory=low_memory), wanted)


@pytest.mark.parametrize(("name", "low_memory"), marked(WAYS, set(WAYS) - {("Protect", False)}))
@pytest.mark.parametrize("state", ["lowvram", "highvram"])
def test_states_like_the_normal_one(name: str, low_memory: bool, state: str, folder: Path, on_cpu: dict[tuple[str, bool], Tensor]) -> None:
    """Weights are whole on the device there too."""
    test_other_states(name, low_memory, state, folder, on_cpu)


def test_measures_without_vram(folder: Path, on_cpu: dict[tuple[str, bool], Tensor]) -> None:
    wanted = expected("Compare Videos", folder, on_cpu, low_memory=False)
    with comfy_on(PretendGPU(), **STATES["novram"]) as gpu, nothing_left(gpu):
        check_values("Compare Videos", run("Compare Videos", folder, low_memory=False), wanted)


@pytest.mark.parametrize(("name", "low_memory"), marked(WAYS, set(WAYS) - {*QUICK, ("Purify (Impress)", False)}))
def test_mishaps(name: str, low_memory: bool, folder: Path, on_cpu: dict[tuple[str, bool], Tensor]) -> None:
    """Cancelled in the middle, out of memory in the middle, too little memory from the start; and then it runs as ever."""
    import comfy.model_management as management

    wanted = expected(name, folder, on_cpu, low_memory=low_memory)
    with comfy_on(PretendGPU()) as gpu, nothing_left(gpu):
        looks = mock.Mock(side_effect=[None, management.InterruptProcessingException])
        with mock.patch.object(management, "throw_exception_if_processing_interrupted", looks):
            assert ended(name, folder, low_memory=low_memory) is management.InterruptProcessingException
        check_books()
        gpu.allocations = 0
        check_values(name, run(name, folder, low_memory=low_memory), wanted)
        gpu.fail_at, gpu.allocations = 0.6 * gpu.allocations, 0
        assert ended(name, folder, low_memory=low_memory) is torch.OutOfMemoryError
        check_books()
        gpu.fail_at = float("inf")
        management.unload_all_models()  # as ComfyUI does then
        check_values(name, run(name, folder, low_memory=low_memory), wanted)


def ended(name: str, folder: Path, *, low_memory: bool) -> type[BaseException] | None:
    """With which exception a run ends. The exception itself would hold everything that the run had."""
    try:
        run(name, folder, low_memory=low_memory)
    except BaseException as error:
        return type(error)
    return None


@pytest.mark.parametrize("low_memory", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_half_precision(low_memory: bool, folder: Path) -> None:
    """As "auto" chooses it on a GPU: another picture than in fp32, and as sound a one."""
    clean = photo()
    with comfy_on(PretendGPU(), half=True) as gpu, nothing_left(gpu):
        found = run("Protect", folder, low_memory=low_memory)[..., :3]
    change = (to_levels(found) - to_levels(clean)).abs().amax(dim=-1)[0]
    soft = mask()[0] * 8
    assert found.isfinite().all()
    assert (change <= soft + 1e-3).all()
    assert float((change > 0)[soft > 0].float().mean()) > 0.9
