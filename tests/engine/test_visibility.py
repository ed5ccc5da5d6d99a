"""Visibility figures against scikit-image."""

from __future__ import annotations

import math

import pytest
import torch
from skimage import metrics
from stillguard.engine.metrics.visibility import visibility
from stillguard.engine.surrogates.perceptual import PerceptualNetwork
from torch import Tensor


@pytest.fixture(scope="module")
def noisy(astronaut: Tensor) -> Tensor:
    noise = torch.randint(-8, 9, astronaut.shape, generator=torch.Generator().manual_seed(0)) / 255
    return (astronaut + noise).clamp(0, 1)


def test_psnr_and_ssim_equal_scikit_image(astronaut: Tensor, noisy: Tensor) -> None:
    (row,) = visibility(astronaut, noisy)
    a, b = (image[0].permute(1, 2, 0).double().numpy() for image in (astronaut, noisy))
    assert row.psnr == pytest.approx(metrics.peak_signal_noise_ratio(a, b, data_range=1), abs=1e-3)
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1, "channel_axis": 2}
    assert row.ssim == pytest.approx(metrics.structural_similarity(a, b, **settings), abs=1e-4)


def test_counts_levels_and_pixels(astronaut: Tensor) -> None:
    changed = astronaut.clone()
    changed[0, 1, 10:20, 30:40] = (changed[0, 1, 10:20, 30:40] * 255 - 5).clamp_min(0) / 255
    (row,) = visibility(astronaut, changed)
    assert row.linf == 5
    assert row.changed == pytest.approx(100 / 256**2)


def test_equal_pictures(astronaut: Tensor, perceptual: PerceptualNetwork) -> None:
    (row,) = visibility(astronaut, astronaut.clone(), lpips=perceptual)
    assert (row.linf, row.changed, row.psnr, row.lpips) == (0, 0, math.inf, 0)
    assert row.ssim == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 9), (4, 40, 3)])
def test_any_size_and_channels(shape: tuple[int, int, int], perceptual: PerceptualNetwork) -> None:
    image = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    rows = visibility(image, (image + 0.02).clamp(0, 1), lpips=perceptual)
    assert len(rows) == 2
    assert all(math.isfinite(row.ssim) and 4 <= row.linf <= 6 for row in rows)


def test_alpha_does_not_count(astronaut: Tensor) -> None:
    rgba = torch.cat([astronaut, torch.zeros(1, 1, 256, 256)], 1)
    (row,) = visibility(rgba, torch.cat([astronaut, torch.ones(1, 1, 256, 256)], 1))
    assert row.linf == 0


def test_refuses_pixels_that_are_not_numbers(astronaut: Tensor) -> None:
    with pytest.raises(ValueError, match="not numbers"):
        visibility(astronaut, astronaut * float("nan"))


def test_refuses_different_sizes(astronaut: Tensor) -> None:
    with pytest.raises(ValueError, match="1 of 256x256 and 1 of 256x200"):
        visibility(astronaut, astronaut[..., :200, :])
