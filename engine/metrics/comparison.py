"""What was measured of one victim's videos, as plain values: reports and files are made from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import NoneType
from typing import Any

from torch import Tensor

from .measure import Higher

CLEAN, PROTECTED, NOISE, TRUTH = "clean", "protected", "noise", "truth"
"""Branches of an attack: what the victim made of the clean picture, of the protected one, of one with random noise of equal budget,
and the video that it should have made."""

BRANCHES = (CLEAN, PROTECTED, NOISE, TRUTH)
"""In the order of every table, strip and chart."""

CHANGED = (PROTECTED, NOISE)
"""Branches whose picture is not the clean one."""

BRANCH_NAMES = {CLEAN: "clean", PROTECTED: "protected", NOISE: "noise", TRUTH: "ground truth"}
"""In sentences and headings."""


@dataclass(frozen=True)
class Reading:
    """One measure of one branch. Either value (mean of the items) with its 95 % interval [low, high], or `why` it is missing.

    items: per frame, transition or window, in order; () for a measure of whole sets. n: how many items the value stands on.
    low and high are None where no interval can be given.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    items: tuple[float, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class Row:
    """One measure. reference: the branch that others were compared with, or "" for a measure of each video by itself."""

    name: str
    unit: str
    higher: Higher | None
    reference: str
    readings: Mapping[str, Reading]


@dataclass(frozen=True)
class Comparison:
    """All rows of one victim. strips: branch -> a few frames [S,3,h,w] uint8 at `strip_indices`, for looking at.

    surrogate: whether the protection was made with this very victim. frames and size (height, width) are those compared.
    """

    victim: str
    surrogate: bool
    frames: int
    size: tuple[int, int]
    rows: tuple[Row, ...]
    strips: Mapping[str, Tensor]
    strip_indices: tuple[int, ...]
    notes: tuple[str, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Everything but the pictures, as values that every JSON reader takes.

    JSON has no infinity: it is written as the text "inf" or "-inf" (PSNR of equal frames), and what is not a number as null.
    Of the strips only their branches, sizes and frame numbers (from 0) are told; settings that are no plain values become text.
    """
    return {
        "victim": comparison.victim,
        "surrogate": comparison.surrogate,
        "frames": comparison.frames,
        "height": comparison.size[0],
        "width": comparison.size[1],
        "notes": list(comparison.notes),
        "settings": plain(comparison.settings),
        "strips": {
            "frames": list(comparison.strip_indices),
            "branches": {branch: {"height": strip.shape[-2], "width": strip.shape[-1]} for branch, strip in comparison.strips.items()},
        },
        "rows": [
            {
                "name": row.name,
                "unit": row.unit,
                "higher": row.higher,
                "reference": row.reference,
                "readings": {branch: plain(asdict(reading)) for branch, reading in row.readings.items()},
            }
            for row in comparison.rows
        ],
    }


def plain(value: object) -> Any:
    """A value as JSON knows it: see as_json."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value if isinstance(value, (str, int, float, bool, NoneType)) else str(value)
