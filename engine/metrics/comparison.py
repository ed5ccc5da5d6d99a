"""What was measured of one victim's videos, as plain values: reports and files are made from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from .measure import Higher

CLEAN, PROTECTED, NOISE, TRUTH = "clean", "protected", "noise", "truth"
"""Branches of an attack: what the victim made of the clean picture, of the protected one, of one with random noise of equal budget,
and the video that it should have made."""


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
