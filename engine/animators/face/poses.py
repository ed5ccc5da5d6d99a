"""Poses of the face animator: 45 numbers, by name."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_SIDED = {
    "eyebrow": ("troubled", "angry", "lowered", "raised", "happy", "serious"),
    "eye": ("wink", "happy_wink", "surprised", "relaxed", "unimpressed", "raised_lower_eyelid"),
}


def _both(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}_{side}" for name in names for side in ("left", "right"))


MOUTHS = ("mouth_aaa", "mouth_iii", "mouth_uuu", "mouth_eee", "mouth_ooo", "mouth_delta")
WINKS = ("eye_wink", "eye_happy_wink", "eye_relaxed")
TURNS = ("iris_rotation_x", "iris_rotation_y", "head_x", "head_y", "neck_z", "body_y", "body_z")
"""Those that go from -1 to 1; all others go from 0 to 1."""

NAMES = (
    *(name for part, kinds in _SIDED.items() for name in _both(*(f"{part}_{kind}" for kind in kinds))),
    *_both("iris_small"),
    *MOUTHS,
    *_both("mouth_lowered_corner", "mouth_raised_corner"),
    "mouth_smirk",
    *TURNS,
    "breathing",
)
"""In the order in which the networks read them: eyebrows, face, head and body."""

_PLACES = {name: index for index, name in enumerate(NAMES)}


def pose(values: Mapping[str, float]) -> Tensor:
    """[45]: 0, which is rest, where nothing is said. Raises KeyError for a name that is none."""
    numbers = torch.zeros(len(NAMES))
    for name, value in values.items():
        numbers[_PLACES[name]] = value
    return numbers


def drawn(numbers: Tensor) -> Tensor:
    """A pose as animations have them, of 16 numbers uniform in [0,1]: one mouth shape, one eye or both, brows, and a turn."""
    u = numbers.tolist()
    mouth = MOUTHS[int(u[0] * len(MOUTHS)) % len(MOUTHS)]
    values = {mouth: 0.3 + 0.7 * u[1]}
    sides = (("left", "right"), ("left",), ("right",))[int(u[2] * 3) % 3]
    wink = WINKS[int(u[3] * len(WINKS)) % len(WINKS)]
    values |= {f"{wink}_{side}": u[4] for side in sides}
    brows = _SIDED["eyebrow"][int(u[5] * 6) % 6]
    values |= {f"eyebrow_{brows}_{side}": u[6] for side in ("left", "right")}
    values |= {f"mouth_raised_corner_{side}": 0.5 * u[7] for side in ("left", "right")}
    values |= {name: 2 * u[8 + index] - 1 for index, name in enumerate(TURNS)}
    values["breathing"] = u[15]
    return pose(values)
