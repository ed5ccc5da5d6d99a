"""The pixels themselves, within an L-infinity ball."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..observation import Cut, uncut
from ..picture import LEVELS, strips, to_levels, whole_levels
from ..update import Variables


@dataclass(frozen=True)
class RGB:
    """A perturbation of the pixels with |perturbation| <= budget levels (L-infinity), scaled by the mask where it is soft.

    start_from: "budget" begins at U(-budget, budget); "clean" at the clean picture, where distances have zero gradient; "anywhere"
    at U(-255/2, 255/2), outside of the budget until the first step, as Dormant's official code does.
    truncated: the result's levels are rounded down, as its script writes them, and not to the nearest.
    Raises ValueError unless 1 <= budget <= 64: files hold whole levels, so less than one would change nothing.
    """

    budget: float = 8.0
    start_from: Literal["budget", "clean", "anywhere"] = "budget"
    truncated: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.budget <= 64:
            raise ValueError(f"The budget is {self.budget:g} levels: choose 1 to 64 (8 is hard to see, 16 is strong).")

    @property
    def unit(self) -> float:
        return 1 / LEVELS

    @property
    def surrogates(self) -> tuple[object, ...]:
        return ()

    def at(self, index: int) -> RGB:
        return self

    def _radius(self, mask: Tensor | None) -> Tensor | float:
        return self.budget / LEVELS if mask is None else mask * (self.budget / LEVELS)

    def start(self, clean: Tensor, mask: Tensor | None, generator: torch.Generator) -> Variables:
        if self.start_from == "clean":
            return (torch.zeros_like(clean),)
        if self.start_from == "anywhere":
            noise = _uniform(clean, generator)
            return ((clean + noise / 2 * (1 if mask is None else mask)).clamp(0, 1) - clean,)
        return self.inside(clean, mask, generator)

    def inside(self, clean: Tensor, mask: Tensor | None, generator: torch.Generator) -> Variables:
        return self.project(clean, mask, (_uniform(clean, generator).mul_(self._radius(mask)),))

    def variables(self, clean: Tensor, mask: Tensor | None, picture: Tensor) -> Variables:
        return (picture - clean,)

    def render(self, clean: Tensor, mask: Tensor | None, variables: Variables, cut: Cut = uncut) -> Tensor:
        return clean + variables[0]

    def project(self, clean: Tensor, mask: Tensor | None, variables: Variables) -> Variables:
        radius = self._radius(mask)
        projected = torch.empty_like(variables[0])
        for rows in strips(clean):
            perturbation, before = variables[0][..., rows, :], clean[..., rows, :]
            if isinstance(radius, float):
                inside = perturbation.clamp(-radius, radius)
            else:
                inside = perturbation.minimum(radius[..., rows, :]).maximum(-radius[..., rows, :])
            projected[..., rows, :] = (before + inside).clamp(0, 1) - before
        return (projected,)

    def result(self, clean: Tensor, mask: Tensor | None, variables: Variables) -> Tensor:
        result = torch.empty_like(clean)
        for rows in strips(clean):
            part = None if mask is None else mask[..., rows, :]
            result[..., rows, :] = self._result(clean[..., rows, :], part, variables[0][..., rows, :])
        return result

    def _result(self, clean: Tensor, mask: Tensor | None, perturbation: Tensor) -> Tensor:
        bound = whole_levels(self.budget, mask).to(clean)
        before = to_levels(clean)
        # Whole levels that arithmetic left a hair too low are not to lose one.
        after = ((clean + perturbation) * LEVELS + 1e-3).floor() if self.truncated else to_levels(clean + perturbation)
        after = (before + (after - before).minimum(bound).maximum(-bound)).clamp(0, LEVELS)
        return torch.where(after == before, clean, after / LEVELS)


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    """In [-1,1], drawn on the CPU so that a seed gives the same on every device."""
    return torch.rand(like.shape, generator=generator).to(like).mul_(2).sub_(1)
