"""Update rules: how a gradient becomes a step of ascent. Step sizes are in budget units (8-bit levels for pictures)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from .picture import strips

Variables = tuple[Tensor, ...]
"""What is optimised: tensors [B,...,H,W]."""

Ascent = Callable[[Variables, Variables], Variables]


Schedule = Literal["constant", "linear", "cosine"]
"""How a step size goes on from its first value: see `step_sizes`."""

LAST = 0.01
"""What a decaying step size tends to, of its first value, as in PhotoGuard's and Silencer's code."""


def step_sizes(first: float, schedule: Schedule, steps: int) -> Iterator[float]:
    """The size of each of `steps` steps, k = 0, 1, ...; afterwards LAST times the first for ever, or the first where it is constant.

    linear: first * (1 - (1 - LAST) k / steps). cosine: first * (LAST + (1 - LAST) (1 + cos(pi k / steps)) / 2), Loshchilov and Hutter 2017.
    """
    for step in range(steps):
        share = step / steps
        match schedule:
            case "constant":
                yield first
            case "linear":
                yield first * (1 - (1 - LAST) * share)
            case "cosine":
                yield first * (LAST + (1 - LAST) * (1 + math.cos(math.pi * share)) / 2)
    while True:
        yield first if schedule == "constant" else first * LAST


class Update(Protocol):
    """A rule's settings; `begin` starts a run of it."""

    def begin(self, variables: Variables, *, unit: float, steps: int = 1, clean: Tensor | None = None) -> Ascent:
        """Returns (variables, gradients) -> stepped variables.

        unit: one budget unit in the variables' own scale. steps: how many there will be, for step sizes that decay. clean: the picture
        [B,1 or 3,H,W] in [0,1] that the run began from, for rules that look at it.
        """
        ...


@dataclass(frozen=True)
class MomentumSign:
    """MI-FGSM (Dong et al. 2018), Dormant Eq 12: g <- decay * g + grad / mean|grad| per picture; step along sign(g)."""

    step: float = 1.0
    decay: float = 0.5
    schedule: Schedule = "constant"

    def begin(self, variables: Variables, *, unit: float, steps: int = 1, clean: Tensor | None = None) -> Ascent:
        sizes = step_sizes(self.step * unit, self.schedule, steps)
        momenta = [torch.zeros_like(variable) for variable in variables]

        def ascend(variables: Variables, gradients: Variables) -> Variables:
            for momentum, gradient in zip(momenta, gradients, strict=True):
                mean = gradient.abs().mean(dim=tuple(range(1, gradient.ndim)), keepdim=True)
                mean = mean.clamp_min(torch.finfo(mean.dtype).tiny)
                for rows in strips(gradient):
                    momentum[..., rows, :].mul_(self.decay).add_(gradient[..., rows, :] / mean)
            size = next(sizes)
            return tuple(_along_sign(v, m, size) for v, m in zip(variables, momenta, strict=True))

        return ascend


@dataclass(frozen=True)
class Sign:
    """PGD's step (Madry et al. 2018), Dormant Eq 6: along sign(grad), without memory."""

    step: float = 1.0
    schedule: Schedule = "constant"

    def begin(self, variables: Variables, *, unit: float, steps: int = 1, clean: Tensor | None = None) -> Ascent:
        sizes = step_sizes(self.step * unit, self.schedule, steps)

        def ascend(variables: Variables, gradients: Variables) -> Variables:
            size = next(sizes)
            return tuple(_along_sign(v, g, size) for v, g in zip(variables, gradients, strict=True))

        return ascend


@dataclass(frozen=True)
class Normalised:
    """PGD's step for an L2 ball (Madry et al. 2018): along grad / |grad|, `step` budget units of root mean square per picture."""

    step: float = 1.0
    schedule: Schedule = "constant"

    def begin(self, variables: Variables, *, unit: float, steps: int = 1, clean: Tensor | None = None) -> Ascent:
        sizes = step_sizes(self.step * unit, self.schedule, steps)

        def ascend(variables: Variables, gradients: Variables) -> Variables:
            size = next(sizes)
            return tuple(v + _normalised(g) * size for v, g in zip(variables, gradients, strict=True))

        return ascend


def _normalised(gradient: Tensor) -> Tensor:
    """To a root mean square of 1 per picture. The largest value is taken out first: squares of small gradients would be zero."""
    values = tuple(range(1, gradient.ndim))
    scaled = gradient / gradient.abs().amax(dim=values, keepdim=True).clamp_min(torch.finfo(gradient.dtype).tiny)
    return scaled / scaled.square().mean(dim=values, keepdim=True).sqrt().clamp_min(torch.finfo(gradient.dtype).eps)


def _along_sign(variable: Tensor, direction: Tensor, size: float) -> Tensor:
    """variable + size * sign(direction)."""
    stepped = torch.empty_like(variable)
    for rows in strips(variable):
        stepped[..., rows, :] = variable[..., rows, :] + direction[..., rows, :].sign() * size
    return stepped


@dataclass(frozen=True)
class Adam:
    """torch.optim.Adam, ascending; `step` is its learning rate in budget units."""

    step: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Schedule = "constant"

    def begin(self, variables: Variables, *, unit: float, steps: int = 1, clean: Tensor | None = None) -> Ascent:
        return _adam(self, variables, step_sizes(self.step * unit, self.schedule, steps))


@dataclass(frozen=True)
class AdamW:
    """torch.optim.AdamW (Loshchilov and Hutter 2019), ascending: Adam, after variables have shrunk by `decay` times the learning rate.

    A variable without any gradient does not shrink, see Space. step: as for Adam.
    """

    step: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    decay: float = 0.01
    schedule: Schedule = "constant"

    def begin(self, variables: Variables, *, unit: float, steps: int = 1, clean: Tensor | None = None) -> Ascent:
        rates = step_sizes(self.step * unit, self.schedule, steps)
        return _adam(self, variables, step_sizes(self.step * unit, self.schedule, steps), (rate * self.decay for rate in rates))


def _adam(rule: Adam | AdamW, variables: Variables, sizes: Iterator[float], decays: Iterator[float] | None = None) -> Ascent:
    held = [torch.nn.Parameter(variable.detach().clone()) for variable in variables]
    # Without foreach the memory for a 12-megapixel picture stays at one temporary instead of four.
    optimiser = torch.optim.Adam(held, lr=0.0, betas=rule.betas, eps=1e-12, maximize=True, foreach=False)

    def ascend(variables: Variables, gradients: Variables) -> Variables:
        optimiser.param_groups[0]["lr"], decay = next(sizes), 0.0 if decays is None else next(decays)
        with torch.no_grad():
            for parameter, variable, gradient in zip(held, variables, gradients, strict=True):
                parameter.copy_(variable)
                if decay:
                    parameter.mul_(1 - decay * gradient.any())
                parameter.grad = gradient
            optimiser.step()
        return tuple(parameter.detach().clone() for parameter in held)

    return ascend
