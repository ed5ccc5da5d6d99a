"""The laboratory's networks through the pack's own nodes in the real server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from bench.client import Client, Event, PromptRefused, Result
from bench.server import ComfyServer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from stillguard.engine.animators.lab_victims.victim import LabVictim
from stillguard.engine.baselines import random_signs
from stillguard.engine.files import decode_picture
from stillguard.engine.weights.catalogue import LAB, VICTIMS
from stillguard.lab import train_encoder
from support import node

PLAIN: dict[str, object] = {"format": "png", "budget": 8.0, "keep_workflow": False}
ENCODER = LAB / "stillguard_lab_encoder.safetensors"


def test_the_image_encoder_is_the_one_that_was_trained(comfy: None, astronaut: torch.Tensor) -> None:
    """Core's network and preparation against transformers' own with the same file."""
    from stillguard.lab.networks import LabEncoder
    from stillguard.nodes.bridge.surrogates.clip_vision_files import image_encoder_from

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
        "save": node("StillguardSaveProtectedImage", images=["protect", 0], filename_prefix="test/lab", **PLAIN),
    }
    result = client.run(graph)
    assert result.status == "success", result.error
    told = [event.payload.decode("utf-8", "replace") for event in result.of("binary3")]
    losses = [float(line.rpartition("CLIP Semantic ")[2]) for line in told if "CLIP Semantic" in line]
    assert losses[-1] > losses[0]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"config": None}, "nor a configuration of an image encoder: load other published encoders with Load CLIP Vision"),
        ({"config": json.dumps({**train_encoder.CONFIG, "num_hidden_layers": 5})}, "does not hold what its own configuration says"),
        ({"config": "__import__('os')"}, "nor a configuration of an image encoder"),
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


@pytest.mark.parametrize("victim", ["transformer", "unet"])
def test_a_victim_animates_in_the_server_as_in_the_engine(
    client: Client, server: ComfyServer, astronaut: torch.Tensor, victim: str
) -> None:
    graph = {
        "load": node("LoadImage", image="astronaut.png"),
        "pose": node("LoadImage", image="pose.png"),
        "animate": node("StillguardAnimateLabVictim", image=["load", 0], pose=["pose", 0], victim=victim, seed=5, steps=3),
        "save": node(
            "StillguardSaveProtectedImage",
            images=["animate", 0],
            filename_prefix="test/victim",
            format="png",
            budget=8.0,
            keep_workflow=False,
        ),
    }
    result = client.run(graph)
    assert result.status == "success", result.error
    expected = LabVictim(victim, VICTIMS).animation(given(server, "astronaut.png"), given(server, "pose.png"), steps=3, seed=5)[0]
    shown = decode_picture(saved(server, result, "save").read_bytes())
    torch.testing.assert_close(shown, expected, atol=1.5 / 255, rtol=0)


def attacked(image: torch.Tensor, pose: torch.Tensor) -> torch.Tensor:
    from stillguard.nodes.bridge.attack.lab_victims import animate_with_victim

    return animate_with_victim(image, pose, "unet", steps=1, seed=3, node_id=None)


def test_a_victim_takes_every_picture_that_comfyui_has(comfy: None, astronaut: torch.Tensor) -> None:
    """Alpha and further pictures of a batch change nothing; grey is grey in three channels; frames are the poses' count."""
    photo = astronaut.movedim(1, -1)[:, :300]  # not square
    poses = torch.zeros(3, 90, 60, 3)
    poses[1, 20:40] = 1
    frames = attacked(photo, poses)
    assert frames.shape == (3, 128, 128, 3)
    assert torch.equal(frames[0], frames[2])
    assert not torch.equal(frames[0], frames[1])
    with_alpha = torch.cat([photo, torch.rand(photo[..., :1].shape)], dim=-1)
    grey = photo[..., :1]
    same = [
        (attacked(with_alpha, poses), frames),
        (attacked(torch.cat([photo, 1 - photo]), poses), frames),
        (attacked(grey, poses[..., :1]), attacked(grey.expand(-1, -1, -1, 3), poses)),
    ]
    for one, other in same:
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


