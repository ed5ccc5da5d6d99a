"""Real parts for all tests: trained networks, photos, and what lies beside the repository when it does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from bench import animator_files, cpu_shim, video_files
from bench.face_files import face_detector
from bench.home import save_astronaut, save_drawing, save_example_poses, save_voice
from bench.paths import BENCH
from bench.pose_clip import save_pose_clip
from bench.server import ComfyServer, link_folder
from bench.stub_packs import write_stub_packs
from bench.weights import lpips_backbone
from torch import Tensor

cpu_shim.install()

# One thread for a process: small networks spend their time waiting for each other's threads, and workers side by side even more.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("STILLGUARD_SHARED", ROOT.parent / "shared"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run what takes long or needs much memory")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One worker for each core that has the memory: ComfyUI, its server and a browser, each once in a worker.

    None for files and names: they are done before a second worker has begun.
    """
    if config.option.keyword or any(Path(argument.partition("::")[0]).is_file() for argument in config.args):
        return 0
    each = 20 if config.getoption("--slow") else 4
    # More than eight would only wait for the longest file.
    return min(8, os.cpu_count() or 1, max(1, psutil.virtual_memory().total // (each * 2**30)))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Workers take file after file. The engine's are many and short: as the last ones they let all workers end together.
    items.sort(key=lambda item: ROOT / "tests" / "engine" in item.path.parents)
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow: add --slow to run it"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference data that developers have beside the repository; a fresh clone does without."""
    if not (SHARED / "vectors" / "golden").is_dir():
        pytest.skip(f"no reference data at {SHARED}; set STILLGUARD_SHARED")
    return SHARED


@pytest.fixture(scope="session")
def astronaut() -> Tensor:
    """scikit-image's photo of Eileen Collins (NASA, public domain) at 256 px, [1,3,256,256] on the 8-bit grid."""
    from PIL import Image
    from skimage import data

    picture = Image.fromarray(data.astronaut()).resize((256, 256), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255


@pytest.fixture(scope="session")
def vgg_file() -> Path:
    """The real VGG16 weights, converted into the bench's cache."""
    return lpips_backbone(BENCH / "weights")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, vgg_file: Path) -> Iterator[ComfyServer]:
    """One real ComfyUI server for all tests, with the pack, a photo, the LPIPS weights and the testkit nodes."""
    base = tmp_path_factory.mktemp("comfy")
    (base / "input").mkdir()
    # Small, since LPIPS of whole photos takes longer than all that small models do with them.
    save_astronaut(base / "input" / "astronaut.png", side=256)
    save_pose_clip(base / "input" / "pose.mp4", frames=5)
    save_example_poses(base / "input")
    save_drawing(base / "input")
    for name, tone in (("speech.wav", 330), ("voice.wav", 220)):
        save_voice(base / "input" / name, tone=tone)
    weights = base / "models" / "stillguard"
    weights.mkdir(parents=True)
    shutil.copy(vgg_file, weights)
    animator_files.face_animator(weights)
    animator_files.publish(weights)
    # As much speech as TestkitTinyAudioEncoder gives.
    animator_files.talking_head(weights, widths=(32, 32, 64, 64), context=16, audio=(5 * 2 * 16, 6, 24))
    face_detector(base / "models" / "detection")
    animator_files.stable_diffusion(base / "models" / "checkpoints")
    video_files.publish(base / "models")
    # One thread: with more, small networks spend their time waiting for each other on a busy machine.
    with ComfyServer(base, packs=[ROOT / "tests" / "testkit"], threads=1) as running:
        yield running


@pytest.fixture(scope="session")
def pack_server(server: ComfyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """As `server`, with its files and with a stand-in for each third-party pack that a workflow attacks with."""
    base = tmp_path_factory.mktemp("packs")
    for folder in ("models", "input"):
        link_folder(server.base / folder, base / folder)
    with ComfyServer(base, packs=[ROOT / "tests" / "testkit", *write_stub_packs(base / "stubs")], threads=1) as running:
        yield running
