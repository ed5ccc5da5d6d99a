"""Pictures with a name above each, and many of them on one sheet."""

from __future__ import annotations

import math

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from .conversions import from_pillow

GAP = 4
"""White pixels between the pictures of a sheet."""


def strip_height(width: int) -> int:
    """Pixels that the name above a picture of this width takes."""
    return max(12, width // 12)


def labelled(picture: Tensor, label: str, size: tuple[int, int]) -> Tensor:
    """[3,h,w] in [0,1] -> [3,H + strip_height(W),W] fp32: enlarged to (H, W) with its own pixels as squares, white on black above it the
    label, in letters that let all of it be read."""
    width = size[1]
    shown = F.interpolate(picture[None].float().cpu(), size=size, mode="nearest-exact")[0]
    strip = Image.new("RGB", (width, strip_height(width)), "black")
    draw, letters = ImageDraw.Draw(strip), strip.height * 3 // 4
    while letters > 6 and draw.textlength(label, font_size=letters) > width - 4:
        letters -= 1
    draw.text((width / 2, strip.height / 2), label, fill="white", anchor="mm", font_size=letters)
    return torch.cat([from_pillow(strip), shown], dim=1)


def contact_sheet(pictures: Tensor) -> Tensor:
    """[N,3,H,W] -> [3,h,w]: row by row, on white, in about as many rows as columns."""
    count, _, height, width = pictures.shape
    columns = min(count, math.ceil(math.sqrt(count * height / width)))
    rows = math.ceil(count / columns)
    sheet = torch.ones(3, rows * (height + GAP) - GAP, columns * (width + GAP) - GAP)
    for index, picture in enumerate(pictures):
        top, left = index // columns * (height + GAP), index % columns * (width + GAP)
        sheet[:, top : top + height, left : left + width] = picture
    return sheet
