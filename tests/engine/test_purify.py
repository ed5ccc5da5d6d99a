"""The purifiers' mathematics; their authors' own numbers are compared in tests/goldens/baselines_purify.py."""

from __future__ import annotations

import math

import pytest
import torch
from stillguard.engine import Objective, Term, protect
from stillguard.engine.losses.dormant import VAELatent
from stillguard.engine.purify.diffusion import Chain, dds_one_shot, diffpure, linear_alphas, timesteps_for
from stillguard.engine.purify.gridpure import at_least, boxes, gridpure, in_windows, number_of_windows
from stillguard.engine.purify.impress import Impressed, impress
from stillguard.engine.purify.upscaling import diffshortcut, noisy_upscaling
from stillguard.engine.surrogates.perceptual import PerceptualNetwork
from stillguard.engine.surrogates.tiny_autoencoder import TinyAutoencoder
from torch import Tensor
from torch.nn import functional as F

SIGMA = 0.15  # small beside 1, so that clipped estimates are rare


def gaussian_denoiser(noisy: Tensor, timestep: Tensor) -> Tensor:
    """The best possible one where every pixel is N(0, SIGMA^2): noise and variance of each step in closed form."""
    index = int(timestep[0])
    kept, before = float(linear_alphas()[index]), float(linear_alphas()[index - 1]) if index else 1.0
    estimate = kept**0.5 * SIGMA**2 / (kept * SIGMA**2 + 1 - kept) * noisy
    noise = (noisy - kept**0.5 * estimate) / (1 - kept) ** 0.5
    if index == 0:
        return torch.cat([noise, noise], dim=1)
    beta = 1 - kept / before
    narrowest = beta * (1 - before) / (1 - kept)
    uncertainty = SIGMA**2 * (1 - kept) / (kept * SIGMA**2 + 1 - kept)
    variance = narrowest + (before**0.5 * beta / (1 - kept)) ** 2 * uncertainty
    share = math.log(variance / narrowest) / math.log(beta / narrowest)
    return torch.cat([noise, torch.full_like(noise, 2 * share - 1)], dim=1)


@pytest.mark.parametrize("timesteps", [40, 150])
def test_diffpure_with_the_ideal_denoiser_draws_from_the_posterior(timesteps: int) -> None:
    """For a Gaussian prior the variance of the result, and its covariance with the picture, are known."""
    picture = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * SIGMA
    *_, last = diffpure((picture + 1) / 2, gaussian_denoiser, timesteps=timesteps, seed=1)
    purified = last.image * 2 - 1
    kept = float(linear_alphas()[timesteps - 1])
    assert float(purified.var()) == pytest.approx(SIGMA**2, rel=0.02)
    expected = kept * SIGMA**4 / (kept * SIGMA**2 + 1 - kept)
    assert float((purified * picture).mean()) == pytest.approx(expected, rel=0.05)
    assert (last.done, last.total) == (timesteps, timesteps)


def test_dds_with_the_ideal_denoiser_is_the_posterior_mean() -> None:
    picture = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * SIGMA
    kept = float(linear_alphas()[22])
    purified = dds_one_shot((picture + 1) / 2, gaussian_denoiser, timesteps=23) * 2 - 1
    share = kept * SIGMA**2 / (kept * SIGMA**2 + 1 - kept)
    assert float((purified * picture).mean()) == pytest.approx(share * SIGMA**2, rel=0.03)
    assert float(purified.var()) == pytest.approx(share * SIGMA**2, rel=0.03)


