"""Purification by a diffusion model in pixel space: noise a picture a little and let an unconditional denoiser take it away again.

The chain is guided-diffusion's (Dhariwal and Nichol 2021): 1000 steps of linear betas, learned-range variance, clipped estimates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..draws import stream

STEPS = 1000

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""Pictures [B,3,H,W] in [-1,1] with noise, 0-based timesteps [B] int64 -> [B,6,H,W]: the noise, then the variance's v in [-1,1]."""


def linear_alphas() -> Tensor:
    """Cumulative products of 1 - beta for betas 1e-4 ... 0.02, [1000] float64: how much of the picture a step keeps, squared."""
    return (1 - torch.linspace(1e-4, 0.02, STEPS, dtype=torch.float64)).cumprod(0)


@dataclass(frozen=True)
class Chain:
    """The steps that a reverse chain takes. alphas: cumulative, [N] float64. labels: what the denoiser is told at each of them."""

    alphas: Tensor
    labels: Sequence[int]

    @classmethod
    def whole(cls) -> Chain:
        return cls(linear_alphas(), range(STEPS))

    def noised(self, image: Tensor, index: int, noise: Tensor) -> Tensor:
        """q(x_index | x_0) of a picture in [-1,1], with this standard normal noise."""
        kept = float(self.alphas[index])
        return math.sqrt(kept) * image + math.sqrt(1 - kept) * noise

    def estimate(self, noisy: Tensor, index: int, predicted: Tensor) -> Tensor:
        """The clean picture that the predicted noise implies, clipped to [-1,1]."""
        kept = float(self.alphas[index])
        return (math.sqrt(1 / kept) * noisy - math.sqrt(1 / kept - 1) * predicted).clamp(-1, 1)

    def before(self, noisy: Tensor, index: int, output: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """One draw of p(x_{index-1} | x_index) from the denoiser's output, and the estimate of the clean picture.

        The variance lies between beta and the posterior's, where v says; the last step (index 0) adds no noise.
        """
        predicted, share = output.chunk(2, dim=1)
        estimate = self.estimate(noisy, index, predicted)
        kept, kept_before = float(self.alphas[index]), float(self.alphas[index - 1]) if index else 1.0
        alpha = kept / kept_before
        mean = math.sqrt(kept_before) * (1 - alpha) / (1 - kept) * estimate + math.sqrt(alpha) * (1 - kept_before) / (1 - kept) * noisy
        if index == 0:
            return mean, estimate
        share = (share + 1) / 2
        widest, narrowest = math.log(1 - alpha), math.log((1 - alpha) * (1 - kept_before) / (1 - kept))
        return mean + (0.5 * (share * widest + (1 - share) * narrowest)).exp() * noise, estimate


@dataclass(frozen=True)
class Denoised:
    """After `done` of `total` denoiser calls. image: [B,3,H,W], still noisy before the last, which is the result in [0,1]."""

    done: int
    total: int
    image: Tensor
    estimate: Tensor


def normal_draws(shape: Sequence[int], seed: int) -> Iterator[Tensor]:
    """Standard normal noise without end, drawn on the CPU so that a seed gives the same on every device."""
    generator = stream(seed, "purify")
    while True:
        yield torch.randn(tuple(shape), generator=generator)


@torch.no_grad()
def diffpure(
    image: Tensor, denoiser: Denoiser, *, timesteps: int = 150, seed: int = 0, noises: Iterator[Tensor] | None = None
) -> Iterator[Denoised]:
    """DiffPure (Nie et al. 2022): noise to step `timesteps` of 1000, then every step of the reverse chain, one Denoised after each.

    image: [B,3,H,W] in [0,1], of a size that the denoiser takes. noises: standard normal, one for the start and one for each step;
    by default from the seed. Raises ValueError where timesteps is not in 1 ... 1000.
    """
    _check_timesteps(timesteps)
    chain, draws = Chain.whole(), noises or normal_draws(image.shape, seed)
    noisy = chain.noised(image * 2 - 1, timesteps - 1, next(draws).to(image))
    for index in reversed(range(timesteps)):
        label = torch.full((image.shape[0],), chain.labels[index], device=image.device)
        noisy, estimate = chain.before(noisy, index, denoiser(noisy, label).to(image), next(draws).to(image))
        yield Denoised(timesteps - index, timesteps, (noisy + 1) / 2, (estimate + 1) / 2)


@torch.no_grad()
def dds_one_shot(image: Tensor, denoiser: Denoiser, *, timesteps: int, seed: int = 0, noise: Tensor | None = None) -> Tensor:
    """DDS (Carlini et al. 2023): noise to step `timesteps` and take the estimate of the clean picture from one denoiser call.

    image: [B,3,H,W] in [0,1]. Returns the same, in [0,1]. Raises ValueError where timesteps is not in 1 ... 1000.
    """
    _check_timesteps(timesteps)
    chain, index = Chain.whole(), timesteps - 1
    drawn = next(normal_draws(image.shape, seed)) if noise is None else noise
    noisy = chain.noised(image * 2 - 1, index, drawn.to(image))
    output = denoiser(noisy, torch.full((image.shape[0],), chain.labels[index], device=image.device)).to(image)
    return (chain.estimate(noisy, index, output[:, :3]) + 1) / 2


def timesteps_for(sigma: float) -> int:
    """How many of the 1000 steps make noise of standard deviation `sigma` beside a picture of the same range: abar = 1 / (1 + sigma^2).

    The picture's range is [-1,1], so a perturbation of r levels is 2r/255.
    """
    return int((linear_alphas() - 1 / (1 + sigma**2)).abs().argmin()) + 1


def _check_timesteps(timesteps: int) -> None:
    if not 1 <= timesteps <= STEPS:
        raise ValueError(f"The noise is {timesteps} of {STEPS} steps: choose 1 to {STEPS}.")
