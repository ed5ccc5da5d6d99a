"""Changes without any method, which every method has to beat."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .draws import stream


def random_signs(image: Tensor, budget: float, *, seed: int) -> Tensor:
    """[B,C,H,W] in [0,1] -> the same with each value moved by exactly +-floor(budget) 8-bit levels, then clamped; equal for equal seeds.

    The strongest noise within an L-infinity budget. Every picture of the batch gets the same. Raises ValueError below 1 level.
    """
    levels = math.floor(budget)
    if levels < 1:
        raise ValueError(f"The budget is {budget:g} levels: choose at least 1, since files hold whole levels.")
    signs = torch.randint(0, 2, image.shape[1:], generator=stream(seed, "noise")) * 2 - 1
    return (image + signs.to(image) * levels / 255).clamp(0, 1)
