"""How much of a driving is left on pictures that are protected from the face animator: white box, poses that no step drew.

    nox -s benchmarks -- face_effect [--drawings 6] [--photos PHOTOS.json] [--budget 8]

Obedience of mouth, eyes and brows, and of turns of the head, apart (1: as the clean picture; 0: it does not move), for random signs and
for Disobedience at one budget, without and with EoT over JPEG and framings (RECIPES), then after JPEG 75 and in a square where the head is
0.94 times as large and elsewhere. Means over pictures with 95 % bootstrap intervals, and how visible the change is. Five minutes a picture
on one core. PHOTOS.json: a list of {"file", "eyes": [x, y], "chin": [x, y]} in pixels.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from bench import cpu_shim
from torch import Tensor

cpu_shim.install()

from bench.paths import BENCH  # noqa: E402
from bench.weights import face_animator  # noqa: E402
from drawings import drawing  # noqa: E402
from effect import interval  # noqa: E402
from PIL import Image  # noqa: E402
from stillguard.engine.animators.face.animator import FaceAnimator, as_picture, load_face_animator  # noqa: E402
from stillguard.engine.animators.face.framing import Framing, Reframing, around_face, whole  # noqa: E402
from stillguard.engine.animators.face.poses import pose  # noqa: E402
from stillguard.engine.attack import protect  # noqa: E402
from stillguard.engine.conversions import from_pillow, on_white  # noqa: E402
from stillguard.engine.losses.face import Disobedience, FaceSetup  # noqa: E402
from stillguard.engine.metrics.obedience import obedience  # noqa: E402
from stillguard.engine.metrics.visibility import psnr  # noqa: E402
from stillguard.engine.objective import Objective, Term  # noqa: E402
from stillguard.engine.observation import WorkingSize  # noqa: E402
from stillguard.engine.purify.edits import JPEGFile  # noqa: E402
from stillguard.engine.spaces.rgb import RGB  # noqa: E402
from stillguard.engine.transforms import EoT  # noqa: E402
from stillguard.engine.update import MomentumSign, Schedule  # noqa: E402

BOTH = ("left", "right")
EXPRESSIONS = (
    {"mouth_aaa": 1.0},
    {"eye_wink_left": 1.0, "mouth_iii": 0.8},
    {f"eye_relaxed_{side}": 1.0 for side in BOTH},
    {f"{part}_{side}": 1.0 for part in ("eye_happy_wink", "mouth_raised_corner") for side in BOTH},
    {"mouth_ooo": 1.0, **{f"eyebrow_raised_{side}": 1.0 for side in BOTH}},
)
TURNS = ({"head_y": 0.7}, {"head_y": -0.7}, {"head_x": -0.6}, {"neck_z": 0.8})
ELSEWHERE = Reframing(0.94, 0.012, -0.008)
HERE = Reframing()


@dataclass(frozen=True)
class Recipe:
    """How a picture is protected: see MomentumSign, FaceSetup and EoT."""

    steps: int
    step: float = 1.0
    decay: float = 0.5
    schedule: Schedule = "constant"
    scale: float = 0.0
    shift: float = 0.0
    jpeg: tuple[int, int] | None = None


PLAIN = Recipe(steps=40)
LASTING = Recipe(steps=120, step=2.0, decay=0.95, schedule="linear", scale=0.1, shift=0.02, jpeg=(65, 90))
RECIPES = {"protected": PLAIN, "protected, EoT": LASTING}


@torch.no_grad()
def animated(animator: FaceAnimator, picture: Tensor, framing: Framing, moved: Reframing) -> tuple[Tensor, Tensor]:
    """Frames of rest and the expressions, and of rest and the turns."""
    portrait = framing.portrait(picture, moved)
    rest, *driven = (on_white(as_picture(animator(portrait, pose(values)[None]))) for values in ({}, *EXPRESSIONS, *TURNS))
    return torch.cat([rest, *driven[: len(EXPRESSIONS)]]), torch.cat([rest, *driven[len(EXPRESSIONS) :]])


def pictures(drawings: int, photos: Path | None) -> Iterator[tuple[str, Tensor, Framing]]:
    """Each one's name, [1,3,H,W] and square."""
    for seed in range(drawings):
        rgba = from_pillow(drawing(seed))[None]
        yield f"drawing {seed}", on_white(rgba), whole(rgba[:, 3:], (rgba.shape[-2], rgba.shape[-1]))
    for entry in json.loads(photos.read_text(encoding="utf-8")) if photos else ():
        with Image.open(Path(entry["file"])) as opened:
            photo = from_pillow(opened.convert("RGB"))[None]
        size = (photo.shape[-2], photo.shape[-1])
        yield Path(entry["file"]).name, photo, around_face(tuple(entry["eyes"]), tuple(entry["chin"]), torch.ones(1, 1, *size), size)


