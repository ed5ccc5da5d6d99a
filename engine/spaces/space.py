"""What the loop asks of a space, and spaces that take turns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..observation import Cut, uncut
from ..picture import LEVELS, to_levels
from ..update import Variables


class Space(Protocol):
    """The variables that are updated, and how they become a picture.

    `clean` is [B,1 or 3,H,W] in [0,1]; `mask` is [B or 1,1,H,W] in [0,1] or None, and 0 means untouched. What a render needs beside what
    is optimised, such as the lightness of a picture whose colour is optimised, or a part that was frozen in an earlier step, is a
    variable too: one through which no gradient flows stays as it is under every rule here.
    """

    @property
    def budget(self) -> float | None:
        """Largest change of a value of the picture in 8-bit levels; None without such a bound: what the space implies is then measured."""
        ...

    @property
    def unit(self) -> float:
        """One unit of a step size in the scale of the variables."""
        ...

    @property
    def surrogates(self) -> tuple[object, ...]:
        """Networks that `render` runs, none for most. With them, low memory keeps no graph of a render and computes it again."""
        ...

    def at(self, index: int) -> Space:
        """The space as it is in step `index` (the first is 1): itself, unless something follows a schedule. The variables go on."""
        ...

    def start(self, clean: Tensor, mask: Tensor | None, generator: torch.Generator) -> Variables:
        """First variables, inside the budget."""
        ...

    def inside(self, clean: Tensor, mask: Tensor | None, generator: torch.Generator) -> Variables:
        """Random variables inside the budget, away from the clean picture."""
        ...

    def variables(self, clean: Tensor, mask: Tensor | None, picture: Tensor) -> Variables:
        """The step back: variables that stand for `picture`, or for the nearest that there are; not yet inside the budget."""
        ...

    def render(self, clean: Tensor, mask: Tensor | None, variables: Variables, cut: Cut = uncut) -> Tensor:
        """The picture that the variables stand for, [B,1 or 3,H,W], differentiable.

        Of several networks, each but the last runs through `cut(network, key, compute)`, so that in low memory each one's backward pass
        ends before another is called.
        """
        ...

    def project(self, clean: Tensor, mask: Tensor | None, variables: Variables) -> Variables:
        """The nearest variables inside the budget and the range of pictures, as new tensors."""
        ...

    def result(self, clean: Tensor, mask: Tensor | None, variables: Variables) -> Tensor:
        """The picture as an 8-bit file will hold it, budget and mask kept to the level."""
        ...


@dataclass(frozen=True, eq=False)
class Alternating:
    """Spaces that take turns, one a step, from the first to the last and again, as Anti-I2V's colour and frequency spaces do.

    The picture between them is the state: variables of a turn are made from the picture that the last turn left, except where a space
    follows itself. Each space has an update of its own, which remembers its own turns (momentum) and counts only these (step sizes).
    A space that is listed twice is one space with two turns. Raises ValueError for none.
    """

    spaces: tuple[Space, ...]

    def __post_init__(self) -> None:
        if not self.spaces:
            raise ValueError("No space takes a turn: give at least one.")

    @property
    def budget(self) -> float | None:
        """The largest of the spaces', whichever turn is the last; None where one has none."""
        budgets = [space.budget for space in self.spaces]
        bounded = [budget for budget in budgets if budget is not None]
        return max(bounded) if len(bounded) == len(budgets) else None

    def turn(self, index: int) -> Space:
        """Whose turn step `index` is; the first is 1."""
        return self.spaces[(index - 1) % len(self.spaces)]

    def count(self, space: Space, steps: int) -> int:
        """How many of so many steps are turns of that space."""
        return sum(len(range(place, steps, len(self.spaces))) for place, other in enumerate(self.spaces) if other is space)


def alternating(space: Space | Alternating) -> Alternating:
    """One space has every turn."""
    return space if isinstance(space, Alternating) else Alternating((space,))


def as_file(clean: Tensor, mask: Tensor | None, picture: Tensor) -> Tensor:
    """A picture on the 8-bit grid, to the nearest level; where no level changed, or the mask is 0, the clean picture to the bit."""
    before, after = to_levels(clean), to_levels(picture)
    same = after == before if mask is None else (after == before) | (mask == 0)
    return torch.where(same, clean, after / LEVELS)
