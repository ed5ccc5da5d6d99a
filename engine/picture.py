"""Facts about pictures that every part shares: 8-bit levels, alpha, sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

LEVELS = 255

Filter = Literal["bilinear", "bicubic"]

# Elsewhere (Apple's GPUs, for one) the backward pass of the antialiased resize and float64 are missing.
COMPLETE_DEVICES = ("cpu", "cuda")


STRIP = 2**20
"""Values of a tensor that pointwise work on large pictures handles at once, see `strips`."""


def strips(like: Tensor) -> Iterator[slice]:
    """Rows of [..., H, W], STRIP values at a time, so that what pointwise work needs in between does not grow with the picture."""
    height = like.shape[-2]
    rows = max(1, STRIP * height // max(1, like.numel()))
    for first in range(0, height, rows):
        yield slice(first, first + rows)


def to_levels(image: Tensor) -> Tensor:
    """[0,1] -> the 8-bit level 0..255 that a saved file holds, as float of the same shape, fp32 or wider."""
    # Half precision has fewer steps near 1 than there are levels times 2: the product itself would round to another level.
    wide = image.to(torch.promote_types(image.dtype, torch.float32))
    return (wide * LEVELS).round().clamp(0, LEVELS)


def whole_levels(budget: float, mask: Tensor | None) -> Tensor:
    """Levels that a budget allows after rounding, where a mask in [0,1] scales it; of the mask's shape, or a scalar."""
    if mask is None:
        # Not as a tensor, whose fp32 would make 2 of what is a hair less.
        return torch.tensor(float(math.floor(budget)))
    # The tolerance keeps 8.0 from becoming 7 by the rounding of a product.
    return (mask * budget + 1e-4).floor()


def split_alpha(image: Tensor) -> tuple[Tensor, Tensor | None]:
    """[B,C,H,W] -> colour [B,1 or 3,H,W] and alpha [B,1,H,W] or None.

    Raises ValueError when C is not 1, 3 or 4.
    """
    channels = image.shape[1]
    if channels not in (1, 3, 4):
        raise ValueError(f"The picture has {channels} channels: give a greyscale, RGB or RGBA picture.")
    return (image[:, :3], image[:, 3:]) if channels == 4 else (image, None)


def resize(image: Tensor, size: tuple[int, int], *, by: Filter = "bilinear") -> Tensor:
    """[B,C,H,W] -> [B,C,*size], differentiable, with antialiasing as common preprocessing has it. Bilinear is free of overshoot."""
    if tuple(image.shape[-2:]) == size:
        return image
    if image.device.type in COMPLETE_DEVICES:
        return F.interpolate(image, size=size, mode=by, antialias=True)
    return resize_by_matrices(image, size, by=by)


def resize_by_matrices(image: Tensor, size: tuple[int, int], *, by: Filter = "bilinear") -> Tensor:
    """What `resize` computes, up to rounding, as a matrix product for each side: these have a backward pass on every device."""
    rows, columns = (_weights(own, wanted, by, image.device).to(image.dtype) for own, wanted in zip(image.shape[-2:], size, strict=True))
    return rows @ image @ columns.mT


@lru_cache(maxsize=16)
def _weights(length: int, wanted: int, by: Filter, device: torch.device) -> Tensor:
    """[wanted,length] fp32: what each new pixel takes from the old ones, as PyTorch and Pillow weigh them."""
    # Kept for later calls, which autograd may use.
    with torch.inference_mode(False), torch.no_grad():
        scale = length / wanted
        centres = (torch.arange(wanted, dtype=torch.float64) + 0.5) * scale
        places = torch.arange(length, dtype=torch.float64) + 0.5
        distance = (places - centres[:, None]).abs() / max(scale, 1.0)
        weights = (1 - distance).clamp_min(0) if by == "bilinear" else _cubic(distance)
        return (weights / weights.sum(1, keepdim=True)).float().to(device)


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic convolution (1981) with a = -1/2, at distances of 0 and more."""
    near = (1.5 * distance - 2.5) * distance.square() + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0))


def squash(image: Tensor, side: int) -> Tensor:
    """[B,1 or 3,H,W] in [0,1] -> [B,1 or 3,side,side] on the 8-bit grid, by Pillow's bicubic filter and without keeping the aspect.

    Not differentiable: how Dormant's official code prepares a photo.
    """

    def one(picture: Tensor) -> Tensor:
        levels = to_levels(picture.float()).byte().permute(1, 2, 0).cpu().numpy()
        small = Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels).resize((side, side), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(small)).view(side, side, -1).permute(2, 0, 1).float() / LEVELS

    return torch.stack([one(picture) for picture in image]).to(image.device)


def largest_change(clean: Tensor, protected: Tensor) -> float:
    """Of a value of the colour part of [B,C,H,W] in the whole batch, in 8-bit levels."""
    return float(_change(clean, protected).abs().max())


def amplified(clean: Tensor, protected: Tensor, *, budget: float | None) -> Tensor:
    """The perturbation around middle grey, scaled so that +-budget levels fill [0,1]; shape of the colour part of `clean`.

    budget: None for the largest change that there is, at least 1 level.
    """
    change = _change(clean, protected)
    return (0.5 + change / (2 * (float(change.abs().max().clamp_min(1)) if budget is None else budget))).clamp(0, 1)


def _change(clean: Tensor, protected: Tensor) -> Tensor:
    return to_levels(split_alpha(protected)[0]) - to_levels(split_alpha(clean)[0])


def check_finite(image: Tensor) -> None:
    """Raises ValueError when a pixel is NaN or infinite."""
    if not bool(torch.isfinite(image).all()):
        raise ValueError(
            "The picture has pixels that are not numbers (NaN or infinity): look for the node before this one that made them, "
            "often a VAE Decode in half precision."
        )


def nearest_signed(image: Tensor, size: int = 224) -> Tensor:
    """[B,3,H,W] in [0,1] -> [B,3,size,size] in [-1,1], by nearest pixel, the aspect not kept, not normalised.

    How Dormant's official code prepares pictures for CLIP. CLIP was trained otherwise, and victims prepare them otherwise.
    """
    return F.interpolate(image * 2 - 1, size=(size, size))
