"""What spaces share in which a picture moves along other coordinates than its pixels, from where it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..observation import Cut, uncut
from ..picture import LEVELS
from ..update import Variables
from .rgb import RGB


@dataclass(frozen=True)
class Moved(ABC):
    """A Space whose variables are a step in its own coordinates, and the picture [B,1 or 3,H,W] from which it is taken.

    After each step the change is projected into the budget in RGB, and the next step begins at 0 from that picture. So rules act on steps:
    momentum and Adam remember their gradients, and the decay of AdamW has nothing to shrink. pixels: budget, start and rounding.
    """

    pixels: RGB = field(default_factory=RGB)

    @abstractmethod
    def still(self, picture: Tensor) -> Tensor:
        """A step of 0. Raises ValueError for a picture in which there is none."""

    @abstractmethod
    def moved(self, picture: Tensor, step: Tensor) -> Tensor:
        """The picture after a step, not clamped, differentiable with respect to the step; of a step of 0 the same to the bit."""

    @property
    def budget(self) -> float:
        return self.pixels.budget

    @property
    def unit(self) -> float:
        return 1 / LEVELS

    @property
    def surrogates(self) -> tuple[object, ...]:
        return ()

    def at(self, index: int) -> Moved:
        return self

    def start(self, clean: Tensor, mask: Tensor | None, generator: torch.Generator) -> Variables:
        return self._from(clean + self.pixels.start(clean, mask, generator)[0])

    def inside(self, clean: Tensor, mask: Tensor | None, generator: torch.Generator) -> Variables:
        return self._from(clean + self.pixels.inside(clean, mask, generator)[0])

    def variables(self, clean: Tensor, mask: Tensor | None, picture: Tensor) -> Variables:
        return self._from(picture)

    def render(self, clean: Tensor, mask: Tensor | None, variables: Variables, cut: Cut = uncut) -> Tensor:
        step, picture = variables
        moved = self.moved(picture.detach(), step)
        # Where nothing may change, the gradient must not have a say in which way a wave goes that is everywhere.
        return moved if mask is None else torch.where(mask > 0, moved, picture.detach())

    def project(self, clean: Tensor, mask: Tensor | None, variables: Variables) -> Variables:
        change = self.render(clean, mask, variables) - clean
        return self._from(clean + self.pixels.project(clean, mask, (change,))[0])

    def result(self, clean: Tensor, mask: Tensor | None, variables: Variables) -> Tensor:
        return self.pixels.result(clean, mask, (self.render(clean, mask, variables) - clean,))

    def _from(self, picture: Tensor) -> Variables:
        return (self.still(picture), picture)
