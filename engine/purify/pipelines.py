"""Edits of pictures with alpha, one after the other, and sequences of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..draws import following
from ..picture import check_finite, split_alpha
from ..transforms import Transform
from .edits import JPEGFile, MedianBlur, OpenCVBlur, RoundedNoise, SaltAndPepper, WebPFile
from .geometry import Crop, Resize, Rotate


@dataclass(frozen=True)
class Pipeline:
    """Edits of which each reads what the one before it wrote."""

    steps: tuple[Transform, ...]

    def __str__(self) -> str:
        return " -> ".join(map(str, self.steps))

    def __call__(self, image: Tensor) -> Tensor:
        """Edit [B,C,H,W] in [0,1], C = 1, 3 or 4. Alpha stays as it is, or moves with the pixels.

        Raises ValueError for an empty batch, other C, pixels that are not numbers, and what the steps refuse.
        """
        if not len(image):
            raise ValueError("There is no picture to transform: connect at least one.")
        check_finite(image)
        for step in self.steps:
            colour, alpha = split_alpha(image)
            image = step(colour) if alpha is None else torch.cat([step(colour), step(alpha) if _moves(step) else alpha], dim=1)
        return image

    def numbered(self, index: int) -> Pipeline:
        """For the picture at `index` of a batch or video: noise differs from picture to picture, all else is the same."""
        noises = (RoundedNoise, SaltAndPepper)
        return Pipeline(tuple(replace(step, seed=following(step.seed, index)) if isinstance(step, noises) else step for step in self.steps))


def _moves(edit: Transform) -> bool:
    """Pixels change their place, so that alpha has to follow."""
    return isinstance(edit, Crop | Rotate) or (isinstance(edit, Resize) and not edit.back)


PIPELINES: Mapping[str, Pipeline] = {
    "social media": Pipeline((Resize(0.5, meanwhile=(JPEGFile(75),)),)),
    "shared twice": Pipeline((Resize(0.75, "bilinear", meanwhile=(JPEGFile(80),)), Resize(0.75, "bilinear", meanwhile=(JPEGFile(70),)))),
    "screenshot": Pipeline((Resize(0.8, "bilinear"), Crop(0.96, back=True), WebPFile(80))),
    "cleaned by hand": Pipeline((MedianBlur(3), Resize(0.5, "bicubic"), JPEGFile(60))),
    "noise and blur": Pipeline((RoundedNoise(0.03), OpenCVBlur(5), JPEGFile(85))),
}
"""Sequences of ordinary edits; which ones is the pack's own choice. Sequences remove what single edits leave (arXiv 2604.23688)."""
