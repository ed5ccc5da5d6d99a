"""The laboratory's workflow: protect a portrait with Dormant and attack it at once, with nothing but what ships with the pack."""

from __future__ import annotations

from .workflow_node import Node

SEED, SIDE, FPS = 2024, 128, 8.0
PICTURES = {"clean": ("dormant", 3), "noise": ("noise", 0), "protected": ("dormant", 0)}
"""What is attacked, and where it comes from."""

VICTIMS = ("animator", "transformer", "unet")
"""Whose animations are compared; the first is the surrogate."""

NOTE = """## Protect, then attack
Needs nothing but Stillguard, and takes minutes on a CPU. The laboratory's networks are small, were trained for this pack and see \
128 pixels, so the photo is made that small first.

1. **Dormant** protects the photo from the laboratory's animator.
2. **Animate (Pose)** lets that animator move the clean picture, the same with random noise of equal budget, and the protected one.
3. **Animate (Lab Victim)** does it with two animators that the protection knew nothing of.

From left to right: clean, noise, protected. **Compare Videos** measures each animator's, **Protection Report** writes down what was seen.

It shows the mechanism. It says nothing about models that people use: for those load their files, see *attack_dormant*."""


def _animated(victim: str, picture: str, left: int, top: int) -> Node:
    links = {"image": PICTURES[picture], "pose": ("frames", 0)}
    widgets: dict[str, object] = {"seed": SEED, "control_after_generate": "fixed", "steps": 20}
    if victim != VICTIMS[0]:
        widgets |= {"victim": victim}
        return Node(f"{victim}_{picture}", "StillguardAnimateLabVictim", (left, top), (320, 200), f"{victim}: {picture}", widgets, links)
    links |= {"pose_animator": ("animator", 0), "reference_net": ("net", 0), "vae": ("vae", 0), "clip_vision": ("encoder", 0)}
    widgets |= {"guidance": 1.5, "working_size": SIDE, "window": 8, "overlap": 2}
    return Node(f"{victim}_{picture}", "StillguardAnimatePose", (left, top), (320, 330), f"surrogate: {picture}", widgets, links)


def _compared(victim: str, top: int) -> list[Node]:
    nodes = [_animated(victim, picture, 1720 + 360 * column, top) for column, picture in enumerate(PICTURES)]
    first, second, third = ((f"{victim}_{picture}", 0) for picture in PICTURES)
    # Frames have one size; matching it would send them through a resampler that rounds down.
    joining = {"direction": "right", "match_image_size": False}
    return [
        *nodes,
        Node(f"{victim}_two", "ImageStitch", (2800, top), (240, 160), widgets=joining, links={"image1": first, "image2": second}),
        Node(
            f"{victim}_all",
            "ImageStitch",
            (3080, top),
            (240, 160),
            widgets=joining,
            links={"image1": (f"{victim}_two", 0), "image2": third},
        ),
        Node(
            f"{victim}_saved",
            "StillguardSaveProtectedImage",
            (3360, top),
            (420, 330),
            title=f"Clean, noise, protected: {victim}",
            widgets={"filename_prefix": f"stillguard/lab_{victim}"},
            links={"images": (f"{victim}_all", 0)},
        ),
    ]


def _measured(victim: str, top: int) -> Node:
    links = {picture: (f"{victim}_{picture}", 0) for picture in PICTURES}
    widgets = {"victim": f"laboratory's {victim}", "surrogate": victim == VICTIMS[0]}
    return Node(f"{victim}_measured", "StillguardCompareVideos", (3820, top), (520, 700), widgets=widgets, links=links)


REPORT = Node(
    "report",
    "StillguardProtectionReport",
    (4380, 40),
    (760, 900),
    links={**PICTURES, **{f"comparisons.comparison{index}": (f"{victim}_measured", 0) for index, victim in enumerate(VICTIMS)}},
)


def _saved(key: str, title: str, file: str, top: int, source: tuple[str, int]) -> Node:
    widgets = {"filename_prefix": f"stillguard/lab_{file}"}
    return Node(key, "StillguardSaveProtectedImage", (1320, top), (340, 300), title=title, widgets=widgets, links={"images": source})


ATTACK_LAB = [
    Node("note", "MarkdownNote", (20, 40), (380, 420), widgets={"text": NOTE}),
    Node("load", "LoadImage", (20, 520), (380, 400), widgets={"image": "astronaut.png"}),
    Node(
        "small",
        "ImageScale",
        (20, 980),
        (380, 130),
        widgets={"upscale_method": "area", "width": SIDE, "height": SIDE, "crop": "center"},
        links={"image": ("load", 0)},
    ),
    Node("pose", "LoadImage", (440, 40), (340, 330), title="Pose of the photo", widgets={"image": "pose.png"}),
    Node("vae", "VAELoader", (440, 430), (340, 60), widgets={"vae_name": "stillguard_lab_vae.safetensors"}),
    Node("encoder", "StillguardLoadImageEncoder", (440, 550), (340, 60)),
    Node(
        "animator",
        "StillguardLoadPoseAnimator",
        (440, 670),
        (340, 130),
        widgets={name: f"stillguard_lab_{name}.safetensors" for name in ("denoising_unet", "motion_module", "pose_guider")},
    ),
    Node("net", "StillguardLoadReferenceNet", (440, 880), (340, 82), widgets={"file": "stillguard_lab_reference_unet.safetensors"}),
    Node("clip", "LoadVideo", (440, 1030), (340, 330), title="Poses to move through", widgets={"file": "pose.mp4"}),
    Node("frames", "GetVideoComponents", (440, 1430), (340, 80), links={"video": ("clip", 0)}),
    Node(
        "dormant",
        "StillguardDormant",
        (820, 40),
        (460, 760),
        widgets={"seed": SEED, "control_after_generate": "fixed", "steps": 60, "working_size": SIDE, "lpips_weight": 0.0},
        links={
            "image": ("small", 0),
            "vae": ("vae", 0),
            "reference_nets.reference_net0": ("net", 0),
            "clip_vision": ("encoder", 0),
            "pose_animator": ("animator", 0),
            "pose": ("pose", 0),
        },
    ),
    Node(
        "noise",
        "StillguardRandomNoise",
        (820, 880),
        (460, 110),
        widgets={"seed": SEED, "control_after_generate": "fixed"},
        links={"image": ("small", 0)},
    ),
    _saved("saved_clean", "Clean picture", "clean", 40, ("small", 0)),
    _saved("saved_noise", "Picture with noise", "noise", 420, ("noise", 0)),
    Node(
        "saved_protected",
        "StillguardSaveProtectedImage",
        (1320, 800),
        (340, 300),
        title="Protected picture",
        links={"images": ("dormant", 0), "clean": ("dormant", 3), "budget": ("dormant", 2)},
    ),
    _saved("saved_perturbation", "Amplified perturbation", "perturbation", 1180, ("dormant", 1)),
    *_compared(VICTIMS[0], 40),
    *_compared(VICTIMS[1], 480),
    *_compared(VICTIMS[2], 920),
    *(_measured(victim, 40 + 760 * index) for index, victim in enumerate(VICTIMS)),
    REPORT,
]
