"""One network of a run, whatever it is."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from comfy.model_patcher import ModelPatcher
from torch import nn

from ..memory.room import Checkpointed, Pass

View = TypeVar("View")


@dataclass
class EncoderCall:
    """How an encoder's network is run: at once, or where it takes turns on the device with others, when they have left it."""

    run: Callable[[Callable[[], Any]], Any] = lambda run: run()


@dataclass(eq=False)
class Resident(Generic[View]):
    """One network of a run: its weights under ComfyUI's management, the view that losses call, and how it behaves in low memory.

    A new kind of surrogate is a file with a function that makes one of these for its sockets.

    name: what sentences call it, such as "The VAE". view: what losses look through. patcher: its weights under ComfyUI's management.
    passes: what losses ask of it, by a name of their choice, as `Room` counts it.
    network: the part that with low memory takes turns on the device with other residents' networks; None: it stays there.
    encoder_call: of an encoder, through which its view runs it: with low memory all of these take one turn, where a denoiser needs them.
    needs_encoders: a denoiser whose conditioning goes through encoders, which then have to make room for it.
    checkpointed: what recomputes its activations in the backward pass while told so. in_place: its forward pass changes tensors in place
    that its backward pass needs. trained: parameters that a loss trains during the run (engine.learning); they take no turns.
    multiple: both sides of its pictures are multiples of it. keep: leaves the copy of a user's model for the next run,
    which then begins at once.
    """

    name: str
    view: View
    patcher: ModelPatcher
    passes: dict[Hashable, Pass] = field(default_factory=dict)
    network: nn.Module | None = None
    encoder_call: EncoderCall | None = None
    needs_encoders: bool = False
    checkpointed: Checkpointed | None = None
    in_place: bool = False
    trained: list[nn.Parameter] = field(default_factory=list)
    multiple: int = 1
    keep: Callable[[], None] | None = None
