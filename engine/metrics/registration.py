"""Where a copy of a photo lies on it: the whole, a section (a crop), the photo among other things (a screenshot), or another photo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..conversions import within
from ..picture import check_finite, resize, split_alpha
from ..transforms import GaussianBlur

Kind = Literal["whole", "section", "surrounded", "turned", "unclear", "other photo"]

SIDE, LEAST_SIDE, EDGE = 128, 16, 4
"""Longer side that the photo is looked at with, shorter side that anything is looked for with, and the rim of it that is left out: what
lies around a section weighs in there."""
SMALLEST, STEP, ALL = 0.25, 0.98, 0.96
"""The least part of a side that a section has, the ratio of neighbouring sizes that are tried, and the share that is as good as all."""
CERTAIN, ALIKE, UNLIKE, TONES = 0.97, 0.8, 0.6, 0.9
"""Correlations: of details from which on a copy is the whole, is found, and is not another photo, and of tones that tell it where details
fail. On scikit-image's photos the whole has 0.97 and more with 16 levels of noise or JPEG 10, and at most 0.95 where it shows 98 % of each
side; sections of 30 % of a side and more have 0.8 and more at their place, nearly all pairs of different photos below 0.6 anywhere."""


@dataclass(frozen=True)
class Placement:
    """kind: "unclear" for what is too little alike for any of the others and too much for "other photo".

    share: of the photo's area that a section shows, or of the copy's area that the photo takes where it is surrounded; else 1.
    """

    kind: Kind
    share: float = 1.0


@torch.no_grad()
def placement(photo: Tensor, copy: Tensor) -> Placement:
    """Find the copy on the photo, both [1,C,H,W] in [0,1] of any sizes, by normalised cross-correlation of their details.

    Both are reduced to SIDE, and the details are what lies between Gaussian blurs of 1 and 3 pixels, so that neither protections and
    compression, which live below, nor brightness above weigh in. Sections are tried in sizes down to SMALLEST, upright ones only; of
    turned and mirrored copies only the whole is. Photos without details, or of a few pixels, are taken for the whole.
    Raises ValueError when a pixel is not finite.
    """
    first, second = _grey(photo), _grey(copy)
    size = within(first.shape[-2], first.shape[-1], SIDE)
    if min(size) < LEAST_SIDE + 2 * EDGE:
        return Placement("whole")
    details, tones = _details(resize(first, size)), resize(first, size)
    whole = _correlation(details, _details(resize(second, size)))
    if whole is None or whole >= CERTAIN:
        return Placement("whole")
    found = max(_section(first, second, "section"), _section(second, first, "surrounded"), key=lambda one: one[0])
    if found[0] >= max(ALIKE, whole + 1 - CERTAIN):
        return found[1] if found[1].share <= ALL else Placement("whole")
    if whole >= UNLIKE or (_correlation(tones - tones.mean(), _centred(resize(second, size))) or 0.0) >= TONES:
        return Placement("whole")
    if any((_correlation(details, _details(resize(other, size))) or 0.0) >= ALIKE for other in _orientations(second)):
        return Placement("turned")
    return Placement("unclear" if found[0] >= UNLIKE else "other photo")


def _grey(image: Tensor) -> Tensor:
    check_finite(image)
    return split_alpha(image)[0].float().cpu().mean(1, keepdim=True)


def _centred(image: Tensor) -> Tensor:
    return image - image.mean()


def _details(image: Tensor) -> Tensor:
    fine, coarse = (GaussianBlur(sigma, kernel, border="replicate") for sigma, kernel in ((1.0, 7), (3.0, 19)))
    return fine(image) - coarse(image)


def _correlation(first: Tensor, second: Tensor) -> float | None:
    """None where the first has no details: less than a tenth of a level."""
    if float(first.square().mean().sqrt()) < 0.1 / 255:
        return None
    return float((first * second).sum() / (first.square().sum() * second.square().sum()).sqrt().clamp_min(1e-12))


def _inner(details: Tensor) -> Tensor:
    return details[..., EDGE:-EDGE, EDGE:-EDGE]


def _section(whole: Tensor, part: Tensor, kind: Kind) -> tuple[float, Placement]:
    """The best place and size of the part in the whole, by its correlation."""
    size = within(whole.shape[-2], whole.shape[-1], SIDE)
    seen = _inner(_details(resize(whole, size)))
    # Least local energy: in flat places the correlation would divide noise by nearly nothing.
    least = 0.1 * seen.square().mean()
    spectrum = torch.fft.rfft2(seen)
    fit = min(size[0] / part.shape[-2], size[1] / part.shape[-1])
    best, scale = (-1.0, Placement(kind)), 1.0
    while scale >= SMALLEST:
        height, width = (max(1, round(side * fit * scale)) for side in part.shape[-2:])
        if min(height, width) < LEAST_SIDE + 2 * EDGE:
            break
        looked_for = _inner(_details(resize(part, (height, width))))
        tall, wide = (seen.new_ones(1, 1, *shape) for shape in ((looked_for.shape[-2], 1), (1, looked_for.shape[-1])))
        energy = F.conv2d(F.conv2d(seen.square(), tall), wide)
        norm = looked_for.square().sum() * energy.clamp_min(least * looked_for.numel())
        shift = torch.fft.irfft2(spectrum * torch.fft.rfft2(looked_for, s=seen.shape[-2:]).conj(), s=seen.shape[-2:])
        score = float((shift[..., : norm.shape[-2], : norm.shape[-1]] / norm.sqrt().clamp_min(1e-12)).max())
        if score > best[0]:
            best = score, Placement(kind, height * width / (size[0] * size[1]))
        scale *= STEP
    return best


def _orientations(image: Tensor) -> list[Tensor]:
    """All but the upright one."""
    turned = [image.rot90(quarter, (-2, -1)) for quarter in range(4)]
    return [*turned[1:], *(one.flip(-1) for one in turned)]
