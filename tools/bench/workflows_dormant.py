"""The example workflows of Dormant: protect a portrait, and attack it with the animator that it was protected from."""

from __future__ import annotations

from .workflow_node import Node

VAE = "vae-ft-mse-840000-ema-pruned.safetensors"
ENCODER = "sd-image-variations-encoder.bin"
SEED = 2024

NOTE_PROTECT = """## Dormant
Protects a portrait from pose-driven animation (AnimateAnyone, MagicAnimate, MagicPose).

1. **Load Image**: your photo, and a pose picture of that very photo. Make it with DWPose (comfyui_controlnet_aux) or with ComfyUI's \
SDPose nodes, and connect it to `pose`.
2. Load what you have. Without an animator set `frame_weight` to 0; without ReferenceNets set `reference_weight` to 0; any \
Stable Diffusion 1.5 checkpoint can stand in for a ReferenceNet. The errors say where each file is published.
3. **Dormant** changes the photo by at most `budget` 8-bit levels.

With the VGG16 file missing, set `lpips_weight` to 0. Then attack the result yourself: *attack_dormant*."""

NOTE_ATTACK = """## Does it protect?
Protects a portrait, then lets AnimateAnyone move the clean and the protected picture through the same poses with the same seed. \
Left: the clean picture's video. Right: the protected one's.

The poses of the clip should come from a person placed like the one in the photo. If both videos look alike, the photo is not protected \
from this model. This animator was also attacked directly; others may be affected less."""


def _models(*, others: bool) -> list[Node]:
    nets = ["reference_unet.pth", *(["magicanimate_appearance_encoder.safetensors", "model_state-110000.th"] if others else [])]
    loaders = [
        Node(f"net{index}", "StillguardLoadReferenceNet", (20, 980 + 220 * index), (380, 82), widgets={"file": file})
        for index, file in enumerate(nets)
    ]
    return [
        Node("vae", "VAELoader", (440, 430), (340, 60), widgets={"vae_name": VAE}),
        Node("encoder", "CLIPVisionLoader", (440, 590), (340, 60), widgets={"clip_name": ENCODER}),
        Node("animator", "StillguardLoadPoseAnimator", (440, 730), (340, 130)),
        *loaders,
    ]


def _photo(note: str) -> list[Node]:
    return [
        Node("note", "MarkdownNote", (20, 40), (380, 420), widgets={"text": note}),
        Node("load", "LoadImage", (20, 520), (380, 400), widgets={"image": "astronaut.png"}),
        Node("pose", "LoadImage", (440, 40), (340, 330), title="Pose of the photo", widgets={"image": "pose.png"}),
    ]


def _dormant(nets: int) -> list[Node]:
    links = {f"reference_nets.reference_net{index}": (f"net{index}", 0) for index in range(nets)}
    links |= {"image": ("load", 0), "vae": ("vae", 0), "clip_vision": ("encoder", 0), "pose_animator": ("animator", 0), "pose": ("pose", 0)}
    widgets = {"seed": SEED, "control_after_generate": "fixed"}
    saving = {"images": ("dormant", 0), "clean": ("dormant", 3), "budget": ("dormant", 2)}
    return [
        Node("dormant", "StillguardDormant", (820, 40), (460, 760), widgets=widgets, links=links),
        Node("save", "StillguardSaveProtectedImage", (1320, 40), (360, 480), title="Protected picture", links=saving),
    ]


def _animated(key: str, title: str, top: int, image: tuple[str, int]) -> Node:
    links = {"pose_animator": ("animator", 0), "reference_net": ("net0", 0), "vae": ("vae", 0), "clip_vision": ("encoder", 0)}
    links |= {"image": image, "pose": ("frames", 0)}
    widgets = {"seed": SEED, "control_after_generate": "fixed"}
    return Node(key, "StillguardAnimatePose", (1320, top), (360, 330), title=title, widgets=widgets, links=links)


PROTECT_DORMANT = [
    *_photo(NOTE_PROTECT),
    *_models(others=True),
    *_dormant(3),
    Node(
        "perturbation",
        "StillguardSaveProtectedImage",
        (1720, 40),
        (360, 480),
        title="Amplified perturbation",
        widgets={"filename_prefix": "stillguard/perturbation"},
        links={"images": ("dormant", 1)},
    ),
]

ATTACK_DORMANT = [
    *_photo(NOTE_ATTACK),
    *_models(others=False),
    *_dormant(1),
    Node("clip", "LoadVideo", (820, 1140), (460, 330), title="Poses to move through", widgets={"file": "pose.mp4"}),
    Node("frames", "GetVideoComponents", (820, 1560), (460, 80), links={"video": ("clip", 0)}),
    _animated("clean_video", "Attack the clean picture", 620, ("dormant", 3)),
    _animated("protected_video", "Attack the protected picture", 1280, ("dormant", 0)),
    Node(
        "pair",
        "ImageStitch",
        (1720, 40),
        (340, 160),
        widgets={"direction": "right"},
        links={"image1": ("clean_video", 0), "image2": ("protected_video", 0)},
    ),
    Node("video", "CreateVideo", (1720, 300), (340, 80), widgets={"fps": 8.0}, links={"images": ("pair", 0)}),
    Node(
        "saved",
        "SaveVideo",
        (1720, 520),
        (560, 460),
        title="Clean and protected, animated",
        widgets={"filename_prefix": "stillguard/animated"},
        links={"video": ("video", 0)},
    ),
]
