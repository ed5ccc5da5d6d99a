"""Baselines' losses on a small model: finite differences, and the one whose gradient is meant to be another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from stillguard.engine import Objective, Observation, Term
from stillguard.engine.draws import SeededDraws
from stillguard.engine.losses import baselines
from stillguard.engine.observation import Features
from stillguard.engine.surrogates.denoiser import Tap
from stillguard.engine.surrogates.picture_setup import PictureSetup
from support import RandomEncoder
from torch import Tensor
from torch.nn import functional as F

LEVELS = tuple(index / 9 for index in range(10))


class VAE(RandomEncoder):
    def __init__(self) -> None:
        super().__init__(0)
        self.double()

    def encode(self, image: Tensor) -> Tensor:
        return super().encode(image.double())

    def posterior(self, image: Tensor) -> tuple[Tensor, Tensor]:
        mean = self.encode(image)
        return mean, (0.1 * mean).exp()

    def embed(self, image: Tensor) -> Tensor:
        return self.encode(image).flatten(1)[:, :12]


class Model:
    """Predicts noise by a convolution with a curve in it. Of variance-exploding latents, as ComfyUI has Stable Diffusion's."""

    def __init__(self, width: int) -> None:
        generator = torch.Generator().manual_seed(1)
        self.weight = torch.randn(width, width, 3, 3, generator=generator, dtype=torch.float64) * 0.3

    def scaled(self, latents: Tensor) -> Tensor:
        return latents * 0.2

    def sigma(self, level: float) -> float:
        return 0.03 + 5 * level**2

    def noised(self, latents: Tensor, noise: Tensor, level: float) -> Tensor:
        return latents + self.sigma(level) * noise

    def output_scale(self, level: float) -> float:
        return self.sigma(level)

    def estimate(self, noisy: Tensor, level: float, *, taps: Sequence[Tap] = (), negative: bool = False) -> Features:
        return (noisy - self.sigma(level) * self.predicted(noisy, level),)

    def predicted(self, noisy: Tensor, level: float) -> Tensor:
        return torch.tanh(F.conv2d(noisy.double() / (1 + self.sigma(level) ** 2) ** 0.5, self.weight, padding=1))


@pytest.fixture
def setup() -> PictureSetup:
    vae = VAE()
    return PictureSetup(Model(vae.encode(torch.zeros(1, 3, 16, 16)).shape[1]), vae)


def picture(seed: int) -> Tensor:
    return torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(seed)).double()


LOSSES: dict[str, Callable[[PictureSetup], Any]] = {
    "denoising": lambda setup: baselines.DenoisingError(setup, LEVELS),
    "denoising, drawn latents": lambda setup: baselines.DenoisingError(PictureSetup(setup.model, setup.vae, "posterior"), LEVELS),
    "target score": lambda setup: baselines.TargetScore(setup, picture(7), levels=LEVELS),
    "noise alignment": lambda setup: baselines.NoiseAlignment(setup, LEVELS),
    "texture": lambda setup: baselines.Texture(setup, picture(7)),
    "texture, drawn target": lambda setup: baselines.Texture(setup, picture(7), drawn="aim"),
    "target shift": lambda setup: baselines.TargetShift(setup, picture(7), LEVELS),
    "latent norm": lambda setup: baselines.LatentNorm(setup.vae),
    "latent norm, target": lambda setup: baselines.LatentNorm(setup.vae, picture(7)),
    "embedding angle": lambda setup: baselines.EmbeddingAngle(setup.vae),
    "embedding angle, target": lambda setup: baselines.EmbeddingAngle(setup.vae, picture(7)),
    "latent angle": lambda setup: baselines.LatentAngle(setup.vae),
    "latent angle, target": lambda setup: baselines.LatentAngle(setup.vae, picture(7)),
}


def value_and_slope(loss: Any, image: Tensor, *, low_memory: bool = False) -> tuple[float, Tensor]:
    leaf = image.clone().requires_grad_()
    seen = Observation(leaf, draws=SeededDraws(3), low_memory=low_memory)
    measured = Objective((Term("loss", 1.0, loss),)).backward(Observation(picture(0)), seen)
    assert leaf.grad is not None
    return float(measured["loss"]), leaf.grad


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_is_that_of_finite_differences(name: str, setup: PictureSetup) -> None:
    loss, image, step = LOSSES[name](setup), picture(1), 1e-3
    _, slope = value_and_slope(loss, image)
    for seed in range(2):
        # Uphill, as far as random numbers let it: across, single precision would drown what there is.
        direction = slope.sign() * torch.rand(image.shape, generator=torch.Generator().manual_seed(seed)).double()
        up, down = (value_and_slope(loss, image + sign * step * direction)[0] for sign in (1, -1))
        assert (up - down) / (2 * step) == pytest.approx(float((slope * direction).sum()), rel=1e-2)
    assert torch.equal(value_and_slope(loss, image, low_memory=True)[1], slope)


def test_the_gradient_of_score_distillation_stops_before_the_model(setup: PictureSetup) -> None:
    loss, image = baselines.ScoreDistillation(setup, LEVELS), picture(1)
    value, slope = value_and_slope(loss, image)
    noise = SeededDraws(3).normal("noise", tuple(setup.vae.encode(image).shape)).double()
    level = LEVELS[SeededDraws(3).integer("timestep", len(LEVELS))]
    leaf = image.clone().requires_grad_()
    latent = setup.model.scaled(setup.vae.encode(leaf).float())
    error = (setup.model.predicted(setup.model.noised(latent.detach(), noise, level), level) - noise).detach()
    assert value == pytest.approx(float(error.square().mean()), rel=1e-5)
    (expected,) = torch.autograd.grad((latent * 2 * error / error.numel()).sum(), leaf)
    assert torch.allclose(slope, expected, rtol=1e-4, atol=1e-9)
    whole, through = value_and_slope(baselines.DenoisingError(setup, LEVELS), image)
    assert value == pytest.approx(whole, rel=1e-5)
    assert not torch.allclose(slope, through, rtol=0.1)


def test_losses_that_agree_ask_the_model_once(setup: PictureSetup) -> None:
    asked = []
    estimate = setup.model.estimate
    setup.model.estimate = lambda *args, **options: asked.append(1) or estimate(*args, **options)
    terms = (LOSSES["denoising"](setup), LOSSES["target score"](setup), LOSSES["noise alignment"](setup))
    objective = Objective(tuple(Term(str(index), 1.0, loss) for index, loss in enumerate(terms)))
    objective.backward(Observation(picture(0)), Observation(picture(1).requires_grad_(), draws=SeededDraws(3)))
    assert len(asked) == 1


def test_the_target_pattern_is_of_high_contrast() -> None:
    pattern = baselines.pattern(128)
    assert pattern.shape == (1, 3, 128, 128)
    assert set(pattern.unique().tolist()) == {0.0, 1.0}
    assert 0.3 < float(pattern.mean()) < 0.7
