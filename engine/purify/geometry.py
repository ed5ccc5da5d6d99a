"""Edits that move pixels: other sizes, cuts, turns. Of the kind that edits.py describes, through Pillow's filters."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from ..conversions import middle, on_grid, through_pillow
from ..transforms import Transform
from .edits import check_name, check_share

METHODS = ("lanczos", "bicubic", "bilinear", "box", "nearest")


@dataclass(frozen=True)
class Resize:
    """Both sides times `scale`; what is done `meanwhile`, at that size; and, where asked for, back to the old size.

    method: one of METHODS, Pillow's filters.
    """

    scale: float
    method: str = "lanczos"
    back: bool = True
    meanwhile: tuple[Transform, ...] = ()

    def __post_init__(self) -> None:
        check_name(self.method, METHODS)

    def __call__(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        resized = _resized(image, _scaled(height, self.scale), _scaled(width, self.scale), self.method)
        for edit in self.meanwhile:
            resized = edit(resized)
        return _resized(resized, height, width, self.method) if self.back else resized

    def __str__(self) -> str:
        steps = [f"resized to {self.scale:g} of each side ({self.method})", *map(str, self.meanwhile)]
        return ", ".join(steps) + (", resized back" if self.back else "")


@dataclass(frozen=True)
class Crop:
    """The middle `share` of both sides; with `back`, resized to the old size (lanczos)."""

    share: float
    back: bool = False

    def __post_init__(self) -> None:
        check_share(self.share)

    def __call__(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        cut = on_grid(middle(image, _scaled(height, self.share), _scaled(width, self.share)))
        return _resized(cut, height, width, "lanczos") if self.back else cut

    def __str__(self) -> str:
        return f"cropped to the middle {self.share:.1%} of each side" + (", resized back (lanczos)" if self.back else "")


@dataclass(frozen=True)
class Rotate:
    """Counter-clockwise around the middle by Pillow's bicubic filter. The size stays, and corners become black and transparent."""

    degrees: float

    def __call__(self, image: Tensor) -> Tensor:
        return through_pillow(image, lambda picture: picture.rotate(self.degrees, Image.Resampling.BICUBIC))

    def __str__(self) -> str:
        return f"rotated by {self.degrees:g} degrees (bicubic)"


def _resized(image: Tensor, height: int, width: int, method: str) -> Tensor:
    return through_pillow(image, lambda picture: picture.resize((width, height), Image.Resampling[method.upper()]))


def _scaled(side: int, scale: float) -> int:
    if round(side * scale) < 1:
        raise ValueError(f"Of a side of {side} pixels, {scale:g} leaves nothing: keep more.")
    return round(side * scale)
