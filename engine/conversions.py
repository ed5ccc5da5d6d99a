"""Pictures in other forms, each in one place: on the 8-bit grid, with three channels, smaller, cut, and as Pillow's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .picture import LEVELS, split_alpha, to_levels


def on_grid(image: Tensor) -> Tensor:
    """[0,1] -> the nearest values that an 8-bit file holds, of the same shape, fp32 or wider. No gradient passes."""
    return to_levels(image) / LEVELS


def in_colour(image: Tensor) -> Tensor:
    """[B,C,H,W] -> [B,3,H,W] fp32, without alpha and with grey as three equal channels, which share their memory.

    Raises ValueError when C is not 1, 3 or 4.
    """
    return split_alpha(image)[0].float().expand(-1, 3, -1, -1)


def on_white(image: Tensor) -> Tensor:
    """[B,4,H,W] -> [B,3,H,W]: what shows through where alpha is below 1 is white."""
    colours, alpha = image[:, :3], image[:, 3:]
    return colours * alpha + (1 - alpha)


def within(height: int, width: int, longest: int) -> tuple[int, int]:
    """The size with its longer side reduced to `longest`, the aspect kept; a smaller picture stays as it is."""
    scale = min(1.0, longest / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def middle(image: Tensor, height: int, width: int) -> Tensor:
    """[...,H,W] -> its middle, [...,height,width], or all of it where a side is shorter.

    Where an odd number of pixels goes, the larger half goes below and to the right, as ComfyUI's nodes have it.
    torchvision's CenterCrop differs by a pixel in every other such case: see metrics.similarity.torchvision_crop.
    """
    top, left = (max(0, (own - kept) // 2) for own, kept in zip(image.shape[-2:], (height, width), strict=True))
    return image[..., top : top + height, left : left + width]


def to_pillow(picture: Tensor) -> Image.Image:
    """[C,H,W] in [0,1], C = 1, 3 or 4 -> greyscale, RGB or RGBA of 8 bits."""
    levels = to_levels(picture.float()).byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels)


def from_pillow(picture: Image.Image) -> Tensor:
    """A picture of 8 bits a channel -> [C,H,W] fp32 in [0,1], on the CPU."""
    levels = np.array(picture)
    return torch.from_numpy(levels).view(*levels.shape[:2], -1).permute(2, 0, 1).float() / LEVELS


def through_pillow(image: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    """[B,C,H,W] in [0,1], C = 1 or 3 -> what `change` makes of each picture, with as many channels, as levels / 255. Not differentiable."""
    mode = "L" if image.shape[1] == 1 else "RGB"
    return torch.stack([from_pillow(change(to_pillow(picture)).convert(mode)) for picture in image]).to(image.device)
