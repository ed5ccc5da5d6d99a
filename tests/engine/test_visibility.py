"""Visibility figures against scikit-image."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data, metrics
from stillguard.engine.metrics.visibility import NotMeasured, Visibility, copy_visibility, visibility
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


def pillow(image: Tensor) -> Image.Image:
    return Image.fromarray((image[0] * 255).round().byte().permute(1, 2, 0).numpy())


def tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255


def test_a_copy_of_the_same_size_is_measured_as_it_is(astronaut: Tensor, noisy: Tensor, perceptual: PerceptualNetwork) -> None:
    assert copy_visibility(astronaut, noisy, lpips=perceptual) == visibility(astronaut, noisy, lpips=perceptual)[0]


@pytest.mark.parametrize("size", [(128, 128), (512, 512), (259, 258)])
def test_a_resized_copy_is_measured_after_resizing_it_back(astronaut: Tensor, noisy: Tensor, size: tuple[int, int]) -> None:
    """Against Pillow's resampling and scikit-image's figures."""
    copy = pillow(noisy).resize(size[::-1], Image.Resampling.LANCZOS)
    seen = copy_visibility(astronaut, tensor(copy))
    assert isinstance(seen, Visibility)
    assert seen.resized_from == size
    clean, back = pillow(astronaut), np.array(copy.resize((256, 256), Image.Resampling.BICUBIC))
    assert seen.psnr == pytest.approx(metrics.peak_signal_noise_ratio(np.array(clean), back), abs=0.05)
    alone = np.array(clean.resize(size[::-1], Image.Resampling.BICUBIC).resize((256, 256), Image.Resampling.BICUBIC))
    assert seen.resizing_psnr == pytest.approx(metrics.peak_signal_noise_ratio(np.array(clean), alone), abs=0.1)


def test_a_crop_and_another_photo_are_not_measured_and_the_reason_is_told(astronaut: Tensor, noisy: Tensor) -> None:
    crop = copy_visibility(astronaut, noisy[..., 20:220, 30:230])
    assert isinstance(crop, NotMeasured)
    assert not crop.other_photo
    assert re.search(r"shows about 6[0-2]% of the clean picture \(it is 200x200, the clean one 256x256\)", crop.why)
    other = copy_visibility(astronaut, tensor(Image.fromarray(data.chelsea()).resize((256, 256))))
    assert isinstance(other, NotMeasured)
    assert other.other_photo
