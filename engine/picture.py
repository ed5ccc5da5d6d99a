"""Facts about pictures that every part shares: 8-bit levels, alpha, sizes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

LEVELS = 255


STRIP = 2**20
"""Values of a tensor that pointwise work on large pictures handles at once, see `strips`."""


def strips(like: Tensor) -> Iterator[slice]:
    """Rows of [..., H, W], STRIP values at a time, so that what pointwise work needs in between does not grow with the picture."""
    height = like.shape[-2]
    rows = max(1, STRIP * height // max(1, like.numel()))
    for first in range(0, height, rows):
        yield slice(first, first + rows)


def to_levels(image: Tensor) -> Tensor:
    """[0,1] -> the 8-bit level 0..255 that a saved file holds, as float of the same shape."""
    return (image * LEVELS).round().clamp(0, LEVELS)


def split_alpha(image: Tensor) -> tuple[Tensor, Tensor | None]:
    """[B,C,H,W] -> colour [B,1 or 3,H,W] and alpha [B,1,H,W] or None.

    Raises ValueError when C is not 1, 3 or 4.
    """
    channels = image.shape[1]
    if channels not in (1, 3, 4):
        raise ValueError(f"The picture has {channels} channels: give a greyscale, RGB or RGBA picture.")
    return (image[:, :3], image[:, 3:]) if channels == 4 else (image, None)


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Differentiable bilinear resize with antialiasing: what common preprocessing does, and free of overshoot."""
    if tuple(image.shape[-2:]) == size:
        return image
    return F.interpolate(image, size=size, mode="bilinear", antialias=True)


def squash(image: Tensor, side: int) -> Tensor:
    """[B,1 or 3,H,W] in [0,1] -> [B,1 or 3,side,side] on the 8-bit grid, by Pillow's bicubic filter and without keeping the aspect.

    Not differentiable: how Dormant's official code prepares a photo.
    """

    def one(picture: Tensor) -> Tensor:
        levels = to_levels(picture.float()).byte().permute(1, 2, 0).cpu().numpy()
        small = Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels).resize((side, side), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(small)).view(side, side, -1).permute(2, 0, 1).float() / LEVELS

    return torch.stack([one(picture) for picture in image]).to(image.device)


def amplified(clean: Tensor, protected: Tensor, *, budget: float) -> Tensor:
    """The perturbation around middle grey, scaled so that +-budget levels fill [0,1]; shape of the colour part of `clean`."""
    difference = to_levels(split_alpha(protected)[0]) - to_levels(split_alpha(clean)[0])
    return (0.5 + difference / (2 * budget)).clamp(0, 1)


def check_finite(image: Tensor) -> None:
    """Raises ValueError when a pixel is NaN or infinite."""
    if not bool(torch.isfinite(image).all()):
        raise ValueError(
            "The picture has pixels that are not numbers (NaN or infinity): look for the node before this one that made them, "
            "often a VAE Decode in half precision."
        )