def test_a_victim_says_what_it_cannot_take(comfy: None) -> None:
    image, pose = torch.rand(1, 64, 64, 3), torch.zeros(1, 64, 64, 3)
    nan = torch.full_like(image, float("nan"))
    for wrong in ((nan, pose), (image, nan)):
        with pytest.raises(ValueError, match="pixels that are not numbers"):
            attacked(*wrong)
    with pytest.raises(ValueError, match="The picture has 2 channels: give"):
        attacked(image[..., :2], pose)


def test_a_victims_animation_can_be_cancelled(client: Client) -> None:
    def cancel(event: Event) -> None:
        if event.type == "progress" and event.data["value"] >= 2:
            client.interrupt()

    graph = {
        "load": node("LoadImage", image="astronaut.png"),
        "pose": node("LoadImage", image="pose.png"),
        "animate": node("StillguardAnimateLabVictim", image=["load", 0], pose=["pose", 0], victim="unet", seed=6, steps=1000),
        "look": node("PreviewImage", images=["animate", 0]),
    }
    assert client.run(graph, cancel).status == "interrupted"
    graph["animate"]["inputs"]["steps"] = 2
    assert client.run(graph).status == "success"


def test_noise_of_a_budget_is_saved_within_it(client: Client, server: ComfyServer) -> None:
    graph = {
        "load": node("LoadImage", image="astronaut.png"),
        "noise": node("StillguardRandomNoise", image=["load", 0], budget=6.0, seed=9),
        "save": node(
            "StillguardSaveProtectedImage", images=["noise", 0], clean=["load", 0], filename_prefix="test/noise", **{**PLAIN, "budget": 6.0}
        ),
    }
    result = client.run(graph)
    assert result.status == "success", result.error
    assert "differs by at most 6 levels" in str(result.outputs["save"]["text"])
    written = decode_picture(saved(server, result, "save").read_bytes())
    torch.testing.assert_close(written, random_signs(given(server, "astronaut.png"), 6, seed=9)[0], atol=1e-6, rtol=0)


def test_a_workflow_of_which_a_part_is_invalid_is_refused_as_a_whole(client: Client) -> None:
    """Guards every test and the demo: the server alone would run the rest in silence."""
    noise = {
        "load": node("LoadImage", image="astronaut.png"),
        "noise": node("StillguardRandomNoise", image=["load", 0], budget=8.0, seed=1),
    }
    saving = {"images": ["noise", 0], "filename_prefix": "test/part", **PLAIN}
    graph = {**noise, "good": node("StillguardSaveProtectedImage", **saving)}
    graph |= {"bad": node("StillguardSaveProtectedImage", **{**saving, "format": "auto"})}
    with pytest.raises(PromptRefused, match="StillguardSaveProtectedImage: Value not in list"):
        client.run(graph)


def given(server: ComfyServer, name: str) -> torch.Tensor:
    return decode_picture((server.base / "input" / name).read_bytes())[None, :3]


def saved(server: ComfyServer, result: Result, name: str) -> Path:
    (entry,) = result.outputs[name]["images"]
    return server.base / entry["type"] / entry["subfolder"] / entry["filename"]


def test_the_shipped_animator_loads_by_its_own_names(client: Client) -> None:
    """And a file of it in the wrong place is told, as for the published ones."""
    files = {name: f"stillguard_lab_{name}.safetensors" for name in ("denoising_unet", "motion_module", "pose_guider")}
    graph = {
        "animator": node("StillguardLoadPoseAnimator", **files, precision="auto"),
        "net": node("StillguardLoadReferenceNet", file="stillguard_lab_reference_unet.safetensors", precision="auto"),
        "look": node("PreviewAny", source=["animator", 0]),
        "look too": node("PreviewAny", source=["net", 0]),
    }
    result = client.run(graph)
    assert result.status == "success", result.error
    graph["animator"]["inputs"]["motion_module"] = files["pose_guider"]
    result = client.run(graph)
    assert result.status == "error"
    assert "holds no motion modules" in result.error
