"""Impress (Cao et al. 2023): a picture that an autoencoder reproduces, yet that looks like the protected one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..compute.half import Scales
from ..draws import stream
from ..surrogates.perceptual import PerceptualNetwork

LAST_RATE = 1e-5

RoundTrip = Callable[[Tensor], Tensor]
"""Encode and decode: pictures [B,3,H,W] in [0,1] -> the same shape and range, differentiable, not clamped."""


@dataclass(frozen=True)
class Impressed:
    """After `done` of `total` iterations. The two figures are of the picture that the iteration started from.

    image: [B,3,H,W] in [0,1], detached. inconsistency: mean squared error of the round trip, in [-1,1] units. distance: LPIPS.
    """

    done: int
    total: int
    inconsistency: float
    distance: float
    image: Tensor


def impress(
    image: Tensor,
    round_trip: RoundTrip,
    lpips: PerceptualNetwork,
    *,
    iterations: int = 3000,
    rate: float = 0.01,
    alpha: float = 0.1,
    threshold: float = 0.1,
    noise: float = 0.1,
    seed: int = 0,
    drawn: Tensor | None = None,
) -> Iterator[Impressed]:
    """Minimise mean (D(E(x)) - x)^2 + alpha * max(LPIPS(x, given) - threshold, 0) with Adam, one Impressed after each iteration.

    image: [B,3,H,W] in [0,1]; the squared error and everything below is in [-1,1] units as in the official code. The gradient flows
    through both sides of the squared error. noise: standard deviation of the start around the picture. rate: falls to 1e-5 over the
    iterations along a cosine. drawn: the start's standard normal numbers; by default from the seed. All pictures of a batch share
    one mean, so that give one for results that do not depend on neighbours. Raises HalfPrecisionError for a round trip that fp16 breaks.
    """
    given = image.detach() * 2 - 1
    with torch.no_grad():
        looks = lpips.activations(image.detach())
    start = torch.randn(image.shape, generator=stream(seed, "impress")) if drawn is None else drawn
    variable = (given + noise * start.to(given)).requires_grad_()
    optimiser = torch.optim.Adam([variable], lr=rate, eps=1e-5)
    scales = Scales()

    def attempt() -> tuple[Tensor, list[Tensor]]:
        with torch.enable_grad():
            picture = (variable + 1) / 2
            inconsistency = (2 * (round_trip(picture) - picture)).square().mean()
            distance = lpips.distance(lpips.activations(picture), looks).mean()
            loss = inconsistency + alpha * (distance - threshold).clamp_min(0)
            (gradient,) = torch.autograd.grad(loss, variable)
        return gradient, [inconsistency, distance]

    for index in range(iterations):
        optimiser.param_groups[0]["lr"] = LAST_RATE + (rate - LAST_RATE) * (1 + math.cos(math.pi * index / iterations)) / 2
        variable.grad, (inconsistency, distance) = scales.repeated(attempt)
        optimiser.step()
        with torch.no_grad():
            variable.clamp_(-1, 1)
        yield Impressed(index + 1, iterations, inconsistency, distance, (variable.detach() + 1) / 2)
