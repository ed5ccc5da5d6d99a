"""What every attack workflow shares: the pictures, one branch for each of them, and the report."""

from __future__ import annotations

from collections.abc import Callable

from .workflow_node import Link, Node

SEED = 2024
CLEAN: Link = ("photo", 0)
"""Also where poses, masks and captions come from, in all branches: a detector that fails on the protected picture is no protection."""

PICTURES: dict[str, Link] = {"clean": CLEAN, "protected": ("protected", 0), "noise": ("noise", 0)}
MODELS, DRIVERS, BRANCHES = 920, 1300, 1680
"""Left edges of the columns that a workflow fills itself: model loaders (340 wide), prompts or driving videos (340), the branches."""

MOVES, AVOID = "a person looks into the camera and smiles", "blurry, distorted"

Branch = Callable[[str, Link, int], tuple[list[Node], Link]]
"""(name, picture, top edge) -> the victim's nodes, whose keys begin with the name, and its frames."""

NOTE = """## Does it protect from {victim}?
{victim} {does} your photo, its protected version and the photo with random noise of the same budget, all with the same seed. \
**Protection Report** says what changed.

1. **Photo**: the unprotected original.
2. **Your protected photo**: the file that *Save Protected Image* wrote, or any copy of it that others have: a JPEG, a smaller one, a \
crop, a screenshot. Set the switch below it to *true*; as long as it is *false*, the photo is protected here with the small autoencoder \
that comes with Stillguard, which protects nobody. **Check Copy** stops before the long run if it is another photo.
3. **Random Noise**: give it the `budget` of your protection.
4. In **Compare Videos**, switch `surrogate` on if the photo was protected with this very model.

{files}

If protected looks like clean, the photo is not protected from this model. If noise does as much as protected, the method adds nothing."""


def fixed(**widgets: object) -> dict[str, object]:
    """Widgets of a node whose seed must not change from run to run."""
    return {"seed": SEED, "control_after_generate": "fixed", **widgets}


EXAMPLE = [
    Node("small_vae", "VAELoader", (460, 40), (420, 60), widgets={"vae_name": "stillguard_lab_vae.safetensors"}),
    Node("latent", "StillguardVAELatentLoss", (460, 160), (420, 110), links={"vae": ("small_vae", 0)}),
    Node(
        "protect",
        "StillguardProtect",
        (460, 330),
        (420, 620),
        title="Example protection",
        widgets=fixed(steps=30, working_size=320),
        links={"image": CLEAN, "loss": ("latent", 0)},
    ),
]
"""What protects the photo as long as the user gives no protected one: `protect`, and above y = 1000 what it needs."""


def pictures(note: str, protection: list[Node] = EXAMPLE, *, note_height: int = 560) -> list[Node]:
    """The note and the three pictures, PICTURES. protection: as EXAMPLE."""
    below = 100 + note_height
    return [
        Node("note", "MarkdownNote", (20, 40), (400, note_height), widgets={"text": note}),
        Node("photo", "LoadImage", (20, below), (400, 400), title="Photo", widgets={"image": "astronaut.png"}),
        Node("own", "LoadImage", (20, below + 460), (400, 400), title="Your protected photo", widgets={"image": "astronaut.png"}),
        Node(
            "protected",
            "ComfySwitchNode",
            (20, below + 920),
            (400, 110),
            title="Use your protected photo",
            links={"on_false": ("protect", 0), "on_true": ("checked", 0)},
        ),
        Node("checked", "StillguardCheckCopy", (460, 1180), (420, 170), links={"clean": CLEAN, "copy": ("own", 0)}),
        *protection,
        Node("noise", "StillguardRandomNoise", (460, 1010), (420, 110), widgets=fixed(), links={"image": CLEAN}),
        Node("shown", "PreviewImage", (460, 1410), (420, 400), title="Attacked picture", links={"images": PICTURES["protected"]}),
    ]


def kept(position: tuple[int, int], clean: Link = CLEAN) -> Node:
    """The result of a long `protect`, as a file. clean: the photo in the size of the result."""
    links: dict[str, Link] = {"images": ("protect", 0), "clean": clean, "budget": ("protect", 2)}
    return Node("kept", "StillguardSaveProtectedImage", position, (340, 460), title="Protected picture", links=links)


