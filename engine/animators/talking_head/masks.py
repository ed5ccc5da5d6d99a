"""Where Hallo is told that the face and the lips are, from MediaPipe's landmarks.

The numbers are those of its preprocessing, made with torch where it has OpenCV and Pillow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .audio import REGIONS
from .denoiser import Masks

# fmt: off
# Of MediaPipe's face mesh: the outer lips, and the oval of the face.
LIPS = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 146, 91, 181, 84, 17, 314, 405, 321, 375)
OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)
# fmt: on
# How much larger than what the landmarks span the boxes are, and how wide they are blurred.
_LIPS_RATIO, _FACE_RATIO = 2.0, 1.2
_LIPS_KERNEL, _FACE_KERNEL = 31, 51
_SIDE = 64
"""Side of the maps before they are shrunk to the UNet's levels."""


@dataclass(frozen=True)
class Box:
    """Pixels left <= x < right, top <= y < bottom."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def area(self) -> int:
        return (self.right - self.left) * (self.bottom - self.top)

    def mask(self, height: int, width: int) -> Tensor:
        """[1,1,H,W]: 1 inside."""
        mask = torch.zeros(1, 1, height, width)
        mask[..., self.top : self.bottom, self.left : self.right] = 1
        return mask


@dataclass(frozen=True, eq=False)
class Regions:
    """Soft maps of a picture: [3,h,w] in [0,1], of background, face and lips, which need not add up to 1."""

    maps: Tensor

    def levels(self, height: int, width: int, count: int) -> Masks:
        """For latents of this size and the UNet's `count` levels, each of half the one before: [3,1,h_i,w_i] in [0,1]."""
        levels, eight_bit = [], (self.maps * 255).round().to(torch.uint8)[:, None]
        for _ in range(count):
            levels.append(_shrunk(eight_bit, height, width).to(self.maps) / 255)
            height, width = -(-height // 2), -(-width // 2)
        return tuple(levels)


@dataclass(frozen=True, eq=False)
class FaceMasks:
    """face, lips: boxes in the picture. region: the face's box as a mask of the picture, [1,1,H,W], for TalkingHead.locate."""

    face: Box
    lips: Box
    region: Tensor
    regions: Regions


def face_masks(landmarks: Sequence[Tensor], height: int, width: int) -> FaceMasks:
    """landmarks: of each face in the picture of this size, MediaPipe's [468 or 478,2], x and y in pixels; the largest face counts.

    Raises ValueError without a face.
    """
    if not landmarks:
        raise ValueError("There is no face in the picture: use one in which a face can be seen, or give the masks yourself.")
    boxes = [(_box(face[list(OVAL)], _FACE_RATIO, height, width), _box(face[list(LIPS)], _LIPS_RATIO, height, width)) for face in landmarks]
    face, lips = max(boxes, key=lambda pair: pair[0].area)
    region = face.mask(height, width)
    blurred = _blurred(region, _FACE_KERNEL)
    lip_map = _blurred(lips.mask(height, width), _LIPS_KERNEL)
    # Rounded down, as Hallo does: some values lose a level to the division.
    background = ((1 - blurred.double() / 255) * 255).floor().float()
    maps = {"full": background, "face": (blurred - lip_map).clamp_min(0), "lip": lip_map}
    return FaceMasks(face, lips, region, Regions(torch.cat([maps[name][0] for name in REGIONS]) / 255))


def located(region: Tensor, height: int, width: int) -> Tensor:
    """The face's mask [1,1,H,W] at another size, whole levels of 255 as in a picture."""
    resized = F.interpolate(region, size=(height, width), mode="bilinear", align_corners=False)
    return (resized * 255).round() / 255


def _box(points: Tensor, ratio: float, height: int, width: int) -> Box:
    """Around the points, sides times `ratio`, moved into the picture where it hangs over."""
    least, most = (points.double().amin(0).round().tolist(), points.double().amax(0).round().tolist())
    sides = []
    for low, high, limit in zip(least, most, (width, height), strict=True):
        middle, half = (low + high) // 2, (high - low) * ratio // 2
        start, end = middle - half, middle + half
        start, end = (0, end - start) if start < 0 else (start, end)
        start, end = (start - (end - limit), limit) if end > limit else (start, end)
        sides.append((max(0, round(start)), round(end)))
    (left, right), (top, bottom) = sides
    return Box(left, top, right, bottom)


def _blurred(mask: Tensor, kernel: int) -> Tensor:
    """[1,1,H,W] of 0 and 1 -> [1,1,64,64] in whole levels of 255, stretched to the whole range."""
    small = (F.interpolate(mask * 255, size=(_SIDE, _SIDE), mode="bilinear", align_corners=False)).round()
    weights = _gaussian(kernel)
    padded = F.pad(small, (kernel // 2,) * 4, mode="reflect").double()
    smooth = F.conv2d(F.conv2d(padded, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1)).add(0.5).floor().float()
    low, high = smooth.amin(), smooth.amax()
    if low == high:
        # A box that fills the picture has nothing to be told from.
        return torch.zeros_like(smooth)
    return ((smooth - low) * 255 / (high - low)).round()


def _gaussian(kernel: int) -> Tensor:
    """OpenCV's weights for 8-bit pictures: whole 256ths, each rounded with the error of those before it, the rest in the middle."""
    sigma = 0.3 * ((kernel - 1) / 2 - 1) + 0.8
    places = torch.arange(kernel, dtype=torch.float64) - (kernel - 1) / 2
    exact = torch.exp(-places.square() / (2 * sigma**2))
    error, half = 0.0, []
    for weight in (exact / exact.sum() * 256).tolist()[: kernel // 2]:
        half.append(round(weight + error))
        error += weight - half[-1]
    return torch.tensor([*half, 256 - 2 * sum(half), *reversed(half)], dtype=torch.float64) / 256


def _shrunk(levels: Tensor, height: int, width: int) -> Tensor:
    """[N,1,H,W] uint8, resized as Pillow's BILINEAR does it."""
    return F.interpolate(levels, size=(height, width), mode="bilinear", antialias=True, align_corners=False)
