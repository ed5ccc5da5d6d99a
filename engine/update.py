"""Update rules: how a gradient becomes a step of ascent. Step sizes are in budget units (8-bit levels for pictures)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .picture import strips

Variables = tuple[Tensor, ...]
"""What is optimised: tensors [B,...,H,W]."""

Ascent = Callable[[Variables, Variables], Variables]


class Update(Protocol):
    """A rule's settings; `begin` starts a run of it."""

    def begin(self, variables: Variables, *, unit: float) -> Ascent:
        """`unit` is one budget unit in the variables' own scale. Returns (variables, gradients) -> stepped variables."""
        ...


@dataclass(frozen=True)
class MomentumSign:
    """MI-FGSM (Dong et al. 2018), Dormant Eq 12: g <- decay * g + grad / mean|grad| per picture; step along sign(g)."""

    step: float = 1.0
    decay: float = 0.5

    def begin(self, variables: Variables, *, unit: float) -> Ascent:
        momenta = [torch.zeros_like(variable) for variable in variables]

        def ascend(variables: Variables, gradients: Variables) -> Variables:
            for momentum, gradient in zip(momenta, gradients, strict=True):
                mean = gradient.abs().mean(dim=tuple(range(1, gradient.ndim)), keepdim=True)
                mean = mean.clamp_min(torch.finfo(mean.dtype).tiny)
                for rows in strips(gradient):
                    momentum[..., rows, :].mul_(self.decay).add_(gradient[..., rows, :] / mean)
            return tuple(_along_sign(v, m, self.step * unit) for v, m in zip(variables, momenta, strict=True))

        return ascend


@dataclass(frozen=True)
class Sign:
    """PGD's step (Madry et al. 2018), Dormant Eq 6: along sign(grad), without memory."""

    step: float = 1.0

    def begin(self, variables: Variables, *, unit: float) -> Ascent:
        def ascend(variables: Variables, gradients: Variables) -> Variables:
            return tuple(_along_sign(v, g, self.step * unit) for v, g in zip(variables, gradients, strict=True))

        return ascend


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

    def begin(self, variables: Variables, *, unit: float) -> Ascent:
        held = [torch.nn.Parameter(variable.detach().clone()) for variable in variables]
        # Without foreach the memory for a 12-megapixel picture stays at one temporary instead of four.
        optimiser = torch.optim.Adam(held, lr=self.step * unit, betas=self.betas, eps=1e-12, maximize=True, foreach=False)

        def ascend(variables: Variables, gradients: Variables) -> Variables:
            with torch.no_grad():
                for parameter, variable, gradient in zip(held, variables, gradients, strict=True):
                    parameter.copy_(variable)
                    parameter.grad = gradient
                optimiser.step()
            return tuple(parameter.detach().clone() for parameter in held)

        return ascend
