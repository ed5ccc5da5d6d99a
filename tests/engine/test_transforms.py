"""EoT's transformations against Pillow, against the official code's outputs, and for what the loop relies on."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from stillguard.engine.transforms import JPEG, EoT, GaussianBlur, GaussianNoise, ResizeBack, Transform
from torch import Tensor

EACH = [GaussianBlur(1.2), JPEG(45), GaussianNoise(0.02, seed=3), ResizeBack(0.6), ResizeBack(1.7)]


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * (a - b).square().mean().log10())


def pillow_jpeg(image: Tensor, quality: int) -> Tensor:
    buffer = io.BytesIO()
    Image.fromarray(image[0].permute(1, 2, 0).mul(255).round().byte().numpy()).save(buffer, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("transform", EACH, ids=repr)
def test_repeatable_same_shape_in_range_and_differentiable(transform: Transform, astronaut: Tensor) -> None:
    image = astronaut[..., :77, :90].clone().requires_grad_()
    out = transform(image)
    assert torch.equal(out, transform(image))
    assert out.shape == image.shape
    assert float(out.min()) >= 0
    assert float(out.max()) <= 1
    (gradient,) = torch.autograd.grad(out.square().sum(), image)
    assert bool(torch.isfinite(gradient).all())
    assert float(gradient.abs().mean()) > 0.1


@pytest.mark.parametrize("quality", [30, 50, 69, 90])
def test_jpeg_is_closer_to_pillows_than_that_is_to_the_original(quality: int, astronaut: Tensor) -> None:
    real = pillow_jpeg(astronaut, quality)
    assert psnr(JPEG(quality)(astronaut), real) > psnr(real, astronaut) + 3


OFFICIAL = [*(f"blur_sigma{sigma}" for sigma in (0.1, 0.7, 1.5, 3.0)), *(f"resize_{side}" for side in (16, 26, 63))]


@pytest.mark.parametrize("case", OFFICIAL)
def test_equals_the_official_transformation_and_its_gradient(case: str, shared: Path) -> None:
    """i_transforms of the check vectors, in and out in [-1,1]; the gradient is a vector-Jacobian product."""
    golden = load_file(shared / "vectors" / "golden" / "vectors" / "i_transforms.safetensors")
    name, _, number = case.partition("_")
    transform = GaussianBlur(float(number[5:])) if name == "blur" else ResizeBack(int(number) / golden["x"].shape[-1])
    x = golden["x"].clone().requires_grad_()
    out = transform(x / 2 + 0.5).clamp(0, 1) * 2 - 1
    torch.testing.assert_close(out, golden[f"out.{case}"], rtol=0, atol=1e-5)
    (gradient,) = torch.autograd.grad(out, x, golden["cotangent"])
    torch.testing.assert_close(gradient, golden[f"grad.{case}"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("quality", [30, 50, 69])
def test_jpeg_resembles_the_official_one(quality: int, shared: Path) -> None:
    """Ours is kornia's version by the same author: near the official one's output and gradient, not equal."""
    golden = load_file(shared / "vectors" / "golden" / "vectors" / "i_transforms.safetensors")
    x = golden["x"].clone().requires_grad_()
    out = JPEG(quality)(x / 2 + 0.5) * 2 - 1
    assert psnr(out / 2, golden[f"out.jpeg_q{quality}"] / 2) > 35
    (gradient,) = torch.autograd.grad(out, x, golden["cotangent"])
    assert torch.cosine_similarity(gradient.flatten(), golden[f"grad.jpeg_q{quality}"].flatten(), dim=0) > 0.95


def test_draws_each_family_equally_and_parameters_within_range() -> None:
    generator, counts, qualities = torch.Generator().manual_seed(0), Counter(), set()
    for _ in range(5000):
        transform = EoT().draw(generator)
        counts[type(transform).__name__] += 1
        match transform:
            case GaussianBlur(sigma=sigma):
                assert 0.1 <= sigma <= 3.0
            case JPEG(quality=quality):
                qualities.add(quality)
            case GaussianNoise(sigma=sigma):
                assert 0 <= sigma <= 0.03
            case ResizeBack(scale=scale):
                assert 0.5 <= scale <= 2
    # Five standard deviations of a binomial with p = 1/5.
    assert len(counts) == 5
    assert all(abs(count - 1000) < 5 * (5000 * 0.16) ** 0.5 for count in counts.values())
    assert qualities == set(range(30, 70))


def test_draws_only_what_is_switched_on() -> None:
    generator = torch.Generator().manual_seed(0)
    only_noise = EoT(blur_sigma=None, jpeg_quality=None, resize_scale=None, identity=False)
    assert all(isinstance(only_noise.draw(generator), GaussianNoise) for _ in range(20))
    assert all(EoT.none().draw(generator) is None for _ in range(5))


def test_refuses_nothing_to_draw_and_empty_ranges() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        EoT(None, None, None, None, identity=False)
    with pytest.raises(ValueError, match="range is empty"):
        EoT(jpeg_quality=(70, 30))
