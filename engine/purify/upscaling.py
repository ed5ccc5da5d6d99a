"""Purification by a diffusion upscaler: what it invents at four times the size has no perturbation."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..conversions import within
from ..picture import resize
from ..transforms import GaussianNoise

FACTOR = 4

Repaint = Callable[[Tensor], Tensor]
"""Pictures [B,3,h,w] in [0,1] -> pictures in [0,1] of another size or the same."""


def noisy_upscaling(image: Tensor, upscale: Repaint, *, sigma: float = 0.1, longest: int = 512, seed: int = 0) -> Tensor:
    """Noisy Upscaling (Hönig et al. 2024): Gaussian noise of standard deviation `sigma`, clipped, then the upscaler. 4 times the size.

    image: [B,3,H,W] in [0,1]. longest: the longer side that the upscaler is given at most. Returns what `upscale` does.
    """
    small = resize(image, within(image.shape[-2], image.shape[-1], longest))
    return upscale(GaussianNoise(sigma, seed)(small))


def diffshortcut(image: Tensor, upscale: Repaint, *, restore: Repaint | None = None, side: int = 128) -> Tensor:
    """DiffShortcut (Liu et al. 2024): restore the whole picture, reduce it until its longer side is `side`, let the upscaler repaint it.

    image: [B,3,H,W] in [0,1]. Returns what `upscale` does: 4 times the reduced size.
    """
    height, width = image.shape[-2:]
    restored = image if restore is None else restore(image)
    return upscale(resize(restored, within(height, width, side)))
