"""Distances between two sets of features: Fréchet's, as in FID and FVD, and the kernel distance KID."""

from __future__ import annotations

import torch
from torch import Tensor

from .measure import Descriptor, SetMeasure
from .networks.inception import FIDInception

FID_LEAST = 2049
"""Frames below which FID is withheld. Its Gaussians have 2048 dimensions; the covariance of fewer frames has directions without any
variance, and the number then tells how few they were: random frames of one real video against others of it have a FID of 43 with 8 of
each and of 14 with 64. Even more frames than this are few where they come from one video, because neighbours are alike."""

KID_LEAST = 16
"""Frames below which KID is withheld. It is unbiased for any number and only scatters: with 16 random frames of the same video on each
side it is 0.000 +- 0.003, where noise with a deviation of 0.05 gives 0.085."""


def frechet_distance(first: Tensor, second: Tensor) -> Tensor:
    """Squared Fréchet distance between Gaussians fitted to features [M,D] and [M',D], fp64, one number.

    |m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)), covariances with M-1 in the denominator (Heusel et al. 2017). With S = A^T A and
    S' = B^T B, the trace of the root is the sum of the singular values of A B^T: no root is taken of a matrix, which loses half
    the digits where covariances are singular. Raises ValueError for fewer than two rows.
    """
    if min(first.shape[0], second.shape[0]) < 2:
        raise ValueError("A Fréchet distance needs at least two descriptions of each video: give longer videos.")
    (mean_a, a), (mean_b, b) = _gaussian(first), _gaussian(second)
    traces: Tensor = a.square().sum() + b.square().sum() - 2 * torch.linalg.svdvals(a @ b.T).sum()
    # Rounding may make the distance of equal sets slightly negative.
    return ((mean_a - mean_b).square().sum() + traces).clamp_min(0)


def _gaussian(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [D] and a factor A of the covariance A^T A, [min(M,D),D], on the CPU since not every device has doubles."""
    features = features.cpu().double()
    mean = features.mean(0)
    factor = (features - mean) / (features.shape[0] - 1) ** 0.5
    return mean, factor if factor.shape[0] <= factor.shape[1] else torch.linalg.qr(factor, mode="r").R


def kernel_distance(first: Tensor, second: Tensor) -> Tensor:
    """KID (Bińkowski et al. 2018) of features [M,D] and [M',D], fp64, one number: unbiased squared MMD with kernel (x.y/D + 1)^3.

    Of all rows at once. The usual code averages over 100 random subsets of up to 1000 rows, which has the same expectation and more
    scatter. It may be negative, since it is unbiased. Raises ValueError for fewer than two rows.
    """
    if min(first.shape[0], second.shape[0]) < 2:
        raise ValueError("KID needs at least two frames of each video: give longer videos.")
    a, b = first.cpu().double(), second.cpu().double()
    return _among(a) + _among(b) - 2 * _kernel(a, b).mean()


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _among(features: Tensor) -> Tensor:
    """Mean kernel of different rows."""
    values, count = _kernel(features, features), features.shape[0]
    return (values.sum() - values.diagonal().sum()) / (count * (count - 1))


def inception_features(network: FIDInception) -> Descriptor:
    """What FID and KID share: 2048 numbers per frame. Frames must be on the network's device."""
    return Descriptor("FID Inception", lambda runs: network(runs[:, 0]))


def fid_measure(network: FIDInception) -> SetMeasure:
    return SetMeasure("FID", "", "less alike", inception_features(network), frechet_distance, FID_LEAST)


def kid_measure(network: FIDInception) -> SetMeasure:
    return SetMeasure("KID", "", "less alike", inception_features(network), kernel_distance, KID_LEAST)
