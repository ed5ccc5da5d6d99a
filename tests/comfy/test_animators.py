"""The animator as a victim, and the files of animators, in the real server."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from bench import animator_files
from bench.client import Client
from bench.server import ComfyServer
from dormant_graphs import NETS, dormant_graph, sources
from PIL import Image
from safetensors.torch import load_file, save_file
from support import Graph, node


def animation(name: str, image: list[object], **changed: object) -> Graph:
    victim = {"pose_animator": ["animator", 0], "reference_net": ["net0", 0], "vae": ["vae", 0], "clip_vision": ["encoder", 0]}
    settings = {"seed": 7, "steps": 3, "guidance": 3.5, "working_size": 192, "window": 24, "overlap": 4}
    saving = {"filename_prefix": f"test/{name}", "format": "png", "budget": 64.0, "keep_workflow": False}
    return {
        name: node("StillguardAnimatePose", **victim, image=image, **{"pose": ["poses", 0], **settings, **changed}),
        f"save {name}": node("StillguardSaveProtectedImage", images=[name, 0], **saving),
    }


def poses(frames: int = 3) -> Graph:
    return {"poses": node("RepeatImageBatch", image=["pose", 0], amount=frames)}


def frames_of(client: Client, result: object, name: str) -> np.ndarray:
    pictures = [client.view(image) for image in result.outputs[f"save {name}"]["images"]]
    return np.stack([np.array(Image.open(io.BytesIO(picture))).astype(int) for picture in pictures])


def test_the_animator_tells_clean_from_protected_and_is_deterministic(client: Client) -> None:
    graph = dormant_graph() | poses()
    # The same picture from another node, so that the second video is really made and does not come from the cache.
    graph["copy"] = node("ImageScale", image=["load", 0], upscale_method="area", width=128, height=192, crop="disabled")
    graph["again"] = node("ImageBatch", image1=["copy", 0], image2=["copy", 0])
    graph |= animation("clean", ["small", 0]) | animation("copy video", ["again", 0]) | animation("protected", ["dormant", 0])
    result = client.run(graph)
    assert result.status == "success", result.error
    clean, same, protected = (frames_of(client, result, name) for name in ("clean", "copy video", "protected"))
    assert clean.shape == (3, 192, 128, 3)
    assert np.array_equal(clean, same)
    assert np.abs(clean - protected).max() > 2
    steps = [event.data["value"] for event in result.of("progress") if event.data["node"] == "clean"]
    assert steps[-1] == 3


def test_long_sequences_and_other_seeds(client: Client) -> None:
    graph = sources() | poses(7) | animation("long", ["small", 0], window=4, overlap=2, seed=8, working_size=128)
    graph |= animation("whole", ["small", 0], seed=8, working_size=128) | animation("other", ["small", 0], seed=9, working_size=128)
    result = client.run(graph)
    assert result.status == "success", result.error
    long, whole, other = (frames_of(client, result, name) for name in ("long", "whole", "other"))
    assert long.shape == whole.shape == (7, 128, 88, 3)
    assert np.abs(long - whole).max() > 0
    assert np.abs(whole - other).mean() > np.abs(long - whole).mean()


def test_an_animation_can_be_cancelled(client: Client) -> None:
    def cancel(event: object) -> None:
        if event.type == "progress" and event.data["value"] >= 2:
            client.interrupt()

    result = client.run(sources() | poses(4) | animation("cancelled", ["small", 0], steps=1000, seed=10), cancel)
    assert result.status == "interrupted"
    assert client.run(sources() | poses(2) | animation("after", ["small", 0], seed=10)).status == "success"


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"window": 8, "overlap": 8}, "choose an overlap from 0 to 7"),
        ({"reference_net": ["net1", 0]}, "is a ReferenceNet of MagicAnimate, which this animator cannot read: load reference_unet.pth"),
    ],
)
def test_mistakes_with_the_animator(client: Client, changed: dict[str, object], sentence: str) -> None:
    graph = sources() | poses() | animation("mistaken", ["small", 0])
    graph["mistaken"]["inputs"] |= changed
    result = client.run(graph)
    assert result.status == "error"
    assert sentence in result.error


@pytest.fixture
def wrong_file(server: ComfyServer) -> Iterator[Callable[[str, bytes], str]]:
    written: list[Path] = []

    def write(name: str, content: bytes) -> str:
        written.append(server.base / "models" / "stillguard" / name)
        written[-1].write_bytes(content)
        return name

    yield write
    for file in written:
        file.unlink()


class Harmful:
    def __reduce__(self) -> tuple[object, ...]:
        return exec, ("raise SystemExit('ran')",)


def pickled() -> bytes:
    buffer = io.BytesIO()
    torch.save({"conv_in.weight": Harmful()}, buffer)
    return buffer.getvalue()


def sdxl(folder: Path) -> bytes:
    state = load_file(animator_files.stable_diffusion(folder))
    save_file({**state, "model.diffusion_model.label_emb.0.0.weight": torch.zeros(1)}, folder / "sdxl.safetensors")
    return (folder / "sdxl.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("pickled.pth", "holds program code instead of bare weights, and nothing of it was run"),
        ("truncated.pth", "is damaged or was not downloaded to its end: download it again"),
        ("sdxl.safetensors", "is an SDXL UNet, and only the Stable Diffusion 1.5 family works here"),
        ("swapped.pth", "is not a ReferenceNet: choose AnimateAnyone's reference_unet.pth"),
    ],
)
def test_wrong_files_as_reference_net(
    client: Client, server: ComfyServer, wrong_file: Callable[[str, bytes], str], tmp_path: Path, name: str, sentence: str
) -> None:
    folder = server.base / "models" / "stillguard"
    contents = {
        "pickled.pth": pickled,
        "truncated.pth": lambda: (folder / "reference_unet.pth").read_bytes()[:-200000],
        "sdxl.safetensors": lambda: sdxl(tmp_path),
        "swapped.pth": lambda: (folder / "pose_guider.pth").read_bytes(),
    }
    wrong_file(name, contents[name]())
    graph = {"net": node("StillguardLoadReferenceNet", file=name, precision="auto"), "look": node("PreviewAny", source=["net", 0])}
    result = client.run(graph)
    assert result.status == "error"
    assert sentence in result.error


def test_swapped_and_missing_files_of_an_animator(client: Client, server: ComfyServer, wrong_file: Callable[[str, bytes], str]) -> None:
    parts = {"denoising_unet": "denoising_unet.pth", "motion_module": "motion_module.pth", "pose_guider": "pose_guider.pth"}

    def failure(**changed: str) -> str:
        loader = node("StillguardLoadPoseAnimator", **{**parts, **changed}, precision="fp32")
        result = client.run({"animator": loader, "look": node("PreviewAny", source=["animator", 0])})
        assert result.status == "error"
        return result.error

    assert "is a ReferenceNet, which has no output layer: choose AnimateAnyone's denoising_unet.pth here" in failure(
        denoising_unet="reference_unet.pth"
    )
    denoiser = node("StillguardLoadReferenceNet", file="denoising_unet.pth", precision="auto")
    result = client.run({"net": denoiser, "look": node("PreviewAny", source=["net", 0])})
    assert "denoising_unet.pth is an animator's denoiser: choose its reference_unet here" in result.error
    file = server.base / "models" / "stillguard" / "motion_module.pth"
    file.rename(file.with_suffix(".away"))
    try:
        message = failure()
    finally:
        file.with_suffix(".away").rename(file)
    assert "motion_module.pth or motion_module.safetensors is missing (AnimateAnyone's motion modules" in message
    assert "https://huggingface.co/patrolli/AnimateAnyone" in message


def test_every_file_of_the_method_is_in_the_catalogue(client: Client) -> None:
    """And the loaders offer the names that upstream gives them, whether they are there or not."""
    info = client.object_info()
    offered = json.dumps(info["StillguardLoadReferenceNet"]["input"]) + json.dumps(info["StillguardLoadPoseAnimator"]["input"])
    for name in (*NETS, "denoising_unet.pth", "motion_module.pth", "pose_guider.pth"):
        assert name in offered
