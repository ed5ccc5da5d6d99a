"""Where the animator's square lies on a photo, so that the head is where its networks expect one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ...picture import resize
from .animator import SIDE, as_network

EYES, CHIN = 148.0, 200.0
"""Rows of the square where the middle of the eyes and the chin belong, in pixels; the column of both is its middle."""
HEAD = (192.0, 64.0, 320.0, 192.0)
"""Where a whole head belongs: left, top, right, bottom."""

# Of the 68 landmarks (engine.metrics.landmarks): those of both eyes, and the lowest one of the jaw.
_EYE_POINTS, _CHIN_POINT = slice(36, 48), 8


@dataclass(frozen=True)
class Reframing:
    """How another attacker's square may lie: the person `scale` times as large and moved by shares of the square's side, right and down."""

    scale: float = 1.0
    right: float = 0.0
    down: float = 0.0


@dataclass(frozen=True, eq=False)
class Framing:
    """A square on a photo of `size` (height, width): its centre (x, y) and its side, all in pixels of that photo.

    mask: where the person is, [1,1,h,w] in [0,1], of the whole photo at any size. The square may reach beyond the photo, where nothing is.
    """

    size: tuple[int, int]
    centre: tuple[float, float]
    side: float
    mask: Tensor

    @property
    def working_size(self) -> int:
        """The longer side in pixels of the photo at which the square has SIDE pixels: less would blur what the animator sees."""
        return max(1, round(max(self.size) * min(1.0, SIDE / self.side)))

    def crop(self, image: Tensor, moved: Reframing = Reframing()) -> Tensor:
        """The square of a picture [B,C,H,W] of the whole photo at any size -> [B,C,SIDE,SIDE], 0 outside the photo; differentiable."""
        zoom = SIDE * self.size[0] / (self.side * image.shape[-2]) * moved.scale
        if zoom < 1:
            image = resize(image, (max(1, round(image.shape[-2] * zoom)), max(1, round(image.shape[-1] * zoom))))
        (height, width), (x, y) = self.size, self.centre
        rows = [
            [self.side / (width * moved.scale), 0.0, 2 * x / width - 1 - 2 * moved.right * self.side / (width * moved.scale)],
            [0.0, self.side / (height * moved.scale), 2 * y / height - 1 - 2 * moved.down * self.side / (height * moved.scale)],
        ]
        places = torch.tensor(rows, dtype=image.dtype, device=image.device).expand(len(image), 2, 3)
        grid = F.affine_grid(places, [len(image), image.shape[1], SIDE, SIDE], align_corners=False)
        return F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

    def portrait(self, image: Tensor, moved: Reframing = Reframing()) -> Tensor:
        """What the animator reads of a picture of the photo, sRGB [B,3,H,W] in [0,1] -> [B,4,SIDE,SIDE], see `as_network`."""
        return as_network(self.crop(image, moved), self.crop(self.mask.to(image), moved))


def around_head(box: tuple[float, float, float, float], mask: Tensor, size: tuple[int, int]) -> Framing:
    """By a head's box on the photo: left, top, right, bottom in its pixels, hair and chin inside. Raises ValueError for an empty one."""
    left, top, right, bottom = box
    if right <= left or bottom <= top:
        raise ValueError("The head's box is empty: give left, top, right and bottom of the head in the photo.")
    scale = max(right - left, bottom - top) / (HEAD[3] - HEAD[1])
    middle = (left + right) / 2, (top + bottom) / 2
    return Framing(size, (middle[0], middle[1] + (SIDE / 2 - (HEAD[1] + HEAD[3]) / 2) * scale), SIDE * scale, mask)


def around_face(eyes: tuple[float, float], chin: tuple[float, float], mask: Tensor, size: tuple[int, int]) -> Framing:
    """By the middle of the eyes and the chin (x, y) on the photo. Raises ValueError for a chin that is not below the eyes."""
    if chin[1] <= eyes[1]:
        raise ValueError("The face lies on its side or upside down: turn the photo first.")
    scale = ((chin[0] - eyes[0]) ** 2 + (chin[1] - eyes[1]) ** 2) ** 0.5 / (CHIN - EYES)
    return Framing(size, (eyes[0], eyes[1] + (SIDE / 2 - EYES) * scale), SIDE * scale, mask)


def around_landmarks(points: Tensor, mask: Tensor, size: tuple[int, int]) -> Framing:
    """By the 68 landmarks [68,2] (x, y) on the photo. Raises ValueError as `around_face` does."""
    eyes, chin = points[_EYE_POINTS].mean(0).tolist(), points[_CHIN_POINT].tolist()
    return around_face((eyes[0], eyes[1]), (chin[0], chin[1]), mask, size)


def whole(mask: Tensor, size: tuple[int, int]) -> Framing:
    """The photo as it is, if it is framed already."""
    return Framing(size, (size[1] / 2, size[0] / 2), float(max(size)), mask)


def moved_by(framing: Framing, *, right: float = 0.0, down: float = 0.0, scale: float = 1.0) -> Framing:
    """By hand: the square moved by shares of its side, and `scale` times as large."""
    x, y = framing.centre
    return replace(framing, centre=(x + right * framing.side, y + down * framing.side), side=framing.side * scale)


def nudged(framing: Framing, *, right: float = 0.0, down: float = 0.0, size: float = 1.0) -> Framing:
    """By hand, as one sees it in the square: the head moved by shares of its side, and `size` times as large where it is."""
    head = (HEAD[1] + HEAD[3]) / 2 / SIDE - 0.5  # below the middle of the square, in shares of its side
    larger = moved_by(framing, down=head * (1 - 1 / size), scale=1 / size)
    return moved_by(larger, right=-right, down=-down)


def in_square(framing: Framing, points: Tensor) -> Tensor:
    """Points [n,2] (x, y) in pixels of the photo -> where they lie in the square, in its pixels."""
    corner = points.new_tensor(framing.centre) - framing.side / 2
    places: Tensor = (points - corner) * (SIDE / framing.side)
    return places
