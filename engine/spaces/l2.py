"""The pixels themselves, within an L2 ball."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..observation import Cut, uncut
from ..picture import LEVELS, to_levels
from ..update import Variables
from .space import as_file

# The root's equation is close to linear (exactly so where a mask is 0 or 1), so that Newton's method is done after a few.
_ITERATIONS = 8
_HALVINGS = 12


@dataclass(frozen=True)
class RGBL2:
    """A perturbation of the pixels whose root mean square is at most `radius` levels, as PGD's L2 ball (Madry et al. 2018).

    The mean is over all values of a picture where the mask is not 0, so that a radius means the same at every size: a norm e in [0,1]
    units over n values is 255 * e / sqrt(n) here. Where a mask is soft, the perturbation divided by the mask is held to the radius.
    Single values may change by more, so there is no `budget`. start_from: as for RGB, "budget" being normal noise on the ball's surface.
    Raises ValueError unless 0.1 <= radius <= 64: below, hardly a level would survive in a file.
    """

    radius: float = 4.0
    start_from: Literal["budget", "clean"] = "budget"

    def __post_init__(self) -> None:
        if not 0.1 <= self.radius <= 64:
            raise ValueError(
                f"The radius is {self.radius:g} levels: choose 0.1 to 64 (what has a budget of 8 levels has a radius of 8 at most)."
            )

    @property
    def budget(self) -> None:
        return None

    @property
    def unit(self) -> float:
        return 1 / LEVELS

    @property
    def surrogates(self) -> tuple[object, ...]:
        return ()

    def at(self, index: int) -> RGBL2:
        return self

    def start(self, clean: Tensor, mask: Tensor | None, generator: torch.Generator) -> Variables:
        return (torch.zeros_like(clean),) if self.start_from == "clean" else self.inside(clean, mask, generator)

    def inside(self, clean: Tensor, mask: Tensor | None, generator: torch.Generator) -> Variables:
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        return self.project(clean, mask, (noise * (self.radius / LEVELS if mask is None else mask * (self.radius / LEVELS)),))

    def variables(self, clean: Tensor, mask: Tensor | None, picture: Tensor) -> Variables:
        return (picture - clean,)

    def render(self, clean: Tensor, mask: Tensor | None, variables: Variables, cut: Cut = uncut) -> Tensor:
        return clean + variables[0]

    def project(self, clean: Tensor, mask: Tensor | None, variables: Variables) -> Variables:
        """The nearest point of the ball, then of the range of pictures, which is never farther from the clean picture."""
        norm = _norm_bound(clean, mask, self.radius / LEVELS)
        return ((clean + nearest_in_ball(variables[0], norm, mask)).clamp(0, 1) - clean,)

    def result(self, clean: Tensor, mask: Tensor | None, variables: Variables) -> Tensor:
        """Rounding to levels may leave the ball: the perturbation is then as much of it as fits, to 1/4096."""
        norm, before = _norm_bound(clean, mask, self.radius), to_levels(clean)

        def fits(share: Tensor) -> Tensor:
            change = to_levels(clean + share * variables[0]) - before
            return _norm(change if mask is None else torch.where(mask > 0, change / mask, 0)) <= norm

        least, most = torch.zeros_like(norm), torch.ones_like(norm)
        share = most
        for _ in range(_HALVINGS):
            inside = fits(share)
            least, most = torch.where(inside, share, least), torch.where(inside, most, share)
            share = torch.where(least == 1, 1, (least + most) / 2)
        return as_file(clean, mask, clean + least * variables[0])


def nearest_in_ball(perturbation: Tensor, norm: Tensor, mask: Tensor | None) -> Tensor:
    """The point p of |p / mask| <= norm, a number for each picture [B,1,1,1], that is nearest to the perturbation [B,C,H,W].

    p_i = d_i m_i^2 / (m_i^2 + t), where t >= 0 is the root of |p / mask| = norm: by Newton's method on 1 / |p / mask|, as trust regions
    are solved (Moré and Sorensen 1983).
    """
    if mask is None:
        return perturbation * (norm / _norm(perturbation).clamp_min(1e-30)).clamp_max(1)
    square = mask.square()
    multiplier = torch.zeros_like(norm)
    for _ in range(_ITERATIONS):
        scaled, length, slope = _scaled(perturbation, mask, square, multiplier)
        multiplier = (multiplier + (length / norm - 1) * length.square() / slope.clamp_min(1e-30)).clamp_min(0)
    scaled, length, _ = _scaled(perturbation, mask, square, multiplier)
    # What Newton's method left of a distance.
    return scaled * mask * (norm / length.clamp_min(1e-30)).clamp_max(1)


def _scaled(perturbation: Tensor, mask: Tensor, square: Tensor, multiplier: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """p / mask, its norm, and minus half the slope of that norm's square."""
    weight = torch.where(mask > 0, 1 / (square + multiplier), 0)
    scaled = perturbation * mask * weight
    return scaled, _norm(scaled), (scaled.square() * weight).sum((1, 2, 3), keepdim=True)


def _norm(values: Tensor) -> Tensor:
    """Of each picture, [B,1,1,1]."""
    norm: Tensor = torch.linalg.vector_norm(values, dim=(1, 2, 3), keepdim=True)
    return norm


def _norm_bound(clean: Tensor, mask: Tensor | None, root_mean_square: float) -> Tensor:
    """[B,1,1,1]: the norm of that root mean square over the values that may change."""
    places = torch.ones_like(clean[:, :1]) if mask is None else (mask > 0).to(clean).expand(clean.shape[0], -1, -1, -1)
    return root_mean_square * (clean.shape[1] * places.sum((1, 2, 3), keepdim=True)).sqrt()
