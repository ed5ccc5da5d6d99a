"""The laboratory's networks through the pack's own nodes in the real server."""

from __future__ import annotations

import json

import pytest
import torch
from bench.client import Client
from bench.server import ComfyServer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from stillguard.engine.weights.catalogue import LAB
from stillguard.lab import train_encoder
from support import node

ENCODER = LAB / "stillguard_lab_encoder.safetensors"


def test_the_image_encoder_is_the_one_that_was_trained(comfy: None, astronaut: torch.Tensor) -> None:
    """Core's network and preparation against transformers' own with the same file."""
    from stillguard.lab.networks import LabEncoder
    from stillguard.nodes.bridge.image_encoders import image_encoder_from

    ours = image_encoder_from(ENCODER).encode_image(astronaut.movedim(1, -1), crop=False).image_embeds.float()
    theirs = LabEncoder(ENCODER).embed(astronaut)
    assert float(torch.cosine_similarity(ours, theirs)) > 0.9999
    assert float(ours.norm() / theirs.norm()) == pytest.approx(1, abs=0.01)


def test_it_serves_as_clip_vision(client: Client) -> None:
    graph = {
        "load": node("LoadImage", image="astronaut.png"),
        "encoder": node("StillguardLoadImageEncoder", file=ENCODER.name),
        "loss": node("StillguardCLIPSemanticLoss", clip_vision=["encoder", 0], weight=10.0),
        "protect": node(
            "StillguardProtect",
            image=["load", 0],
            loss=["loss", 0],
            budget=8.0,
            steps=4,
            update="momentum sign",
            **{"update.step": 1.0, "update.decay": 0.5},
            seed=1,
            working_size=128,
            memory="fast",
        ),
        "save": node(
            "StillguardSaveProtectedImage", images=["protect", 0], filename_prefix="test/lab", format="png", budget=8.0, keep_workflow=False
        ),
    }
    result = client.run(graph)
    assert result.status == "success", result.error
    told = [event.payload.decode("utf-8", "replace") for event in result.of("binary3")]
    losses = [float(line.rpartition("CLIP Semantic ")[2]) for line in told if "CLIP Semantic" in line]
    assert losses[-1] > losses[0]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"config": None}, "has no configuration of a CLIP image encoder in its metadata: load published encoders with Load CLIP Vision"),
        ({"config": json.dumps({**train_encoder.CONFIG, "num_hidden_layers": 5})}, "does not hold what its own configuration says"),
        ({"config": "__import__('os')"}, "has no configuration of a CLIP image encoder"),
    ],
)
def test_other_files_are_refused(client: Client, server: ComfyServer, change: dict[str, str | None], sentence: str) -> None:
    with safe_open(ENCODER, "pt") as file:
        facts = {key: value for key, value in {**file.metadata(), **change}.items() if value is not None}
    odd = server.base / "models" / "stillguard" / "odd_encoder.safetensors"
    save_file(load_file(ENCODER), odd, metadata=facts)
    result = client.run({"encoder": node("StillguardLoadImageEncoder", file=odd.name), "look": node("PreviewAny", source=["encoder", 0])})
    odd.unlink()
    assert result.status == "error"
    assert sentence in result.error
