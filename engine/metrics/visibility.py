"""How visible a perturbation is: distances between the clean picture and the protected one, or a copy of it that others have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ..conversions import in_colour, on_grid, within
from ..packages import needed
from ..picture import check_finite, resize, split_alpha, to_levels
from ..surrogates.perceptual import PerceptualNetwork
from .registration import Placement, placement

LPIPS_LONGEST = 1024


@dataclass(frozen=True)
class Visibility:
    """Of one picture, after rounding to 8 bits.

    linf: largest change in levels. changed: share of pixels that changed in any channel. psnr: dB, infinite when nothing
    changed. ssim: Gaussian window of 11 pixels, mean over channels. lpips: VGG, of pictures reduced to LPIPS_LONGEST where they
    are larger; None without its weights.
    resized_from: (height, width) of a copy of another size, which was resized back to be measured; then all figures hold what resizing
    did, and `resizing_psnr` says how much that is: PSNR of the clean picture after the same two resizes.
    """

    linf: int
    changed: float
    psnr: float
    ssim: float
    lpips: float | None
    resized_from: tuple[int, int] | None = None
    resizing_psnr: float | None = None


@dataclass(frozen=True)
class NotMeasured:
    """Of a copy that does not lie on the clean picture. why: a sentence. other_photo: it shows something else, as far as can be seen."""

    why: str
    other_photo: bool = False


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


@torch.no_grad()
def copy_visibility(clean: Tensor, copy: Tensor, *, lpips: PerceptualNetwork | None = None) -> Visibility | NotMeasured:
    """Compare a picture [1,C,H,W] in [0,1] with what became of it on its way, [1,C,h,w]: saved with loss, resized, cropped.

    The whole picture in another size is resized back first. Nothing else is undone: such a copy is not measured, and the reason is told.
    Raises ValueError when a pixel is not finite.
    """
    place = placement(clean, copy)
    if place.kind != "whole":
        return NotMeasured(_reason(place, clean, copy), other_photo=place.kind == "other photo")
    before, size = split_alpha(clean)[0].float(), (int(copy.shape[-2]), int(copy.shape[-1]))
    if size == clean.shape[-2:]:
        return _compare(clean, copy, lpips)
    there_and_back = _resampled(_resampled(before, size), before.shape[-2:])
    seen = _compare(clean, _resampled(split_alpha(copy)[0].float(), before.shape[-2:]), lpips)
    return replace(seen, resized_from=size, resizing_psnr=float(psnr(on_grid(before), there_and_back)))


def _resampled(image: Tensor, size: Sequence[int]) -> Tensor:
    """As an attacker's program does it, on the 8-bit grid. On the CPU, whose rounding is the same everywhere."""
    return on_grid(resize(image.cpu(), (size[0], size[1]), by="bicubic")).to(image.device)


def _reason(place: Placement, clean: Tensor, copy: Tensor) -> str:
    sizes = f"{copy.shape[-1]}x{copy.shape[-2]}, the clean one {clean.shape[-1]}x{clean.shape[-2]}"
    found = {
        "section": f"it shows about {place.share:.0%} of the clean picture (it is {sizes}), so their pixels do not lie on each other",
        "surrounded": f"it shows more than the clean picture, which fills about {place.share:.0%} of it (it is {sizes})",
        "turned": "it is turned or mirrored",
        "unclear": f"it was changed too much to be laid on the clean picture (it is {sizes})",
        "other photo": f"it does not look like a copy of the clean picture (it is {sizes})",
    }
    return f"{found[place.kind]}."


def _compare(clean: Tensor, protected: Tensor, lpips: PerceptualNetwork | None) -> Visibility:
    before, after = (on_grid(in_colour(image)) for image in (clean, protected))
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
    image = resize(image, within(image.shape[-2], image.shape[-1], LPIPS_LONGEST))
    missing = [max(0, 32 - side) for side in image.shape[-2:]]
    return F.pad(image, (0, missing[1], 0, missing[0]), mode="replicate")
