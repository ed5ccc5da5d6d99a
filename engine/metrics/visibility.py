"""How visible a perturbation is: distances between the clean and the protected picture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..packages import needed
from ..picture import LEVELS, check_finite, resize, split_alpha, to_levels
from ..surrogates.perceptual import PerceptualNetwork

LPIPS_LONGEST = 1024


@dataclass(frozen=True)
class Visibility:
    """Of one picture, after rounding to 8 bits.

    linf: largest change in levels. changed: share of pixels that changed in any channel. psnr: dB, infinite when nothing
    changed. ssim: Gaussian window of 11 pixels, mean over channels. lpips: VGG, of pictures reduced to LPIPS_LONGEST where they
    are larger; None without its weights.
    """

    linf: int
    changed: float
    psnr: float
    ssim: float
    lpips: float | None


def linf_levels(clean: Tensor, protected: Tensor) -> Tensor:
    """Largest absolute change of colour in 8-bit levels, [B]."""
    return (to_levels(protected) - to_levels(clean)).abs().flatten(1).amax(1)


def psnr(clean: Tensor, protected: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of [B,C,H,W] in [0,1], [B]; infinite for equal pictures."""
    return -10 * (protected - clean).square().flatten(1).mean(1).log10()


def ssim(clean: Tensor, protected: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004) with kornia's Gaussian window of 11, [B]; the window shrinks for tiny pictures."""
    with needed("kornia"):
        import kornia
    window = min(11, clean.shape[-1], clean.shape[-2])
    values: Tensor = kornia.metrics.ssim(clean, protected, window - (window + 1) % 2, padding="valid")
    return values.flatten(1).mean(1)


@torch.no_grad()
def visibility(clean: Tensor, protected: Tensor, *, lpips: PerceptualNetwork | None = None) -> list[Visibility]:
    """Compare [B,C,H,W] pictures in [0,1] after rounding both to 8 bits; alpha is ignored. One clean picture serves for many.

    Raises ValueError when the shapes differ or a pixel is not finite.
    """
    if clean.shape[-2:] != protected.shape[-2:] or clean.shape[0] not in (1, protected.shape[0]):
        raise ValueError(
            f"The pictures differ in size or number ({_describe(clean)} and {_describe(protected)}): "
            "compare the protected picture with the one that went into Protect."
        )
    check_finite(clean)
    check_finite(protected)
    return [_compare(clean[i % clean.shape[0]][None], protected[i][None], lpips) for i in range(protected.shape[0])]


def _compare(clean: Tensor, protected: Tensor, lpips: PerceptualNetwork | None) -> Visibility:
    colours = (split_alpha(image)[0].float().expand(-1, 3, -1, -1) for image in (clean, protected))
    before, after = (to_levels(colour) / LEVELS for colour in colours)
    return Visibility(
        linf=int(linf_levels(before, after)),
        changed=float((before != after).any(1).float().mean()),
        psnr=float(psnr(before, after)),
        ssim=float(ssim(before, after)),
        lpips=None if lpips is None else float(lpips(for_lpips(before), for_lpips(after))),
    )


def _describe(image: Tensor) -> str:
    return f"{image.shape[0]} of {image.shape[-1]}x{image.shape[-2]}"


def for_lpips(image: Tensor) -> Tensor:
    """[N,3,H,W], within what a network can take: reduced where its activations would fill the memory, padded where poolings need pixels."""
    height, width = image.shape[-2:]
    scale = min(1.0, LPIPS_LONGEST / max(height, width))
    image = resize(image, (max(1, round(height * scale)), max(1, round(width * scale))))
    missing = [max(0, 32 - side) for side in image.shape[-2:]]
    return torch.nn.functional.pad(image, (0, missing[1], 0, missing[0]), mode="replicate")
