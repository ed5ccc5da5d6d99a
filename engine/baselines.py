"""Changes without any method, which every method has to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from .draws import stream
from .picture import LEVELS, check_finite, split_alpha, to_levels, whole_levels


def random_signs(image: Tensor, budget: float, *, seed: int, mask: Tensor | None = None) -> Tensor:
    """[B,C,H,W] in [0,1] -> the same with each value moved by exactly +-floor(budget) 8-bit levels, then clamped; equal for equal seeds.

    The strongest noise within an L-infinity budget, fp32. Every picture of the batch gets the same, alpha none. mask: [1 or B,1,H,W]
    in [0,1], which scales the budget as it does in a protection; where it leaves less than a level, the picture stays as it came.
    Raises ValueError below 1 level, and on pixels that are not finite.
    """
    if budget < 1:
        raise ValueError(f"The budget is {budget:g} levels: choose at least 1, since files hold whole levels.")
    check_finite(image)
    colour, alpha = split_alpha(image.float())
    signs = torch.randint(0, 2, colour.shape[1:], generator=stream(seed, "noise")) * 2 - 1
    levels = whole_levels(budget, mask).to(colour)
    # From the levels that a file of the picture holds: from others, rounding could add one.
    noisy = ((to_levels(colour) + signs.to(colour) * levels) / LEVELS).clamp(0, 1)
    noisy = torch.where(levels > 0, noisy, colour)
    return noisy if alpha is None else torch.cat([noisy, alpha], dim=1)
