"""Landmark distance of talking faces (evaluation_eat, used by Silencer): of the mouth and the face, and of their velocities."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .measure import Descriptor, SetMeasure

FindLandmarks = Callable[[Tensor], Sequence[Tensor | None]]
"""[n,3,H,W] in [0,1] -> per picture the 68 landmarks [68,2] (x, y) in pixels of one face, or None."""

POINTS = 68
MOUTH, FACE = slice(48, POINTS), slice(POINTS)

# Of MediaPipe's face mesh for each of the 68 points of dlib / iBUG 300-W; the middle of two where none fits. The correspondence of
# github.com/PeizhiYan/Mediapipe_2_Dlib_Landmarks, with point 3 made the mirror image of point 13.
# fmt: off
_MESH: tuple[int | tuple[int, int], ...] = (
    127, 234, 93, 132, (58, 172), 136, 150, 176, 152, 400, 379, 365, (288, 397), 361, 323, 454, 356,  # jaw
    70, 63, 105, 66, 107, 336, 296, 334, 293, 300,  # eyebrows
    (168, 6), (197, 195), 5, 4, 75, 97, 2, 326, 305,  # nose
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,  # eyes
    61, 39, 37, 0, 267, 269, 291, 321, 314, 17, 84, 91,  # lips, outer
    78, 82, 13, 312, 308, 317, 14, 87,  # lips, inner
)
# fmt: on


def from_face_mesh(points: Tensor) -> Tensor:
    """MediaPipe's face mesh [...,468 or 478,D] -> the 68 landmarks [...,68,D], as near as the mesh has them.

    The jaw is where the two differ most: the mesh ends at the face's front, dlib's contour follows what is seen.
    """
    sources = torch.tensor([(entry, entry) if isinstance(entry, int) else entry for entry in _MESH], device=points.device)
    middles: Tensor = points[..., sources, :].mean(-2)
    return middles


def pairs(first: int, second: int) -> tuple[Tensor, Tensor]:
    """Which frames of two videos of these lengths are compared: both spread over the shorter one's number, truncated."""
    count = min(first, second)
    a, b = (torch.from_numpy(np.linspace(0, total, count, endpoint=False).astype(np.int64)) for total in (first, second))
    return a, b


def landmark_distance(reference: Tensor, generated: Tensor, *, part: slice = FACE) -> Tensor:
    """Mean distance in pixels of the landmarks [M,68,2] and [M',68,2] of paired frames, each set around its own centre, [K].

    part: MOUTH or FACE. The mean of the items is the published figure (M-LMD, F-LMD), which is over landmarks as well. NaN where either
    frame has NaN, which is to say no face.
    """
    first, second = (points[:, part] - points[:, part].mean(1, keepdim=True) for points in _paired(reference, generated))
    lengths: Tensor = (first - second).norm(dim=2)
    return lengths.mean(1)


def landmark_velocity_distance(reference: Tensor, generated: Tensor, *, part: slice = FACE, published: bool = False) -> Tensor:
    """The same of what the landmarks moved since the last pair that had faces, not around their centre (M-LVD, F-LVD), [K].

    The first pair's is 0, since the published figure divides by all pairs. published: of the mouth, whatever the part, but divided by the
    part's number of landmarks, as the published code has it by mistake.
    """
    first, second = _paired(reference, generated)
    faces = ~(first + second).isnan().flatten(1).any(1)
    moved = (first - second)[faces][:, MOUTH if published else part].diff(dim=0)
    values = first.new_full((len(first),), float("nan"))
    values[faces] = F.pad(moved.norm(dim=-1).sum(-1) / len(range(POINTS)[part]), (1, 0))[: int(faces.sum())]
    return values


def landmarks_of(find: FindLandmarks) -> Descriptor:
    """The landmarks of each frame as one row, 136 numbers, NaN where there is no face."""

    def describe(windows: Tensor) -> Tensor:
        absent = windows.new_full((POINTS, 2), float("nan"))
        return torch.stack([absent if face is None else face.to(absent) for face in find(windows[:, 0])]).flatten(1)

    return Descriptor("face landmarks", describe)


def landmark_measures(find: FindLandmarks) -> tuple[SetMeasure, ...]:
    """M-LMD, F-LMD, M-LVD and F-LVD, which share the landmarks. Both videos must show the face at one size."""

    def measure(name: str, distance: Callable[..., Tensor], part: slice) -> SetMeasure:
        def compare(reference: Tensor, generated: Tensor) -> Tensor:
            return distance(reference.unflatten(1, (POINTS, 2)), generated.unflatten(1, (POINTS, 2)), part=part)

        return SetMeasure(name, "px", "less alike", landmarks_of(find), compare)

    return (
        measure("M-LMD", landmark_distance, MOUTH),
        measure("F-LMD", landmark_distance, FACE),
        measure("M-LVD", landmark_velocity_distance, MOUTH),
        measure("F-LVD", landmark_velocity_distance, FACE),
    )


def _paired(reference: Tensor, generated: Tensor) -> tuple[Tensor, Tensor]:
    first, second = pairs(len(reference), len(generated))
    return reference[first.to(reference.device)], generated[second.to(generated.device)]
