"""Masks that an editor might have drawn in place of a given one, a new one at each look at a picture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..draws import Draws, placed, uniform
from ..picture import resize

# The longer side at which contours are moved: editors see no more, their masks being an eighth of 512 pixels.
_GRID = 64
# How many bends a contour has: numbers on each side, of which the irregularity is made.
_BENDS = 6
# Of the depth of what is kept or repainted: more is never taken away.
_MOST = 0.9


@dataclass(frozen=True)
class Redrawn:
    """The mask with its contour moved by a random distance, and by a smooth irregularity on top that differs from place to place.

    Both are shares of the depth, which is the largest distance from the contour of what the editor keeps, or of what he repaints where the
    contour moves there. either_way: False: he repaints all of the mask and more, so that less of the picture is left to him, as in
    DiffusionGuard (Choi et al. 2025); True: more or less. reach: the distance is uniform up to it. irregularity: standard deviation.
    """

    either_way: bool = False
    reach: float = 0.7
    irregularity: float = 0.15

    def __call__(self, mask: Tensor, draws: Draws) -> Tensor:
        """mask: [1,1,H,W] of 0 and 1, where 1 is repainted, with some of both; so is what is returned."""
        distance = signed_distance(self._coarse(mask))
        moved = self._share(distance, draws)
        # Positive where the picture is kept.
        depth = torch.where(moved > 0, distance.amax(), -distance.amin())
        redrawn = F.interpolate(distance - moved * depth, mask.shape[-2:], mode="bilinear") <= 0
        redrawn = redrawn.to(mask) if self.either_way else torch.maximum(redrawn.to(mask), mask)
        # Where a thread is all that is kept, a coarse grid may lose it.
        return torch.where(redrawn.amin() < redrawn.amax(), redrawn, mask)

    def _coarse(self, mask: Tensor) -> Tensor:
        height, width = mask.shape[-2:]
        scale = min(1.0, _GRID / max(height, width))
        return resize(mask, (max(1, round(height * scale)), max(1, round(width * scale)))) >= 0.5

    def _share(self, like: Tensor, draws: Draws) -> Tensor:
        """Of the depth, by which the contour moves into what is kept; below 0 into what is repainted."""
        amount = placed(uniform(draws, "mask's distance", (1, 1, 1, 1)), like) * self.reach
        bends = placed(draws.normal("mask's contour", (1, 1, _BENDS, _BENDS)), like) * self.irregularity
        bends = F.interpolate(bends, like.shape[-2:], mode="bicubic")
        if not self.either_way:
            return (amount + bends).clamp(0, _MOST)
        return (2 * amount - self.reach + bends).clamp(-_MOST, _MOST)


def signed_distance(repainted: Tensor) -> Tensor:
    """[1,1,h,w] bool -> the Euclidean distance to the contour in pixels, fp32: above 0 outside of the mask and below 0 inside.

    Where there is no contour, that is a number larger than the picture.
    """
    return (_squared_distance(repainted).sqrt() - 0.5).clamp_min(0) - (_squared_distance(~repainted).sqrt() - 0.5).clamp_min(0)


def _squared_distance(to: Tensor) -> Tensor:
    """Of each pixel from the nearest that is `to`: along rows first, then along columns (Felzenszwalb and Huttenlocher 2012)."""
    height, width = to.shape[-2:]
    down, along = (torch.arange(side, device=to.device, dtype=torch.float32) for side in (height, width))
    # [..., h, w, nearest in its row]
    rows = torch.where(to[..., None, :], (along[:, None] - along).square(), float((height + width) ** 2)).amin(-1)
    # [..., h, nearest in its column, w]
    return (rows[..., None, :, :] + (down[:, None] - down).square()[..., None]).amin(-2)