def branches(build: Branch, *, top: int = 40, height: int = 580) -> tuple[list[Node], dict[str, Link]]:
    """The victim on each of PICTURES, one below the other; and where each branch's frames come out."""
    nodes, frames = [], {}
    for row, (name, picture) in enumerate(PICTURES.items()):
        made, frames[name] = build(name, picture, top + row * height)
        nodes += made
    return nodes, frames


def report(
    frames: dict[str, Link], victim: str, left: int, *, top: int = 40, surrogate: bool = False, seen: dict[str, Link] | None = None
) -> list[Node]:
    """Compare Videos and Protection Report, at the right edge. seen: networks that measures look with, by Compare Videos' inputs.

    Below Compare Videos nothing may stand: it grows with its table. top: its edge, below `watched` where that is drawn.
    """
    widgets = {"victim": victim, "surrogate": surrogate}
    return [
        Node("compare", "StillguardCompareVideos", (left, top), (520, 920), widgets=widgets, links={**frames, **(seen or {})}),
        Node(
            "report",
            "StillguardProtectionReport",
            (left + 560, 40),
            (760, 900),
            links={"comparisons.comparison0": ("compare", 0), **PICTURES},
        ),
    ]


WATCHED = 640
"""Where `watched` ends."""


def watched(frames: dict[str, Link], left: int, *, fps: float, audio: Link | None = None) -> list[Node]:
    """A video of the three branches side by side, above Compare Videos. For victims that make videos. audio: what they were told."""
    # Frames have one size; matching it would send them through a resampler that rounds down.
    joining = {"direction": "right", "match_image_size": False}
    first = {"image1": frames["clean"], "image2": frames["protected"]}
    second = {"image1": ("two", 0), "image2": frames["noise"]}
    sound = {} if audio is None else {"audio": audio}
    return [
        Node("two", "ImageStitch", (left, 40), (400, 160), widgets=joining, links=first),
        Node("three", "ImageStitch", (left, 260), (400, 160), widgets=joining, links=second),
        Node("video", "CreateVideo", (left, 480), (400, 80), widgets={"fps": fps}, links={"images": ("three", 0), **sound}),
        Node(
            "saved",
            "SaveVideo",
            (left + 560, 1000),
            (760, 520),
            title="Clean, protected, noise",
            widgets={"filename_prefix": "stillguard/attack"},
            links={"video": ("video", 0)},
        ),
    ]


def loader(key: str, kind: str, top: int, **files: str) -> Node:
    """A node of the column of models. files: widget -> file."""
    return Node(key, kind, (MODELS, top), (340, 60 + 26 * len(files)), widgets=files)


def prompts(clip: Link, prompt: str = MOVES, avoid: str = AVOID, avoid_title: str = "To be avoided") -> list[Node]:
    """`prompt` and `avoid`, on top of the column of drivers."""
    return [
        Node(key, "CLIPTextEncode", (DRIVERS, top), (340, 140), title=title, widgets={"text": text}, links={"clip": clip})
        for key, title, top, text in (("prompt", "Prompt", 40, prompt), ("avoid", avoid_title, 240, avoid))
    ]


def sampled(name: str, left: int, top: int, links: dict[str, Link], sampler: dict[str, object]) -> Node:
    """A branch's KSampler, `NAME_sampler`, with the seed of all branches."""
    return Node(f"{name}_sampler", "KSampler", (left, top), (320, 480), title=f"Attack: {name}", widgets=fixed(**sampler), links=links)


def decoded(name: str, left: int, top: int, latent: Link, vae: Link) -> Node:
    """A branch's frames, `NAME_frames`."""
    return Node(f"{name}_frames", "VAEDecode", (left, top), (240, 60), links={"samples": latent, "vae": vae})


def workflow(
    victim: str,
    files: str,
    victim_nodes: list[Node],
    branch: Branch,
    *,
    width: int,
    height: int = 580,
    fps: float | None = None,
    clip_vision: Link | None = None,
) -> list[Node]:
    """All of it. files: a sentence that names what the victim needs. width, height: of a branch. fps: of a victim that makes videos.

    clip_vision: where one is loaded, for CLIP-I.
    """
    attacked, frames = branches(branch, height=height)
    right = BRANCHES + width
    shown = [] if fps is None else watched(frames, right, fps=fps)
    note = NOTE.format(victim=victim, does="edits" if fps is None else "animates", files=files)
    seen = None if clip_vision is None else {"clip_vision": clip_vision}
    return [*pictures(note), *victim_nodes, *attacked, *report(frames, victim, right, top=WATCHED if shown else 40, seen=seen), *shown]