def follows(clean: tuple[Tensor, Tensor], name: str) -> bool:
    """Whether the animator moves the clean picture at all; what stays still anyway says nothing about a protection."""
    try:
        for frames in clean:
            obedience(frames, frames)
    except ValueError as error:
        print(f"{name} is left out, clean as it is: {error}", flush=True)
        return False
    return True


def protected(animator: FaceAnimator, photo: Tensor, framing: Framing, recipe: Recipe, budget: float) -> Tensor:
    loss = Disobedience(FaceSetup(animator, framing, scale=recipe.scale, shift=recipe.shift))
    run = protect(
        photo,
        Objective((Term("Disobedience", -1.0, loss),)),
        space=RGB(budget),
        update=MomentumSign(recipe.step, recipe.decay, recipe.schedule),
        eot=EoT(None, recipe.jpeg, None, None) if recipe.jpeg else None,
        working_size=WorkingSize(max(512, framing.working_size)),
        steps=recipe.steps,
    )
    with contextlib.closing(run):
        *_, last = run
    return last.image


def noisy(photo: Tensor, budget: float, seed: int) -> Tensor:
    """Random signs of the budget, on the 8-bit grid."""
    signs = torch.randn(photo.shape, generator=torch.Generator().manual_seed(seed)).sign()
    return ((photo + signs * budget / 255).clamp(0, 1) * 255).round() / 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drawings", type=int, default=6)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--budget", type=float, default=8.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    animator = load_face_animator(face_animator(BENCH / "models"))
    jpeg: Callable[[Tensor], Tensor] = JPEGFile(75)
    rows: dict[str, list[list[float]]] = {}
    for index, (name, photo, framing) in enumerate(pictures(options.drawings, options.photos)):
        cleans = {HERE: animated(animator, photo, framing, HERE), ELSEWHERE: animated(animator, photo, framing, ELSEWHERE)}
        if not all(follows(clean, name) for clean in cleans.values()):
            continue
        changed = {"noise": noisy(photo, options.budget, index)}
        changed |= {name: protected(animator, photo, framing, recipe, options.budget) for name, recipe in RECIPES.items()}
        for square, moved in (("", HERE), (", elsewhere", ELSEWHERE)):
            clean = cleans[moved]
            for way, picture in changed.items():
                edits = {way + square: picture} | ({f"{way}, JPEG 75{square}": jpeg(picture)} if way in RECIPES else {})
                for row, edited in edits.items():
                    made = animated(animator, edited, framing, moved)
                    left = [float(obedience(c, m).mean()) for c, m in zip(clean, made, strict=True)]
                    rows.setdefault(row, []).append([*left, float(psnr(picture, photo))])
        last = "; ".join(f"{row} {values[-1][0]:.2f} {values[-1][1]:.2f}" for row, values in rows.items())
        print(f"{name}: {last}", flush=True)
    print(f"\n{'':36} {'expressions left':24} {'turns left':24} photo, dB")
    for name, values in rows.items():
        table = torch.tensor(values)
        cells = ["{:.2f} ({:.2f} to {:.2f})".format(*interval(column.tolist())) for column in table[:, :2].T]
        print(f"{name:36} {cells[0]:24} {cells[1]:24} {table[:, 2].mean():.1f}")


if __name__ == "__main__":
    main()
