"""GrIDPure (Zhao et al. 2024): a denoiser of one size purifies any picture in overlapping windows, lightly and many times."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..picture import COMPLETE_DEVICES, LEVELS

WINDOW = 256
Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels; the ends are not inside."""


@dataclass(frozen=True)
class Gridded:
    """After `done` of `total` iterations. image: [B,C,H,W] in [0,1]; the last one's is the result."""

    done: int
    total: int
    image: Tensor


def boxes(height: int, width: int, *, window: int = WINDOW) -> list[Box]:
    """Windows at offsets 0, window/2, ... and one flush with the far end, row by row. Both sides have to be `window` or more."""
    rows, columns = (_offsets(side, window) for side in (height, width))
    return [(left, top, left + window, top + window) for top in rows for left in columns]


def corners(height: int, width: int, *, window: int = WINDOW) -> list[Box]:
    """The four corners that make one further window: top left, top right, bottom left, bottom right."""
    half = window // 2
    return [(left, top, left + half, top + half) for top in (0, height - half) for left in (0, width - half)]


def gridpure(
    image: Tensor,
    purify: Callable[[Tensor], Tensor],
    *,
    iterations: int = 10,
    gamma: float = 0.1,
    window: int = WINDOW,
    truncate: bool = False,
) -> Iterator[Gridded]:
    """x <- (1 - gamma) * mean of the purified windows that cover a pixel + gamma * x, one Gridded after each iteration.

    image: [B,C,H,W] in [0,1], or a latent; any size; a side below `window` is continued by reflection and cut again. purify: takes
    and gives [B,C,window,window]. truncate: cut to 8 bits after each iteration, as the official code does; that darkens the picture
    by about half a level every time, so the default keeps full precision.
    """
    height, width = image.shape[-2:]
    current = at_least(image, window)
    places = [*_places(current, window), corners(*current.shape[-2:], window=window)]
    for iteration in range(iterations):
        mean = _mean(current, purify, places)
        blended = (1 - gamma) * mean + gamma * current.to(mean.device)
        # Floored in double precision: rounded to fp32 first, a level that is met exactly could fall to the one below.
        current = (blended * LEVELS).floor().clamp(0, LEVELS).to(image) / LEVELS if truncate else blended.to(image)
        yield Gridded(iteration + 1, iterations, current[..., :height, :width])


def in_windows(image: Tensor, purify: Callable[[Tensor], Tensor], *, window: int = WINDOW) -> Tensor:
    """The mean of the purified windows that cover a pixel: how a denoiser of one size purifies pictures of any. Arguments as of gridpure.

    A picture of window x window is purified once, as it is.
    """
    height, width = image.shape[-2:]
    whole = at_least(image, window)
    return _mean(whole, purify, _places(whole, window)).to(image)[..., :height, :width]


def number_of_windows(height: int, width: int, *, window: int = WINDOW) -> int:
    """How often `in_windows` calls; `gridpure` calls once more in each iteration."""
    return len(boxes(max(height, window), max(width, window), window=window))


def at_least(image: Tensor, side: int) -> Tensor:
    """[B,C,H,W] continued to the right and below by reflection until both sides are `side` or more."""
    while (missing := [max(0, side - own) for own in image.shape[-2:]]) != [0, 0]:
        # A reflection is at most one pixel shorter than what it mirrors; a single pixel can only be repeated.
        down, right = (min(gap, own - 1) if own > 1 else gap for gap, own in zip(missing, image.shape[-2:], strict=True))
        image = F.pad(image, (0, right, 0, down), mode="reflect" if min(image.shape[-2:]) > 1 else "replicate")
    return image


def _places(image: Tensor, window: int) -> list[list[Box]]:
    return [[box] for box in boxes(*image.shape[-2:], window=window)]


def _mean(image: Tensor, purify: Callable[[Tensor], Tensor], places: list[list[Box]]) -> Tensor:
    """In double precision, on the CPU where the device has none."""
    device = image.device if image.device.type in COMPLETE_DEVICES else torch.device("cpu")
    summed = torch.zeros(image.shape, dtype=torch.float64, device=device)
    count = torch.zeros(image.shape[-2:], dtype=torch.float64, device=device)
    for parts in places:
        purified = purify(_gather(image, parts)).to(device).double()
        for (x0, y0, x1, y1), piece in zip(parts, _scatter(purified, len(parts)), strict=True):
            summed[..., y0:y1, x0:x1] += piece
            count[y0:y1, x0:x1] += 1
    return summed / count


def _offsets(side: int, window: int) -> list[int]:
    half = window // 2
    regular = list(range(0, side - window + 1, half))
    return regular if regular[-1] == side - window else [*regular, side - window]


def _gather(image: Tensor, parts: list[Box]) -> Tensor:
    pieces = [image[..., y0:y1, x0:x1] for x0, y0, x1, y1 in parts]
    return pieces[0] if len(pieces) == 1 else torch.cat([torch.cat(pieces[:2], dim=-1), torch.cat(pieces[2:], dim=-1)], dim=-2)


def _scatter(window: Tensor, parts: int) -> list[Tensor]:
    if parts == 1:
        return [window]
    return [piece for row in window.chunk(2, dim=-2) for piece in row.chunk(2, dim=-1)]
