"""What features of a network look like: their first three principal components as the colours of a picture (the figure 2 of Anti-I2V)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .draws import stream
from .picture import COMPLETE_DEVICES

COLOURS = 3
"""Components that are shown: as red, green and blue."""

# Of each component's values, so many at either end may be clipped: a few places with huge features would leave the rest one colour.
CLIPPED = 0.01
# Directions that are followed to find the first three, and rounds of it: the error falls as the share of the first direction that is not
# followed in the last one that is shown, to the power of the rounds. With no more channels or places than this it is exact.
_FOLLOWED, _ROUNDS = 32, 16
# Deviations below this share of the features' own size are the rounding of fp32, and no picture is made of them.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class PrincipalPicture:
    """picture: [frames,3,h,w] fp32 in [0,1], the first component red, the second green, the third blue, each over the whole range whatever
    its share. shares: what each of the three explains of the features' variance, 0 to 1; what does not vary is middle grey."""

    picture: Tensor
    shares: tuple[float, ...]


def principal_picture(features: Tensor, grid: tuple[int, int, int], *, frame: int | None = None) -> PrincipalPicture:
    """features: [T,C] of any floating dtype, a row for each place of the grid (frames, h, w), frame by frame and row by row.

    frame: components, their shares and their range are those of this frame alone; without it of all frames together. A component has no
    sign of its own: its largest weight of a channel is made positive, so that equal features give equal pictures.
    Raises ValueError where the grid has another number of places, and where features are not finite.
    """
    frames, height, width = grid
    if features.ndim != 2 or features.shape[0] != frames * height * width:
        raise ValueError(f"Features of the shape {tuple(features.shape)} do not lie on a grid of {frames} frames of {width}x{height}.")
    values = _exact(features)
    if not bool(torch.isfinite(values).all()):
        raise ValueError("The features are not numbers everywhere (NaN or infinity), so that there is nothing to see.")
    each = height * width
    fitted = slice(None) if frame is None else slice(frame * each, (frame + 1) * each)
    centred = values - values[fitted].mean(dim=0)
    components = _components(centred[fitted])
    scores = centred @ components
    # What is left of a constant when its mean is taken away is rounding, and has components too.
    varies = scores[fitted].square().mean(dim=0).sqrt() > _ROUNDING * values[fitted].square().mean(dim=0).sum().sqrt()
    total = centred[fitted].square().sum()
    shares = torch.where(varies, scores[fitted].square().sum(dim=0) / total.clamp_min(torch.finfo(total.dtype).tiny), 0)
    colours = torch.where(varies, _ranged(scores, *_bounds(scores[fitted])), 0.5)
    picture = F.pad(colours, (0, COLOURS - colours.shape[1]), value=0.5).view(frames, height, width, COLOURS).movedim(-1, 1)
    return PrincipalPicture(picture.float(), tuple(shares.tolist()) + (0.0,) * (COLOURS - len(shares)))


def _exact(features: Tensor) -> Tensor:
    device = features.device if features.device.type in COMPLETE_DEVICES else torch.device("cpu")
    return features.detach().to(device=device, dtype=torch.float64)


def _components(centred: Tensor) -> Tensor:
    """[T,C] without its mean -> [C,3] orthonormal, or fewer where there are fewer channels or places; the largest variance first.

    By subspace iteration (Halko et al. 2011, algorithm 4.4): of features with thousands of channels only three are wanted.
    """
    followed = min(_FOLLOWED, *centred.shape)
    basis = torch.randn(centred.shape[1], followed, generator=stream(0, "probe"), dtype=centred.dtype).to(centred.device)
    for _ in range(_ROUNDS):
        basis = torch.linalg.qr(centred.mT @ (centred @ basis)).Q
    # The followed directions turned into their own principal axes; eigh gives the smallest first.
    within = centred @ basis
    axes = torch.linalg.eigh(within.mT @ within).eigenvectors.flip(1)
    components: Tensor = basis @ axes[:, :COLOURS]
    largest = components.gather(0, components.abs().argmax(dim=0, keepdim=True))
    return components * torch.where(largest < 0, -1.0, 1.0)


def _bounds(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Of each component [n,k]: quantiles, or the ends where nearly all values are one and the same."""
    ordered = scores.sort(dim=0).values
    # Not torch.quantile, which takes no more than 16 million values.
    cut = int(CLIPPED * len(ordered))
    low, high = ordered[cut], ordered[-1 - cut]
    flat = high - low <= _ROUNDING * (ordered[-1] - ordered[0])
    return torch.where(flat, ordered[0], low), torch.where(flat, ordered[-1], high)


def _ranged(scores: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return ((scores - low) / (high - low).clamp_min(torch.finfo(scores.dtype).tiny)).clamp(0, 1)
