"""The low frequencies of a picture: coefficients of its discrete cosine transform, as Anti-I2V's second space."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..observation import WorkingSize
from .moved import Moved

Band = Literal["triangle", "square"]


@dataclass(frozen=True)
class LowFrequency(Moved):
    """Steps in low coefficients of the orthonormal DCT-II of the whole picture, each channel on its own.

    Anti-I2V (CVPR 2026) perturbs "low-frequency coefficients only", and bounds the result in RGB. Which they are is our reconstruction:
    (u, v) with u/h + v/w < reach ("triangle", the order of JPEG's zigzag) or max(u/h, v/w) < reach ("square"), where h x w is the size at
    which surrogates see the photo, so that a large photo's band is theirs too. dc: whether the mean, (0, 0), is one of them.
    A coefficient is counted in such units that a step of one unit along its sign changes pixels by one level of root mean square.
    pixels: the budget, as for RGB. Raises ValueError unless 0 < reach <= 2, and when a run begins, for a band without a coefficient.
    """

    band: Band = "triangle"
    reach: float = 0.25
    dc: bool = True
    working_size: WorkingSize = field(default_factory=WorkingSize)
    # Of this space alone, so that a device has them no longer than a run takes.
    _known: dict[tuple[int, int, torch.device, torch.dtype], _Waves] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 < self.reach <= 2:
            raise ValueError(f"The band reaches to {self.reach:g} of the highest frequency: choose more than 0, up to 2.")

    def still(self, picture: Tensor) -> Tensor:
        return picture.new_zeros(*picture.shape[:2], 1, len(self._waves(picture).numbers))

    def moved(self, picture: Tensor, step: Tensor) -> Tensor:
        waves = self._waves(picture)
        down, across = waves.down, waves.across
        unit = (picture.shape[-2] * picture.shape[-1] / step.shape[-1]) ** 0.5
        grid = step.new_zeros(*step.shape[:2], len(down) * len(across)).index_copy(-1, waves.numbers, step[..., 0, :] * unit)
        change: Tensor = down.mT @ grid.unflatten(-1, (len(down), len(across))) @ across
        return picture + change

    def _waves(self, picture: Tensor) -> _Waves:
        height, width = picture.shape[-2], picture.shape[-1]
        key = (height, width, picture.device, picture.dtype)
        if key not in self._known:
            seen = self.working_size.size(height, width)
            inside = _band(self.band, self.reach, self.dc, height, width, *seen)
            if not bool(inside.any()):
                raise ValueError(f"The band has no frequency at {width}x{height}: raise its reach of {self.reach:g}.")
            numbers = inside.flatten().nonzero()[:, 0].to(picture.device)
            down, across = (cosines(side, waves).to(picture) for side, waves in zip((height, width), inside.shape, strict=True))
            self._known[key] = _Waves(numbers, down, across)
        return self._known[key]


class _Waves(NamedTuple):
    """Those of a band, on the picture's device: numbers of coefficients in a grid, row by row, and the waves that this grid stands for,
    [rows,H] and [columns,W]."""

    numbers: Tensor
    down: Tensor
    across: Tensor


def _band(band: Band, reach: float, dc: bool, height: int, width: int, h: int, w: int) -> Tensor:
    """Which coefficients belong to it, bool, only as far as the band goes: a large photo has few of its waves."""
    u, v = (torch.arange(side, dtype=torch.float64) / seen for side, seen in ((height, h), (width, w)))
    inside = u[:, None] + v < reach if band == "triangle" else torch.maximum(u[:, None], v) < reach
    inside[0, 0] &= dc
    return inside[: max(1, int((u < reach).sum())), : max(1, int((v < reach).sum()))]


def cosines(length: int, waves: int) -> Tensor:
    """The first rows of the orthonormal DCT-II, [waves,length] fp64."""
    places, numbers = torch.arange(length, dtype=torch.float64) + 0.5, torch.arange(waves, dtype=torch.float64)
    rows: Tensor = torch.cos(torch.pi / length * numbers[:, None] * places) * (2 / length) ** 0.5
    rows[0] *= 0.5**0.5
    return rows
