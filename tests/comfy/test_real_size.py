"""Networks of the real size, with random weights under the published files' keys, through the nodes of a real server.

Takes about 15 GB of disk, 20 GB of memory and half an hour on two cores: `nox -s tests -- tests/comfy/test_real_size.py --slow -n0`;
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
from bench.face_files import FILE, face_detector
from bench.home import save_astronaut, save_example_poses, save_voice
from bench.server import ComfyServer
from support import Graph, node

pytestmark = pytest.mark.slow
LIMIT_GB = 24
SILENCERS_LIMIT_GB = 20
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

SAVED = {"filename_prefix": "full", "format": "png", "budget": 8.0, "keep_workflow": False}
TALKING_FILES = {"hallo_net": "stillguard/net.safetensors", "sd_vae_ft_mse": "vae/vae.safetensors"}


def write_talking_files(manifests: Path, models: Path) -> None:
    for seed, (name, file) in enumerate(TALKING_FILES.items()):
        animator_files.from_manifest(manifests / f"{name}.json", models / file, seed=seed)
    face_detector(models / "detection")


def write_files(manifests: Path, models: Path) -> None:
    for seed, (name, file) in enumerate(FILES.items()):
        animator_files.from_manifest(manifests / f"{name}.json", models / file, seed=seed)
    # The real file holds five networks; the published container is a pickle.
    keys = json.loads((manifests / "magicpose_model_state.json").read_text())["keys"]
    state = animator_files.random_state({key: tuple(shape) for key, (shape, _) in keys.items()}, 20, torch.float16)
    torch.save({"state_dict": state}, models / "stillguard" / "model_state-110000.th")


def served(base: Path, write: Callable[[Path, Path], None], manifests: Path) -> Iterator[ComfyServer]:
    """A server whose models `write(manifests, models)` made; the folder is removed after."""
    # In a process of its own, which gives its memory back.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        pool.submit(write, manifests, base / "models").result()
    (base / "input").mkdir()
    save_astronaut(base / "input" / "astronaut.png")
    save_example_poses(base / "input")
    try:
        with ComfyServer(base, packs=[Path(__file__).parents[1] / "testkit"], threads=2) as running:
            yield running
    finally:
        shutil.rmtree(base)


@pytest.fixture
def full_size(tmp_path: Path, shared: Path, vgg_file: Path) -> Iterator[ComfyServer]:
    (tmp_path / "models" / "stillguard").mkdir(parents=True)
    shutil.copy(vgg_file, tmp_path / "models" / "stillguard")
    yield from served(tmp_path, write_files, shared / "vectors" / "manifests")


@pytest.fixture
def full_talking_head(tmp_path: Path, shared: Path) -> Iterator[ComfyServer]:
    yield from served(tmp_path, write_talking_files, shared / "vectors" / "manifests")


def peak_gb(server: ComfyServer) -> float:
    """The most memory that the server has held."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{server.process.pid}/status").read_text())[1]) / 1e6


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
        "save": node("StillguardSaveProtectedImage", images=["dormant", 0], clean=["load", 0], **SAVED),
    }
    with full_size.client(silence_seconds=3000) as client:
        result = client.run(graph)
    assert result.status == "success", result.error
    assert "differs by at most 8 levels" in result.outputs["save"]["text"][0]
    told = next(text for event in result.of("binary3") if "Frame Incoherence" in (text := event.payload.decode("utf-8", "replace")))
    peak = peak_gb(full_size)
    record_testsuite_property("losses", told)
    record_testsuite_property("peak GB", peak)
    assert "nan" not in told
    assert peak < LIMIT_GB


def test_one_step_of_silencer_at_512_pixels(
    full_talking_head: ComfyServer, record_testsuite_property: Callable[[str, object], None]
) -> None:
    """Hallo's networks and Stable Diffusion's VAE; the audio encoder has wav2vec2-base's layers and widths."""
    save_voice(full_talking_head.base / "input" / "voice.wav", tone=220)
    settings = {"profile": "recommended", "stages": "first", "budget": 8.0, "steps": 1, "second_steps": 2, "seed": 1}
    sources = {"talking_head": "head", "vae": "vae", "audio_encoder": "encoder", "audio": "sound", "image": "load"}
    links = {name: [source, 0] for name, source in sources.items()} | {"face_detection_model": ["detector", 0]}
    graph: Graph = {
        "load": node("LoadImage", image="astronaut.png"),
        "sound": node("LoadAudio", audio="voice.wav"),
        "head": node("StillguardLoadTalkingHead", file="net.safetensors", precision="bf16"),
        "vae": node("VAELoader", vae_name="vae.safetensors"),
        "encoder": node("TestkitTinyAudioEncoder", layers=12, width=768),
        "detector": node("LoadMediaPipeFaceLandmarker", model_name=FILE),
        "silencer": node("StillguardSilencer", **links, **settings, working_size=512, memory="fast"),
        "save": node("StillguardSaveProtectedImage", images=["silencer", 0], clean=["load", 0], **SAVED),
    }
    with full_talking_head.client(silence_seconds=3000) as client:
        result = client.run(graph)
    assert result.status == "success", result.error
    told = next(text for event in result.of("binary3") if "Audio Nullifying" in (text := event.payload.decode("utf-8", "replace")))
    peak = peak_gb(full_talking_head)
    record_testsuite_property("Silencer's losses", told)
    record_testsuite_property("Silencer's peak GB", peak)
    assert "nan" not in told
    assert peak < SILENCERS_LIMIT_GB
