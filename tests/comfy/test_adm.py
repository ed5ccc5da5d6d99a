"""Load ADM in the real server and in this process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from adm_files import DATA, published_shapes, small_adm
from bench.client import Client
from bench.memory import peak_bytes
from bench.server import ComfyServer
from safetensors.torch import load_file, save_file
from support import node


def loading(file: str) -> dict[str, dict[str, object]]:
    return {"adm": node("StillguardLoadADM", file=file, precision="auto"), "look": node("PreviewAny", source=["adm", 0])}


def test_loads_a_file_and_tells_what_is_wrong_with_others(client: Client, server: ComfyServer) -> None:
    folder = server.base / "models" / "stillguard"
    small = small_adm(folder)
    assert client.run(loading(small.name)).status == "success"
    small.unlink()
    missing = client.run(loading("256x256_diffusion_uncond.pt"))
    assert missing.status == "error"
    assert "is missing (ADM, OpenAI's unconditional diffusion model in pixel space at 256 px): download it from https" in missing.error
    other = client.run(loading("stillguard_lab_reference_unet.safetensors"))
    assert other.status == "error"
    assert "is not a model in ADM's format" in other.error


def test_runs_under_comfyuis_memory_management(comfy: None, tmp_path: Path) -> None:
    """As nodes run: loaded and used under inference mode."""
    import comfy.model_management
    from stillguard.nodes.bridge.attack.adm import adm_from

    official = load_file(DATA / "official.safetensors")
    with torch.inference_mode():
        loaded = adm_from(small_adm(tmp_path), "fp32")
        rows, _, height, width = official["x"].shape
        needed = loaded.memory_required(height, width, rows)
        comfy.model_management.load_models_gpu([loaded.patcher], memory_required=needed)
        device = loaded.patcher.load_device
        output = loaded.network(official["x"].to(device), official["t"].to(device)).cpu()
    torch.testing.assert_close(output, official["output"], atol=1e-5 if device.type == "cpu" else 1e-2, rtol=0)
    assert loaded.memory_required(256, 256, 2) == 2 * loaded.memory_required(256, 256)
    loaded.patcher.detach()


@pytest.mark.parametrize(("side", "rows"), [(128, 1), (64, 3)])
def test_a_pass_needs_no_more_memory_than_it_says(comfy: None, tmp_path: Path, side: int, rows: int) -> None:
    """The published layout at an eighth of its width."""
    from stillguard.nodes.bridge.attack.adm import adm_from

    shapes = {name: [length // 8 if length >= 256 else length for length in tensor.shape] for name, tensor in published_shapes().items()}
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "narrow.safetensors")
    loaded = adm_from(tmp_path / "narrow.safetensors", "fp32")
    picture, steps = torch.zeros(rows, 3, side, side), torch.zeros(rows, dtype=torch.long)
    with torch.no_grad(), peak_bytes() as peak:
        loaded.network(picture, steps)
    assert 0.8 < peak() / loaded.memory_required(side, side, rows) < 1
