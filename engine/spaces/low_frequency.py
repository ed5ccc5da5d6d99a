"""The low frequencies of a picture: coefficients of its discrete cosine transform, as Anti-I2V's second space."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
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

    def __post_init__(self) -> None:
        if not 0 < self.reach <= 2:
            raise ValueError(f"The band reaches to {self.reach:g} of the highest frequency: choose more than 0, up to 2.")

    def still(self, picture: Tensor) -> Tensor:
        return picture.new_zeros(*picture.shape[:2], 1, len(self._places(picture).numbers))

    def moved(self, picture: Tensor, step: Tensor) -> Tensor:
        places, height, width = self._places(picture), picture.shape[-2], picture.shape[-1]
        unit = (height * width / step.shape[-1]) ** 0.5
        grid = step.new_zeros(*step.shape[:2], places.rows * places.columns).index_copy(-1, places.numbers, step[..., 0, :] * unit)
        down, across = cosines(height, places.rows, step.device).to(step), cosines(width, places.columns, step.device).to(step)
        change: Tensor = down.mT @ grid.unflatten(-1, (places.rows, places.columns)) @ across
        return picture + change

    def _places(self, picture: Tensor) -> _Places:
        height, width = picture.shape[-2], picture.shape[-1]
        places = _band(self.band, self.reach, self.dc, height, width, *self.working_size.size(height, width), picture.device)
        if not len(places.numbers):
            raise ValueError(f"The band has no frequency at {width}x{height}: raise its reach of {self.reach:g}.")
        return places


class _Places(NamedTuple):
    """Which of the lowest coefficients [rows,columns] belong to a band: their numbers, row by row, on the picture's device."""

    rows: int
    columns: int
    numbers: Tensor


@lru_cache(maxsize=16)
def _band(band: Band, reach: float, dc: bool, height: int, width: int, h: int, w: int, device: torch.device) -> _Places:
    with torch.inference_mode(False):
        u, v = (torch.arange(side, dtype=torch.float64) / seen for side, seen in ((height, h), (width, w)))
        inside = u[:, None] + v < reach if band == "triangle" else torch.maximum(u[:, None], v) < reach
        inside[0, 0] &= dc
        # Only as far as the band goes: a large photo has few of its waves.
        lowest = inside[: max(1, int((u < reach).sum())), : max(1, int((v < reach).sum()))]
        return _Places(lowest.shape[0], lowest.shape[1], lowest.flatten().nonzero()[:, 0].to(device))


@lru_cache(maxsize=16)
def cosines(length: int, waves: int, device: torch.device) -> Tensor:
    """The first rows of the orthonormal DCT-II, [waves,length] fp64 on the CPU and fp32 elsewhere."""
    with torch.inference_mode(False), torch.no_grad():
        places, numbers = torch.arange(length, dtype=torch.float64) + 0.5, torch.arange(waves, dtype=torch.float64)
        rows: Tensor = torch.cos(torch.pi / length * numbers[:, None] * places) * (2 / length) ** 0.5
        rows[0] *= 0.5**0.5
        return rows if device.type == "cpu" else rows.float().to(device)
