"""Deterministic steps between a denoiser's noise levels (DDIM, Song et al. 2021), both ways, and a prompt fitted to one (null text)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ..compute.half import Scales
from .denoiser import PictureModel

Predict = Callable[[Tensor, float], Tensor]
"""(latents [B,C,h,w] with noise, as the model has them, level) -> its estimate of the clean ones."""


class PromptedModel(PictureModel, Protocol):
    """One that can be asked under another prompt than its own."""

    def unscaled(self, latents: Tensor, /) -> Tensor:
        """Latents as the model has them, in the scale that its VAE gives and takes: the inverse of `scaled`."""
        ...

    def prompt(self, noisy: Tensor, /, *, negative: bool = False) -> Tensor:
        """The embedding [1,T,D] of its own prompt, for latents like these."""
        ...

    def estimate_under(self, noisy: Tensor, level: float, prompt: Tensor, /) -> Tensor:
        """The estimate of the clean latents, fp32, under this embedding [B,T,D], through which gradients flow too."""
        ...


@dataclass(frozen=True, eq=False)
class DDIM:
    """Latents here are z = alpha z_0 + sigma noise with alpha^2 + sigma^2 = 1, however the model itself mixes them.

    Which is read off the model: what it makes of a latent alone, and of noise alone. Levels are shares of its schedule, see Denoiser.
    """

    model: PictureModel

    def mixture(self, level: float, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """alpha, sigma, and by how much the model's own noisy latents are larger than z: scalars with the device and dtype of `like`."""
        one = torch.ones_like(like[:1, :1, :1, :1])
        kept, added = (self.model.noised(*parts, level).flatten()[0] for parts in ((one, one * 0), (one * 0, one)))
        size = (kept.square() + added.square()).sqrt()
        return kept / size, added / size, size

    def noise(self, latents: Tensor, level: float, predict: Predict) -> Tensor:
        """The noise that the model finds in z at this level: (z - alpha z_0) / sigma, like z."""
        alpha, sigma, size = self.mixture(level, latents)
        return (latents - alpha * predict(latents * size, level)) / sigma

    def moved(self, latents: Tensor, noise: Tensor, level: float, to: float) -> Tensor:
        """z at level `to`, of the same clean latents and noise: alpha' / alpha (z - sigma noise) + sigma' noise."""
        (alpha, sigma, _), (wanted, added, _) = self.mixture(level, latents), self.mixture(to, latents)
        return wanted / alpha * latents + (added - wanted / alpha * sigma) * noise

    def ancestral(self, latents: Tensor, noise: Tensor, level: float, to: float, fresh: Tensor) -> Tensor:
        """As `moved`, with as much of the noise replaced by a fresh one as in training's chain: DDPM (Ho et al. 2020), DDIM with eta 1."""
        (alpha, sigma, _), (wanted, added, _) = self.mixture(level, latents), self.mixture(to, latents)
        spread = added / sigma * (1 - (alpha / wanted).square()).sqrt()
        clean = (latents - sigma * noise) / alpha
        return wanted * clean + (added.square() - spread.square()).clamp_min(0).sqrt() * noise + spread * fresh

    def inverted(self, latents: Tensor, level: float, to: float, predict: Predict, *, refinements: int = 0) -> Tensor:
        """z at the noisier level `to` from which a step leads back to `latents` at `level`.

        Without refinements the noise is that which the model finds in `latents` (Song et al. 2021), so that the way back misses a little;
        each is one turn of the fixed-point iteration that finds the noise at the level itself (Pan et al. 2023).
        """
        noisy = self.moved(latents, self.noise(latents, level, predict), level, to)
        for _ in range(refinements):
            noisy = self.moved(latents, self.noise(noisy, to, predict), level, to)
        return noisy


def own_prompt(model: PictureModel, *, negative: bool = False) -> Predict:
    return lambda noisy, level: model.estimate(noisy, level, negative=negative)[0]


def guided(model: PromptedModel, empty: Tensor, guidance: float) -> Predict:
    """Classifier-free guidance away from the embedding `empty` [B,T,D], towards the model's own prompt."""

    def predict(noisy: Tensor, level: float) -> Tensor:
        away, towards = model.estimate_under(noisy, level, empty), model.estimate(noisy, level)[0]
        return away + guidance * (towards - away)

    return predict


def fitted_prompt(
    ddim: DDIM,
    model: PromptedModel,
    latents: Tensor,
    wanted: Tensor,
    step: tuple[float, float],
    *,
    guidance: float,
    iterations: int = 10,
    rate: float = 0.1,
) -> Tensor:
    """The empty prompt's embedding [B,T,D] under which a guided step from `latents` ends nearest to `wanted` (Mokady et al. 2023).

    AdamW on the mean squared error, from the model's negative prompt. step: its levels, from and to. Raises HalfPrecisionError.
    """
    start = model.prompt(latents, negative=True).detach().to(latents)
    embedding = torch.nn.Parameter(start.expand(latents.shape[0], -1, -1).clone())
    optimiser, scales = torch.optim.AdamW([embedding], lr=rate), Scales()

    def attempt() -> tuple[Tensor, list[Tensor]]:
        with torch.enable_grad():
            noise = ddim.noise(latents, step[0], guided(model, embedding, guidance))
            loss = F.mse_loss(ddim.moved(latents, noise, *step), wanted)
            (gradient,) = torch.autograd.grad(loss, embedding)
        return gradient, [loss]

    for _ in range(iterations):
        embedding.grad, _ = scales.repeated(attempt)
        optimiser.step()
    return embedding.detach()
