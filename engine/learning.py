"""Surrogates that learn during a run, as Anti-DreamBooth's do: what a loss has to offer for it, and what undoes it."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from .observation import Observation


@runtime_checkable
class Learns(Protocol):
    """What a loss has beside engine.objective.Loss when its surrogates learn. The loop asks for it once, before the first step.

    Parameters require grad only while `between` trains them, so that a step of the attack makes no gradients for weights.
    """

    def training(self, generator: torch.Generator) -> AbstractContextManager[object]:
        """Around all steps of a run. When it ends, by the last step, an error or the loop's being closed, what was learned is undone
        (`undone`). generator: of the run's random numbers for this loss's training, which nothing else draws from."""
        ...

    def between(self, index: int, clean: Observation, picture: Observation) -> Collection[object]:
        """Before step `index` (the first is 1): train or not; returns the owners whose features are stale, see Observation.forget.

        clean: the run's own, which keeps features. picture: the one that the step starts from. Neither has a graph; gradients are switched
        on. Networks that take turns: a backward pass ends before another network is called, and no graph is left.
        """
        ...


@contextlib.contextmanager
def undone(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Parameters are at its end what they were at its beginning, to the bit, and require grad as they did; their gradients are dropped."""
    before = [(parameter.detach().to("cpu", copy=True), parameter.requires_grad) for parameter in parameters]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, (value, required) in zip(parameters, before, strict=True):
                parameter.copy_(value)
                parameter.requires_grad_(required)
                parameter.grad = None
