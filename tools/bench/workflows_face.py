"""The face animator's workflow: protect a portrait from it, attack it at once, and report."""

from __future__ import annotations

from .home import DRAWING
from .story import COLUMNS
from .weights import FACE_FILE
from .workflow_node import Link, Node

SEED = 2024
STEPS, FPS = 40, 8.0
FRAMES, WINK, TURNS_FROM = 23, 10, 16
"""Of the motion "talk, wink and turn": every second frame is one of its poses, the first wink and the rest before it turns among them."""
FRAMES_TITLE = "Clean, noise, protected: frames"

PHOTO: Link = ("load", 0)
PICTURES: dict[str, Link] = dict(zip(COLUMNS, (PHOTO, ("noise", 0), ("protect", 0)), strict=True))
"""What is attacked, and where it comes from."""

PARTS = {"mouth and eyes": (0, TURNS_FROM + 1), "the head": (TURNS_FROM, FRAMES - TURNS_FROM)}
"""What the motion drives -> the first of its frames, and how many. Measured apart: a turn changes more pixels than a mouth does."""

NOTE = f"""## Protect a portrait from an animator, then attack it
The animator is real: Talking Head(?) Anime 3 by Pramook Khungurn (models CC BY 4.0). It moves drawings and photos, on a CPU in two \
or three seconds a frame. Put `{FACE_FILE}` into `models/stillguard`, or the five files of `separable_float`; the help page of \
**Load Face Animator** says where they are published.

1. **Portrait**: your photo or drawing. The person is what is not transparent. For a photo with its background, connect a mask of the \
person to **Frame Portrait** in place of *Invert Mask*.
2. **Frame Portrait**: *already framed* is for pictures like the example. For others choose *face landmarks*, *head box* or *by hand*.
3. **Protect** changes the photo at its own size, so that the framed face stays as it is.
4. **Animate (Face)** lets the clean photo, the same with noise of equal budget and the protected one talk, wink and turn.

To outlast being posted: connect **EoT** with only *jpeg* (65 to 90) and *identity* to Protect, set *framing_scale* 0.1 and \
*framing_shift* 0.02 in Disobedience Loss, and in Protect 120 steps, *step* 2, *decay* 0.95, *schedule* linear. \
Photos keep it; drawings keep part of it.

**Obedience** says how much of the movement is left; 100 % is the clean photo's. The photo was protected from this very animator, which \
is the best case. It says nothing about other animators."""


def victim(part: str) -> str:
    """What reports call the animator where it drives a part of PARTS."""
    return f"face animator: {part}"


def _animated(name: str) -> Link:
    """The frames that are made of one of PICTURES."""
    return f"animated_{name}", 0


def _branch(name: str, top: int) -> list[Node]:
    links = {"face_animator": ("animator", 0), "image": PICTURES[name], "framing": ("frame", 1)}
    widgets = {"motion": "talk, wink and turn", "motion.frames": FRAMES}
    cut = [
        Node(
            f"{name}_{part}",
            "ImageFromBatch",
            (1720, top + 40 + 150 * row),
            (260, 90),
            f"{name}: {part}",
            dict(zip(("batch_index", "length"), PARTS[part], strict=True)),
            {"image": _animated(name)},
        )
        for row, part in enumerate(PARTS)
    ]
    return [Node(_animated(name)[0], "StillguardAnimateFace", (1320, top), (360, 600), f"Animate (Face): {name}", widgets, links), *cut]


def _measured(part: str, top: int) -> Node:
    links = {name: (f"{name}_{part}", 0) for name in COLUMNS}
    # All measures together take as long as the attack, and those of likeness rank a face that stays still wrongly.
    widgets = {"victim": victim(part), "surrogate": True, "measures": "pixels only"}
    return Node(f"measured_{part}", "StillguardCompareVideos", (2020, top), (520, 700), f"Obedience of {part}", widgets, links)


def _saved(key: str, title: str, file: str, position: tuple[int, int], source: Link, **links: Link) -> Node:
    widgets = {"filename_prefix": f"stillguard/face_{file}"}
    return Node(key, "StillguardSaveProtectedImage", position, (340, 300), title, widgets, {"images": source, **links})


def _joined() -> list[Node]:
    """All three side by side, as single frames and as a video."""
    # Frames have one size; matching it would send them through a resampler that rounds down.
    joining = {"direction": "right", "match_image_size": False}
    first, second, third = map(_animated, COLUMNS)
    return [
        Node("two", "ImageStitch", (2580, 1000), (240, 160), widgets=joining, links={"image1": first, "image2": second}),
        Node("three", "ImageStitch", (2580, 1220), (240, 160), widgets=joining, links={"image1": ("two", 0), "image2": third}),
        _saved("frames", FRAMES_TITLE, "frames", (2860, 1000), ("three", 0)),
        Node("video", "CreateVideo", (2580, 1440), (240, 80), widgets={"fps": FPS}, links={"images": ("three", 0)}),
        Node(
            "watched",
            "SaveVideo",
            (3240, 1000),
            (620, 400),
            title="Clean, noise, protected",
            widgets={"filename_prefix": "stillguard/face"},
            links={"video": ("video", 0)},
        ),
    ]


ATTACK_FACE = [
    Node("note", "MarkdownNote", (20, 40), (400, 560), widgets={"text": NOTE}),
    Node("load", "LoadImage", (20, 660), (400, 420), title="Portrait", widgets={"image": DRAWING}),
    Node("person", "InvertMask", (20, 1140), (400, 40), links={"mask": ("load", 1)}),
    Node("animator", "StillguardLoadFaceAnimator", (460, 40), (380, 60), widgets={"file": FACE_FILE}),
    Node(
        "frame",
        "StillguardFramePortrait",
        (460, 160),
        (380, 560),
        widgets={"place": "already framed"},
        links={"image": PHOTO, "mask": ("person", 0)},
    ),
    Node(
        "loss",
        "StillguardDisobedienceLoss",
        (460, 780),
        (380, 200),
        links={"face_animator": ("animator", 0), "framing": ("frame", 1)},
    ),
    Node(
        "protect",
        "StillguardProtect",
        (880, 40),
        (400, 640),
        widgets={"steps": STEPS, "seed": SEED, "control_after_generate": "fixed"},
        links={"image": PHOTO, "loss": ("loss", 0), "working_size": ("frame", 2)},
    ),
    Node(
        "noise",
        "StillguardRandomNoise",
        (880, 740),
        (400, 110),
        widgets={"seed": SEED, "control_after_generate": "fixed"},
        links={"image": PHOTO},
    ),
    _saved("saved_clean", "Clean picture", "clean", (460, 1280), PHOTO),
    _saved("saved_noise", "Picture with noise", "noise", (880, 1280), PICTURES["noise"]),
    Node(
        "saved_protected",
        "StillguardSaveProtectedImage",
        (880, 910),
        (400, 300),
        title="Protected picture",
        links={"images": PICTURES["protected"], "clean": PHOTO, "budget": ("protect", 2)},
    ),
    *(node for row, name in enumerate(COLUMNS) for node in _branch(name, 40 + 660 * row)),
    *(_measured(part, 40 + 760 * row) for row, part in enumerate(PARTS)),
    Node(
        "report",
        "StillguardProtectionReport",
        (2580, 40),
        (760, 900),
        links={**PICTURES, **{f"comparisons.comparison{row}": (f"measured_{part}", 0) for row, part in enumerate(PARTS)}},
    ),
    *_joined(),
]
