"""Prompts of Dormant and its animator for the tests of this folder, on small networks in the public checkpoints' formats."""

from __future__ import annotations

from support import Graph, node

WEIGHTS = {"vae_weight": 10.0, "clip_weight": 10.0, "reference_weight": 100.0, "frame_weight": 1.0, "lpips_weight": 10.0}
NETS = ("reference_unet.pth", "magicanimate_appearance_encoder.safetensors", "model_state-110000.th", "checkpoints/sd15.safetensors")


def sources() -> Graph:
    """The astronaut at 128x192, models, a pose; everything that the graphs below take from."""
    nets = {f"net{i}": node("StillguardLoadReferenceNet", file=file, precision="auto") for i, file in enumerate(NETS)}
    parts = {"denoising_unet": "denoising_unet.pth", "motion_module": "motion_module.pth", "pose_guider": "pose_guider.pth"}
    return {
        "load": node("LoadImage", image="astronaut.png"),
        "small": node("ImageScale", image=["load", 0], upscale_method="area", width=128, height=192, crop="disabled"),
        "drawn": node("LoadImage", image="pose.png"),
        "pose": node("ImageScale", image=["drawn", 0], upscale_method="area", width=128, height=192, crop="disabled"),
        "vae": node("VAELoader", vae_name="stillguard_lab_vae.safetensors"),
        "two": node("RepeatImageBatch", image=["small", 0], amount=2),
        "encoder": node("TestkitTinyCLIPVision"),
        **nets,
        "animator": node("StillguardLoadPoseAnimator", **parts, precision="auto"),
    }


def dormant_graph(*, nets: int = 1, **changed: object) -> Graph:
    """The whole method on the astronaut at 128x192; keywords replace inputs of Dormant, None takes one away."""
    inputs: dict[str, object] = {
        "image": ["small", 0],
        "vae": ["vae", 0],
        "profile": "recommended",
        "budget": 8.0,
        "steps": 2,
        "seed": 1,
        "working_size": 128,
        "memory": "fast",
        **WEIGHTS,
        **{f"reference_nets.reference_net{i}": [f"net{i}", 0] for i in range(nets)},
        "lpips_backbone": "lpips_vgg16.safetensors",
        "clip_vision": ["encoder", 0],
        "pose_animator": ["animator", 0],
        "pose": ["pose", 0],
        **changed,
    }
    inputs = {name: value for name, value in inputs.items() if value is not None}
    saving = {"filename_prefix": "test/dormant", "format": "png", "budget": 8.0, "keep_workflow": False}
    return {
        **sources(),
        "dormant": {"class_type": "StillguardDormant", "inputs": inputs},
        "save": node("StillguardSaveProtectedImage", images=["dormant", 0], clean=["dormant", 3], **saving),
    }
