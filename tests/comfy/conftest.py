"""One real ComfyUI server for all tests of this folder, and the same ComfyUI imported into this process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from bench.client import Client
from bench.comfyui import comfyui
from bench.server import ComfyServer
from support import Graph, node


@pytest.fixture
def client(server: ComfyServer) -> Iterator[Client]:
    with server.client(silence_seconds=120) as connected:
        yield connected


@pytest.fixture
def protect_graph() -> Callable[..., Graph]:
    """A prompt: the astronaut at 64 px, protected, measured and saved; keywords replace inputs of Protect."""

    def build(**protect: object) -> Graph:
        inputs = {
            "image": ["small", 0],
            "loss": ["combine", 0],
            "budget": 8.0,
            "steps": 3,
            "update": "momentum sign",
            "update.step": 1.0,
            "update.decay": 0.5,
            "seed": 1,
            "working_size": 64,
            "memory": "fast",
            **protect,
        }
        inputs = {name: value for name, value in inputs.items() if value is not None}
        saving = {"images": ["protect", 0], "clean": inputs["image"], "filename_prefix": "test/protected", "format": "png"}
        return {
            "load": node("LoadImage", image="astronaut.png"),
            "small": node("ImageScale", image=["load", 0], upscale_method="area", width=64, height=64, crop="disabled"),
            "vae": node("VAELoader", vae_name="stillguard_lab_vae.safetensors"),
            "latent": node("StillguardVAELatentLoss", vae=["vae", 0], weight=10.0, latent_scale=0.0),
            "lpips": node("StillguardLPIPSPenalty", backbone="lpips_vgg16.safetensors", weight=10.0, threshold=0.05),
            "combine": node("StillguardCombineLosses", **{"losses.loss0": ["latent", 0], "losses.loss1": ["lpips", 0]}),
            "protect": {"class_type": "StillguardProtect", "inputs": inputs},
            "save": node("StillguardSaveProtectedImage", **saving, budget=inputs["budget"], keep_workflow=False),
        }

    return build


@pytest.fixture(scope="session")
def comfy() -> None:
    """Make `import comfy` work here, on the CPU where there is no GPU."""
    sys.path.insert(0, str(comfyui()))
    import comfy.cli_args

    comfy.cli_args.args.cpu = not torch.cuda.is_available()