def test_a_seed_gives_one_picture_and_another_seed_another() -> None:
    picture = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    first, again, other = (list(diffpure(picture, gaussian_denoiser, timesteps=5, seed=seed))[-1].image for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("timesteps", [0, 1001])
def test_noise_outside_of_the_schedule_is_refused(timesteps: int) -> None:
    with pytest.raises(ValueError, match="choose 1 to 1000"):
        next(diffpure(torch.zeros(1, 3, 8, 8), gaussian_denoiser, timesteps=timesteps))


def test_the_steps_for_a_radius_make_noise_of_that_strength() -> None:
    for radius in (4, 11, 40):
        kept = float(linear_alphas()[timesteps_for(2 * radius / 255) - 1])
        # Relative to the picture, whose scale shrinks with sqrt(kept).
        assert ((1 - kept) / kept) ** 0.5 == pytest.approx(2 * radius / 255, rel=0.06)
    noised = Chain.whole().noised(torch.zeros(1, 3, 128, 128), 199, torch.randn(1, 3, 128, 128))
    assert float(noised.std()) == pytest.approx(float((1 - linear_alphas()[199]).sqrt()), rel=0.02)


@pytest.mark.parametrize("size", [(256, 256), (257, 300), (40, 700), (1, 5), (512, 384)])
def test_windows_that_change_nothing_change_nothing_at_any_size(size: tuple[int, int]) -> None:
    picture = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    calls = []

    def same(window: Tensor) -> Tensor:
        assert tuple(window.shape) == (2, 3, 256, 256)
        calls.append(window)
        return window

    steps = list(gridpure(picture, same, iterations=2))
    torch.testing.assert_close(steps[-1].image, picture, rtol=0, atol=1e-6)
    assert len(calls) == 2 * (number_of_windows(*size) + 1)
    calls.clear()
    torch.testing.assert_close(in_windows(picture, same), picture, rtol=0, atol=1e-6)
    assert len(calls) == number_of_windows(*size)


def test_windows_cover_every_pixel_and_stay_inside() -> None:
    for height, width in ((256, 256), (383, 640), (300, 1000)):
        covered = torch.zeros(height, width)
        for x0, y0, x1, y1 in boxes(height, width):
            assert 0 <= x0 < x1 <= width
            assert 0 <= y0 < y1 <= height
            covered[y0:y1, x0:x1] += 1
        assert float(covered.min()) >= 1


def test_a_small_picture_is_continued_by_its_mirror_image() -> None:
    picture = torch.arange(6.0).view(1, 1, 2, 3)
    assert at_least(picture, 4)[0, 0].tolist() == [[0, 1, 2, 1], [3, 4, 5, 4], [0, 1, 2, 1], [3, 4, 5, 4]]


def test_gamma_keeps_its_share_and_truncating_darkens() -> None:
    picture = torch.full((1, 3, 256, 256), 100 / 255)
    *_, last = gridpure(picture, torch.zeros_like, iterations=2, gamma=0.1)
    torch.testing.assert_close(last.image, picture * 0.01)
    generator = torch.Generator().manual_seed(0)

    def wavering(window: Tensor) -> Tensor:
        return window + (torch.rand(window.shape, generator=generator) - 0.5) / 255

    drift = {cut: float((list(gridpure(picture, wavering, truncate=cut))[-1].image - picture).mean() * 255) for cut in (True, False)}
    assert drift[False] == pytest.approx(0, abs=0.01)
    assert -6 < drift[True] < -3


@pytest.fixture(scope="module")
def scene(astronaut: Tensor, lab_vae: TinyAutoencoder) -> tuple[Tensor, Tensor]:
    """The face at 96 px, and what VAE Latent makes of it with 8 levels."""
    clean = (F.interpolate(astronaut, size=(192, 192), mode="area")[..., :96, 40:136] * 255).round() / 255
    *_, last = protect(clean, Objective((Term("VAE Latent", 10.0, VAELatent(lab_vae)),)), steps=10, seed=0)
    return clean, last.image


def rebuilt(picture: Tensor, vae: TinyAutoencoder) -> Tensor:
    return vae.decode(vae.encode(picture)).clamp(0, 1)


def impressed(picture: Tensor, vae: TinyAutoencoder, lpips: PerceptualNetwork, **settings: object) -> list[Impressed]:
    return list(impress(picture, lambda image: vae.decode(vae.encode(image)), lpips, seed=3, **settings))


def test_impress_takes_effect_from_a_protection_by_the_trained_autoencoder(
    scene: tuple[Tensor, Tensor], lab_vae: TinyAutoencoder, perceptual: PerceptualNetwork
) -> None:
    """And what the autoencoder makes of the picture agrees better with it, while it still looks like the one given."""
    clean, protected = scene
    steps = impressed(protected, lab_vae, perceptual, iterations=12)
    pure = steps[-1].image
    before, after = (float(perceptual(rebuilt(clean, lab_vae), rebuilt(picture, lab_vae))) for picture in (protected, pure))
    assert before > 0.1
    assert after < 0.9 * before
    assert steps[-1].inconsistency < 0.8 * steps[0].inconsistency
    assert float(perceptual(protected, pure)) < 0.15
    assert float(pure.min()) >= 0
    assert float(pure.max()) <= 1


def test_impress_is_repeatable_and_leaves_its_input_alone(
    scene: tuple[Tensor, Tensor], lab_vae: TinyAutoencoder, perceptual: PerceptualNetwork
) -> None:
    _, protected = scene
    before = protected.clone()
    first, again = (impressed(protected[..., :48, :48], lab_vae, perceptual, iterations=3)[-1].image for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(protected, before)
    # Without noise on the start, and with a rate that moves nothing, the picture comes back.
    still = impressed(protected[..., :48, :48], lab_vae, perceptual, iterations=1, noise=0.0, rate=0.0)[-1].image
    torch.testing.assert_close(still, protected[..., :48, :48], rtol=0, atol=1e-6)


def test_upscalers_are_given_noise_and_a_reduced_picture(astronaut: Tensor) -> None:
    wide = astronaut[:, :, :100]
    given = []

    def upscale(image: Tensor) -> Tensor:
        given.append(image)
        return F.interpolate(image, scale_factor=4)

    assert tuple(noisy_upscaling(wide, upscale, sigma=0.1, longest=128, seed=1).shape) == (1, 3, 200, 512)
    noise = given[-1] - F.interpolate(wide, size=(50, 128), mode="bilinear", antialias=True)
    inside = (given[-1] > 0) & (given[-1] < 1)
    assert float(noise[inside].std()) == pytest.approx(0.1, rel=0.2)
    assert float(given[-1].min()) == 0
    noisy_upscaling(wide, upscale, seed=1)
    assert given[-1].shape == wide.shape  # 512 is the most, not the wanted size
    assert tuple(diffshortcut(astronaut, upscale, restore=lambda whole: 1 - F.interpolate(whole, scale_factor=2)).shape) == (1, 3, 512, 512)
    torch.testing.assert_close(F.avg_pool2d(given[-1], 16), 1 - F.avg_pool2d(astronaut, 32), rtol=0, atol=0.03)
