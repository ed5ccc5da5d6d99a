"""The classic measures of two pictures, as the field means them and, with disco_compat, as DisCo's evaluation computes them.

Most papers on human animation print the numbers of that evaluation (github.com/Wangt-CN/DisCo, tool/metrics), whose conventions
differ: pictures are rounded to 8 bits, equal ones have a PSNR of 100, SSIM is that of grey pictures in a plain 7 by 7 window, L1
is divided by the number of pixels twice, and LPIPS is fed with [0,1] where its network expects [-1,1].
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from ..picture import LEVELS, to_levels
from ..surrogates.perceptual import PerceptualNetwork
from . import visibility
from .measure import PairMeasure

EQUAL = 100.0
"""DisCo's PSNR of equal pictures, in dB."""

LPIPS_BYTES_PER_PIXEL = 2560
"""976 while VGG16 runs, measured in fp32, and 488 for the activations of each of three videos that are held."""


def psnr(reference: Tensor, image: Tensor, *, disco_compat: bool = False) -> Tensor:
    """Peak signal-to-noise ratio in dB of [N,C,H,W] in [0,1], [N]: over all channels; infinite, with disco_compat 100, for equal ones."""
    if not disco_compat:
        return visibility.psnr(reference, image)
    error = (_levels(image) - _levels(reference)).square().flatten(1).mean(1)
    return torch.where(error == 0, EQUAL, 10 * (LEVELS**2 / error).log10())


def ssim(reference: Tensor, image: Tensor, *, disco_compat: bool = False) -> Tensor:
    """Structural similarity (Wang et al. 2004) of [N,C,H,W] in [0,1], [N].

    By itself with the paper's Gaussian window of 11 pixels, mean over channels; with disco_compat on grey pictures in a uniform
    window of 7. Raises ValueError for pictures that the latter does not fit into.
    """
    if not disco_compat:
        return visibility.ssim(reference, image)
    return uniform_ssim(opencv_grey(reference), opencv_grey(image), window=7, peak=LEVELS)


def l1(reference: Tensor, image: Tensor, *, disco_compat: bool = False) -> Tensor:
    """Mean absolute difference of [N,C,H,W] in [0,1], in 8-bit levels, [N]; disco_compat divides it by the number of pixels once more."""
    if not disco_compat:
        return LEVELS * (image - reference).abs().flatten(1).mean(1)
    return (_levels(image) - _levels(reference)).abs().flatten(1).mean(1) / (image.shape[-1] * image.shape[-2])


def lpips(network: PerceptualNetwork, reference: Tensor, image: Tensor, *, disco_compat: bool = False) -> Tensor:
    """LPIPS (Zhang et al. 2018) of [N,3,H,W] in [0,1], [N]; pictures of more than visibility.LPIPS_LONGEST are reduced first.

    The network scales [0,1] to the [-1,1] that it was trained with. disco_compat undoes that, which gives lower values.
    """

    def one(*pair: Tensor) -> Tensor:
        return network.distance(*(_activations(network, picture, disco_compat=disco_compat) for picture in pair))

    # One at a time: the first maps of a 512x512 picture are 67 MB, and several are kept.
    return torch.cat([one(*pair) for pair in zip(reference.split(1), image.split(1), strict=True)])


def _activations(network: PerceptualNetwork, image: Tensor, *, disco_compat: bool) -> tuple[Tensor, ...]:
    picture = visibility.for_lpips(image)
    return network.activations((picture + 1) / 2 if disco_compat else picture)


def uniform_ssim(first: Tensor, second: Tensor, *, window: int, peak: float) -> Tensor:
    """SSIM of [N,C,H,W] in [0,peak] in a uniform window with sample covariances: scikit-image's default, [N] fp64, mean over channels.

    Only windows that lie wholly in the picture count. Raises ValueError where none does.
    """
    if min(first.shape[-2:]) < window:
        raise ValueError(f"SSIM with a window of {window} pixels needs pictures of at least that size: measure larger ones.")

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, window, stride=1)

    a, b, unbiased = first.cpu().double(), second.cpu().double(), window**2 / (window**2 - 1)
    mean_a, mean_b = mean(a), mean(b)
    variances = unbiased * (mean(a.square()) + mean(b.square()) - mean_a.square() - mean_b.square())
    covariance = unbiased * (mean(a * b) - mean_a * mean_b)
    stable, contrast = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    luminance = (2 * mean_a * mean_b + stable) / (mean_a.square() + mean_b.square() + stable)
    return (luminance * (2 * covariance + contrast) / (variances + contrast)).flatten(1).mean(1)


def opencv_grey(image: Tensor) -> Tensor:
    """[N,3,H,W] in [0,1] -> [N,1,H,W] fp64 in whole levels 0..255, as OpenCV 4 converts 8-bit RGB: in 15-bit fixed point."""
    red, green, blue = _levels(image).long().unbind(1)
    return ((9798 * red + 19235 * green + 3735 * blue + (1 << 14)) >> 15)[:, None].double()


def opencv_resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """[N,C,H,W] in [0,1] -> the size (height, width), fp32 on the 8-bit grid: OpenCV's bilinear cv2.resize of 8-bit pictures.

    It neither antialiases nor rounds: weights have 11 bits, and bits are cut off on the way. DisCo brings generated frames to the
    size of the true ones with it.
    """
    levels = _levels(image).long()
    left, right, near, far = _taps(levels.shape[-1], size[1], flat_edges=True)
    rows = levels[..., left] * near + levels[..., right] * far >> 4
    upper, lower, near, far = _taps(levels.shape[-2], size[0], flat_edges=False)
    mixed = (rows[..., upper, :] * near[:, None] >> 16) + (rows[..., lower, :] * far[:, None] >> 16)
    return (mixed + 2 >> 2).float() / LEVELS


def _taps(length: int, target: int, *, flat_edges: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of every new pixel: its two neighbours and their weights in 2048ths; at flat edges the outer pixel alone counts."""
    place = ((torch.arange(target, dtype=torch.float32) + 0.5).double() * (length / target) - 0.5).float()
    first = place.floor().long()
    weight = place - first
    if flat_edges:
        weight[(first < 0) | (first >= length - 1)] = 0
    near, far = ((1 - weight) * 2048).round().long(), (weight * 2048).round().long()
    return first.clamp(0, length - 1), (first + 1).clamp(0, length - 1), near, far


def _levels(image: Tensor) -> Tensor:
    return to_levels(image.cpu()).double()


def psnr_measure(*, disco_compat: bool = False) -> PairMeasure:
    return PairMeasure(_name("PSNR", disco_compat), "dB", "more alike", lambda a, b: psnr(a, b, disco_compat=disco_compat))


def ssim_measure(*, disco_compat: bool = False) -> PairMeasure:
    return PairMeasure(_name("SSIM", disco_compat), "", "more alike", lambda a, b: ssim(a, b, disco_compat=disco_compat))


def l1_measure(*, disco_compat: bool = False) -> PairMeasure:
    unit = "levels per pixel" if disco_compat else "levels"
    return PairMeasure(_name("L1", disco_compat), unit, "less alike", lambda a, b: l1(a, b, disco_compat=disco_compat))


def lpips_measure(network: PerceptualNetwork, *, disco_compat: bool = False) -> PairMeasure:
    """Frames must be on the network's device."""
    see = partial(_activations, network, disco_compat=disco_compat)
    name = _name("LPIPS", disco_compat)
    return PairMeasure(name, "", "less alike", network.distance, see, LPIPS_BYTES_PER_PIXEL, large=True)


def _name(name: str, disco_compat: bool) -> str:
    return f"{name} (DisCo)" if disco_compat else name
