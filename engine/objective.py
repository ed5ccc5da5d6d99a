"""Weighted terms, maximised, and their exact staged backward pass."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from .observation import Observation


class Loss(Protocol):
    """One equation. Asks observations for features; never calls a surrogate on an image itself.

    One whose surrogates learn during the run is a learning.Learns too.
    """

    @property
    def surrogates(self) -> tuple[object, ...]:
        """Every surrogate whose features the loss reads, those that these are computed from included."""
        ...

    def __call__(self, clean: Observation, adversarial: Observation, /) -> Tensor:
        """Scalar, a mean over the batch."""
        ...


@dataclass(frozen=True)
class Term:
    """A loss with a name and a weight: positive is maximised, negative is minimised, zero leaves the loss out at no cost.

    scaled: the weight is meant for a loss of 1, so that losses of any magnitude weigh alike: see Objective.balanced.
    """

    name: str
    weight: float
    loss: Loss
    scaled: bool = False


@dataclass(frozen=True)
class Objective:
    """Sum of weighted terms.

    Raises ValueError without terms or when two have one name.
    """

    terms: tuple[Term, ...]

    def __post_init__(self) -> None:
        names = [term.name for term in self.terms]
        if not names:
            raise ValueError("The objective is empty: give at least one loss.")
        if len(set(names)) < len(names):
            raise ValueError(f"Two losses share a name ({', '.join(sorted(names))}): give each its own.")

    @property
    def unbalanced(self) -> bool:
        return any(term.scaled and term.weight for term in self.terms)

    def balanced(self, clean: Observation, adversarial: Observation) -> Objective:
        """The same with the weights of scaled terms divided by |loss| of this look; one that is zero here, or no number, waits for
        another look.

        I2VGuard chooses weights "so that terms have a similar magnitude"; dividing by the first values is the least that does.
        """

        def fixed(term: Term) -> Term:
            size = float(term.loss(clean, adversarial).abs()) if term.scaled and term.weight else 0.0
            return replace(term, weight=term.weight / size, scaled=False) if 0 < size < math.inf else term

        with torch.no_grad(), adversarial.beside(clean):
            return Objective(tuple(fixed(term) for term in self.terms))

    def backward(self, clean: Observation, adversarial: Observation, *, scale: float = 1.0) -> dict[str, Tensor]:
        """Add the gradient of scale * sum(weight * loss) to the tensors that the adversarial picture came from.

        Each term's graph is freed before the next term runs, and a surrogate's graph as soon as no later term needs it, so
        the peak of memory is that of the largest term. Returns the unweighted losses by name, detached, on their device.
        """
        losses = {}
        terms = [term for term in self.terms if term.weight]
        with adversarial.beside(clean):
            for index, term in enumerate(terms):
                loss = term.loss(clean, adversarial)
                if loss.requires_grad:
                    (loss * (term.weight * scale)).backward()
                losses[term.name] = loss.detach()
                later = [surrogate for following in terms[index + 1 :] for surrogate in following.loss.surrogates]
                adversarial.release(needed=later)
            adversarial.release_picture()
        return losses
