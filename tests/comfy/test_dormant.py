"""Dormant and its losses in the real server, on small networks in the public checkpoints' formats."""

from __future__ import annotations

import io

import numpy as np
import pytest
from bench.client import Client
from dormant_graphs import WEIGHTS, dormant_graph
from PIL import Image
from support import node


def levels(client: Client, result: object, name: str = "save") -> np.ndarray:
    return np.array(Image.open(io.BytesIO(client.view(result.outputs[name]["images"][0])))).astype(int)


def texts(result: object) -> str:
    return " ".join(event.payload.decode("utf-8", "replace") for event in result.of("binary3"))


def test_the_whole_method_with_all_four_kinds_of_nets(client: Client) -> None:
    result = client.run(dormant_graph(nets=4))
    assert result.status == "success", result.error
    assert levels(client, result).shape == (192, 128, 3)
    assert "differs by at most 8 levels" in result.outputs["save"]["text"][0]
    told = texts(result)
    nets = ("AnimateAnyone", "MagicAnimate", "MagicPose", "SD 1.5")
    for name in ("VAE Latent", "CLIP Semantic", *nets, "Frame Incoherence", "LPIPS Penalty"):
        assert name in told


def test_the_reference_profile_is_square_as_the_official_code(client: Client) -> None:
    result = client.run(dormant_graph(profile="reference", steps=3))
    assert result.status == "success", result.error
    assert levels(client, result).shape == (128, 128, 3)
    assert "differs by at most 8 levels" in result.outputs["save"]["text"][0]


def test_the_profiles_and_seeds_differ_and_low_memory_does_not(client: Client) -> None:
    pictures = {}
    for name, changed in {
        "fast": {},
        "low memory": {"memory": "low memory"},
        "another seed": {"seed": 2},
        "no frames": {"frame_weight": 0.0},
    }.items():
        result = client.run(dormant_graph(**changed))
        assert result.status == "success", result.error
        pictures[name] = levels(client, result)
    assert (pictures["fast"] != pictures["low memory"]).mean() < 0.01
    assert (pictures["fast"] != pictures["another seed"]).mean() > 0.1
    assert (pictures["fast"] != pictures["no frames"]).mean() > 0.01


def test_what_has_no_weight_needs_no_models(client: Client) -> None:
    without = {name: 0.0 for name in WEIGHTS if name != "vae_weight"}
    graph = dormant_graph(nets=0, clip_vision=None, pose_animator=None, pose=None, lpips_backbone="lpips_vgg16.safetensors", **without)
    result = client.run(graph)
    assert result.status == "success", result.error
    assert "ReferenceNet" not in texts(result)


def test_a_frozen_clip_is_protected_from_poses_that_are_drawn(client: Client) -> None:
    graph = dormant_graph()
    models = {"pose_animator": ["animator", 0], "reference_net": ["net0", 0], "vae": ["vae", 0], "clip_vision": ["encoder", 0]}
    settings = {"update": "sign", "update.step": 1.0, "seed": 1, "working_size": 128, "memory": "low memory", "budget": 8.0, "steps": 2}
    graph["moves"] = node("RepeatImageBatch", image=["pose", 0], amount=3)
    graph["freeze"] = node("StillguardFreezePoseLoss", **models, poses=["moves", 0], weight=1.0, frames=2)
    graph["protect"] = node("StillguardProtect", image=["small", 0], loss=["freeze", 0], **settings)
    graph["save"]["inputs"] |= {"images": ["protect", 0], "clean": ["small", 0]}
    result = client.run(graph)
    assert result.status == "success", result.error
    assert "Freeze (Pose)" in texts(result)
    graph["freeze"]["inputs"]["frames"] = 4
    result = client.run(graph)
    assert "There are 3 pose pictures for 4 frames: give more of them, or choose fewer frames." in result.error


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"clip_vision": None}, "The CLIP loss needs an image encoder: connect clip_vision, or set clip_weight to 0."),
        ({"nets": 0}, "The ReferenceNet loss needs a network: connect a Load ReferenceNet"),
        ({"pose_animator": None}, "The frame loss needs an animator and a pose picture"),
        ({"nets": 2, "profile": "reference"}, "reads the empty prompt in the profile 'reference': connect clip"),
        ({"image": ["two", 0]}, "There are 2 photos, and the frame loss has the pose of one"),
        ({"pose": ["drawn", 0]}, "The pose picture is 512x512 and the photo 128x192: make the pose from this very photo"),
        ({"pose": None}, "The frame loss needs an animator and a pose picture"),
        ({"nets": 0, "reference_weight": 0.0}, "The frame loss needs the animator's ReferenceNet"),
        ({"clip_vision": None, "clip_weight": 0.0}, "reads the photo through an image encoder: connect clip_vision"),
        ({"frame_weight": 0.0, **dict.fromkeys(["vae_weight", "clip_weight", "reference_weight"], 0.0)}, "Nothing drives the protection"),
    ],
)
def test_what_is_missing_is_said_in_one_sentence(client: Client, changed: dict[str, object], sentence: str) -> None:
    result = client.run(dormant_graph(**changed))
    assert result.status == "error"
    assert sentence in result.error


def test_loss_nodes_build_the_same_method(client: Client) -> None:
    """The preset against its parts, connected one by one: the same picture to the level."""
    graph = dormant_graph(nets=2, eot=["eot", 0], lpips_weight=0.0, clip_weight=0.0)
    ranges = {"blur_low": 0.1, "blur_high": 3.0, "jpeg_low": 30, "jpeg_high": 69, "noise_high": 0.03, "resize_low": 0.5, "resize_high": 2.0}
    graph["eot"] = node("StillguardEoT", **dict.fromkeys(("blur", "jpeg", "noise", "resize", "identity"), True), samples=1, **ranges)
    shared = {"vae": ["vae", 0], "clip_vision": ["encoder", 0]}
    nets = {f"reference_nets.reference_net{i}": [f"net{i}", 0] for i in range(2)}
    frames = {"alignment": 1.0, "consistency": 1.0, "frames": 5, "guidance": 3.5}
    models = {"pose_animator": ["animator", 0], "reference_net": ["net0", 0], "pose": ["pose", 0]}
    losses = {f"losses.loss{i}": [name, 0] for i, name in enumerate(("latent", "reference", "incoherence"))}
    settings = {"update": "momentum sign", "update.step": 1.0, "update.decay": 0.5, "seed": 1, "working_size": 128, "memory": "fast"}
    graph |= {
        "latent": node("StillguardVAELatentLoss", vae=["vae", 0], weight=10.0, latent_scale=0.18215),
        "reference": node("StillguardReferenceNetFeatureLoss", weight=100.0, **shared, **nets),
        "incoherence": node("StillguardFrameIncoherenceLoss", weight=1.0, **shared, **models, **frames),
        "combine": node("StillguardCombineLosses", **losses),
        "protect": node("StillguardProtect", image=["small", 0], loss=["combine", 0], budget=8.0, steps=2, eot=["eot", 0], **settings),
    }
    graph["own"] = {**graph["save"], "inputs": {**graph["save"]["inputs"], "images": ["protect", 0], "clean": ["small", 0]}}
    result = client.run(graph)
    assert result.status == "success", result.error
    assert np.array_equal(levels(client, result), levels(client, result, "own"))
