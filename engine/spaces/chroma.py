"""The colour of pixels without their lightness: a* and b* of CIE L*a*b*, as Anti-I2V's first space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..colour import chroma_gradient, lab_to_rgb, rgb_to_lab
from ..picture import strips
from .moved import Moved


@dataclass(frozen=True)
class Chroma(Moved):
    """Steps in a* and b*; L* stays until the budget or the range of pictures cuts.

    Anti-I2V (CVPR 2026) perturbs "only a*, b*", and bounds the result in RGB. How a step is made is our reconstruction.
    pixels: the budget, as for RGB. size: of a unit, in units of a* and b*.
    Raises ValueError for a picture of one channel, which has no colour.
    """

    size: float = 1.0

    @property
    def unit(self) -> float:
        return self.size

    def still(self, picture: Tensor) -> Tensor:
        if picture.shape[1] != 3:
            raise ValueError("The picture is greyscale and has no colour to change: make it RGB, or choose another space.")
        return torch.zeros_like(picture[:, :2])

    def moved(self, picture: Tensor, step: Tensor) -> Tensor:
        moved: Tensor = _Recoloured.apply(picture, step)  # type: ignore[no-untyped-call]
        return moved


class _Recoloured(torch.autograd.Function):
    """With the derivative in closed form, and strip by strip: autograd would keep twenty pictures."""

    @staticmethod
    def forward(ctx: Any, picture: Tensor, step: Tensor) -> Tensor:
        ctx.save_for_backward(picture, step)
        # Each step begins at 0. On the host it costs little to see that, and half of a step's time is saved; a device would be waited for.
        if step.device.type == "cpu" and not bool(step.any()):
            return picture.clone()
        moved = torch.empty_like(picture)
        for rows in strips(picture):
            before = _lab(picture, rows)
            # The difference, so that what rounding does to the way there and back does not enter.
            change = lab_to_rgb(_shifted(before, step[..., rows, :])) - lab_to_rgb(before)
            moved[..., rows, :] = picture[..., rows, :] + change
        return moved

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        picture, step = ctx.saved_tensors
        found = torch.empty_like(step)
        for rows in strips(picture):
            lab = _shifted(_lab(picture, rows), step[..., rows, :])
            found[..., rows, :] = chroma_gradient(lab, gradients[0][..., rows, :])
        return None, found


def _lab(picture: Tensor, rows: slice) -> Tensor:
    """Of these rows; contiguous, since powers of strided values are computed one by one."""
    return rgb_to_lab(picture[..., rows, :].contiguous())


def _shifted(lab: Tensor, step: Tensor) -> Tensor:
    return torch.cat([lab[:, :1], lab[:, 1:] + step], 1)
