"""Networks of the real size, with random weights under the published files' keys, through the nodes of a real server.

Takes about 15 GB of disk, 20 GB of memory and twenty minutes on two cores: `nox -s tests -- tests/comfy/test_real_size.py --slow`;
with `--junitxml=FILE` the losses and the peak of memory stand in that file.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from bench import animator_files
from bench.home import save_astronaut, save_example_poses
from bench.server import ComfyServer
from support import Graph, node

pytestmark = pytest.mark.slow
LIMIT_GB = 24
# Where each published file goes, by its list of keys.
FILES = {
    "moore_reference_unet": "stillguard/reference_unet.safetensors",
    "magicanimate_appearance_encoder": "stillguard/magicanimate_appearance_encoder.safetensors",
    "moore_denoising_unet": "stillguard/denoising_unet.safetensors",
    "moore_motion_module": "stillguard/motion_module.safetensors",
    "moore_pose_guider": "stillguard/pose_guider.safetensors",
    "sd_vae_ft_mse": "vae/vae.safetensors",
    "sd_image_variations_image_encoder": "clip_vision/encoder.safetensors",
    "sd15_text_encoder": "text_encoders/clip.safetensors",
}


def write_files(manifests: Path, models: Path) -> None:
    for seed, (name, file) in enumerate(FILES.items()):
        animator_files.from_manifest(manifests / f"{name}.json", models / file, seed=seed)
    # The real file holds five networks; the published container is a pickle.
    keys = json.loads((manifests / "magicpose_model_state.json").read_text())["keys"]
    state = animator_files.random_state({key: tuple(shape) for key, (shape, _) in keys.items()}, 20, torch.float16)
    torch.save({"state_dict": state}, models / "stillguard" / "model_state-110000.th")


@pytest.fixture(scope="module")
def full_size(tmp_path_factory: pytest.TempPathFactory, shared: Path, vgg_file: Path) -> Iterator[ComfyServer]:
    base = tmp_path_factory.mktemp("full")
    # In a process of its own, which gives its memory back.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        pool.submit(write_files, shared / "vectors" / "manifests", base / "models").result()
    shutil.copy(vgg_file, base / "models" / "stillguard")
    (base / "input").mkdir()
    save_astronaut(base / "input" / "astronaut.png")
    save_example_poses(base / "input")
    try:
        with ComfyServer(base, threads=2) as running:
            yield running
    finally:
        shutil.rmtree(base)


def test_one_step_with_every_term_at_512_pixels(full_size: ComfyServer, record_testsuite_property: Callable[[str, object], None]) -> None:
    """Every key of every file has its place, or a loader would have named it."""
    nets = {"net0": "reference_unet.pth", "net1": "magicanimate_appearance_encoder.safetensors", "net2": "model_state-110000.th"}
    parts = {"denoising_unet": "denoising_unet.pth", "motion_module": "motion_module.pth", "pose_guider": "pose_guider.pth"}
    weights = {"vae_weight": 10.0, "clip_weight": 10.0, "reference_weight": 100.0, "frame_weight": 1.0, "lpips_weight": 10.0}
    settings = {"profile": "recommended", "budget": 8.0, "steps": 1, "seed": 1, "working_size": 512, "memory": "low memory"}
    sources = {"image": "load", "vae": "vae", "clip_vision": "encoder", "clip": "clip", "pose_animator": "animator", "pose": "pose"}
    links = {name: [source, 0] for name, source in sources.items()} | {f"reference_nets.reference_net{i}": [f"net{i}", 0] for i in range(3)}
    graph: Graph = {
        "load": node("LoadImage", image="astronaut.png"),
        "pose": node("LoadImage", image="pose.png"),
        "vae": node("VAELoader", vae_name="vae.safetensors"),
        "encoder": node("CLIPVisionLoader", clip_name="encoder.safetensors"),
        "clip": node("CLIPLoader", clip_name="clip.safetensors", type="stable_diffusion", device="default"),
        **{key: node("StillguardLoadReferenceNet", file=file, precision="bf16") for key, file in nets.items()},
        "animator": node("StillguardLoadPoseAnimator", **parts, precision="bf16"),
        "dormant": node("StillguardDormant", **links, **settings, **weights, lpips_backbone="lpips_vgg16.safetensors"),
        "save": node(
            "StillguardSaveProtectedImage",
            images=["dormant", 0],
            clean=["load", 0],
            filename_prefix="full",
            format="png",
            budget=8.0,
            keep_workflow=False,
        ),
    }
    with full_size.client(silence_seconds=3000) as client:
        result = client.run(graph)
    assert result.status == "success", result.error
    assert "differs by at most 8 levels" in result.outputs["save"]["text"][0]
    told = next(text for event in result.of("binary3") if "Frame Incoherence" in (text := event.payload.decode("utf-8", "replace")))
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{full_size.process.pid}/status").read_text())[1]) / 1e6
    record_testsuite_property("losses", told)
    record_testsuite_property("peak GB", peak)
    assert "nan" not in told
    assert peak < LIMIT_GB
