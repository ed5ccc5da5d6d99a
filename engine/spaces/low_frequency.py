"""The low frequencies of a picture: coefficients of its discrete cosine transform, as Anti-I2V's second space."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

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
        return picture.new_zeros(*picture.shape[:2], 1, int(self._places(picture).sum()))

    def moved(self, picture: Tensor, step: Tensor) -> Tensor:
        places, height, width = self._places(picture), picture.shape[-2], picture.shape[-1]
        unit = (height * width / step.shape[-1]) ** 0.5
        flat = step.new_zeros(*step.shape[:2], places.numel()).index_copy(-1, places.flatten().nonzero()[:, 0], step[..., 0, :] * unit)
        rows, columns = (cosines(side, waves, step.device).to(step) for side, waves in zip((height, width), places.shape, strict=True))
        return picture + rows.mT @ flat.unflatten(-1, places.shape) @ columns

    def coefficients(self, picture: Tensor) -> Tensor:
        """Of the band, [B,C,1,K], in the units of a step."""
        places, height, width = self._places(picture), picture.shape[-2], picture.shape[-1]
        rows, columns = (
            cosines(side, waves, picture.device).to(picture) for side, waves in zip((height, width), places.shape, strict=True)
        )
        found = (rows @ picture @ columns.mT)[..., places]
        return found[..., None, :] * (found.shape[-1] / (height * width)) ** 0.5

    def _places(self, picture: Tensor) -> Tensor:
        """Which of the lowest coefficients belong to the band, [rows,columns] bool."""
        height, width = picture.shape[-2], picture.shape[-1]
        places = _band(self.band, self.reach, self.dc, height, width, *self.working_size.size(height, width), picture.device)
        if not bool(places.any()):
            raise ValueError(f"The band has no frequency at {width}x{height}: raise its reach of {self.reach:g}.")
        return places


@lru_cache(maxsize=16)
def _band(band: Band, reach: float, dc: bool, height: int, width: int, h: int, w: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        u, v = (torch.arange(side, dtype=torch.float64) / seen for side, seen in ((height, h), (width, w)))
        places = u[:, None] + v < reach if band == "triangle" else torch.maximum(u[:, None], v) < reach
        places[0, 0] &= dc
        # Only as far as the band goes: a large photo has few of its waves.
        return places[: max(1, int((u < reach).sum())), : max(1, int((v < reach).sum()))].to(device)


@lru_cache(maxsize=16)
def cosines(length: int, waves: int, device: torch.device) -> Tensor:
    """The first rows of the orthonormal DCT-II, [waves,length] fp64 on the CPU and fp32 elsewhere."""
    with torch.inference_mode(False), torch.no_grad():
        places, numbers = torch.arange(length, dtype=torch.float64) + 0.5, torch.arange(waves, dtype=torch.float64)
        rows = torch.cos(torch.pi / length * numbers[:, None] * places) * (2 / length) ** 0.5
        rows[0] *= 0.5**0.5
        return rows if device.type == "cpu" else rows.float().to(device)
