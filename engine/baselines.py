"""Changes without any method, which every method has to beat."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .draws import stream
from .picture import LEVELS, check_finite, split_alpha, to_levels


def random_signs(image: Tensor, budget: float, *, seed: int) -> Tensor:
    """[B,C,H,W] in [0,1] -> the same with each value moved by exactly +-floor(budget) 8-bit levels, then clamped; equal for equal seeds.

    The strongest noise within an L-infinity budget. Every picture of the batch gets the same, alpha none. Raises ValueError below 1
    level, and on pixels that are not finite.
    """
    levels = math.floor(budget)
    if levels < 1:
        raise ValueError(f"The budget is {budget:g} levels: choose at least 1, since files hold whole levels.")
    check_finite(image)
    colour, alpha = split_alpha(image)
    signs = torch.randint(0, 2, colour.shape[1:], generator=stream(seed, "noise")) * 2 - 1
    # From the levels that a file of the picture holds: from others, rounding could add one.
    noisy = ((to_levels(colour) + signs.to(colour) * levels) / LEVELS).clamp(0, 1)
    return noisy if alpha is None else torch.cat([noisy, alpha], dim=1)
