"""Losses that read a model's early blocks only: the model stops there, and what comes behind is not even kept."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from comfy.model_patcher import ModelPatcher
from torch import nn

from ....engine.surrogates.denoiser import Tap
from .taps import block_lists, tapped_blocks


@dataclass(frozen=True, eq=False)
class Reads:
    """How much of a socket's model a loss needs. last: the last block that it reads, from 0; None: all."""

    model: ModelPatcher
    last: int | None = None


def reads(model: ModelPatcher, taps: Sequence[Tap]) -> Reads:
    """Of a loss that wants these alone."""
    network = model.model.diffusion_model
    last = last_block(network, taps)
    return Reads(model, None if last + 1 == len(tapped_blocks(network, "output")) else last)


def last_blocks(needs: Iterable[Reads]) -> dict[Hashable, int]:
    """By the key of its resident, of each model that is needed whole by nobody, the last block that anybody reads."""
    found: dict[int, list[int | None]] = {}
    for need in needs:
        found.setdefault(id(need.model), []).append(need.last)
    return {key: max(known) for key, every in found.items() if len(known := [last for last in every if last is not None]) == len(every)}


class _EndError(Exception):
    """The last block that is read has run. Never leaves this file."""


def last_block(network: nn.Module, taps: Sequence[Tap]) -> int:
    """The last of the blocks that these read from, by its number among all in the order in which they run, from 0."""
    return max(_number(network, tap.kind, tap.block) for tap in taps)


def _number(network: nn.Module, kind: Literal["attention", "output", "map"], block: int) -> int:
    if kind != "attention" or not hasattr(network, "input_blocks"):
        return block
    attention = tapped_blocks(network, "attention")[block]
    containers = [container for container in _unet_blocks(network) if container is not None]
    return next(number for number, container in enumerate(containers) if any(part is attention for part in container.modules()))


def _unet_blocks(network: Any) -> list[nn.Module | None]:
    return [*network.input_blocks, network.middle_block, *network.output_blocks]


def cut_after(network: nn.Module, last: int) -> None:
    """Let go of every block behind this one, for good. What else the network has stays: the photo goes through some of it."""
    if hasattr(network, "input_blocks"):
        _cut_unet(network, last + 1)
        return
    left = last + 1
    for name in block_lists(network):
        blocks = getattr(network, name)
        setattr(network, name, blocks[:left])
        left = max(0, left - len(blocks))
    if (adapter := getattr(network, "face_adapter", None)) is not None:
        # Wan Animate: one behind the first of each five blocks.
        adapter.fuser_blocks = adapter.fuser_blocks[: -(-last // 5)]


def _cut_unet(network: Any, left: int) -> None:
    down = len(network.input_blocks)
    middle = 0 if network.middle_block is None else 1
    network.input_blocks = network.input_blocks[:left]
    if left <= down:
        network.middle_block = None
    network.output_blocks = network.output_blocks[: max(0, left - down - middle)]


def run_until(network: nn.Module, last: int, run: Callable[[], object]) -> None:
    """Call `run`, which calls the network once, and come back when this block has run. Its other hooks have run then."""
    with _ending_after(tapped_blocks(network, "output")[last]), contextlib.suppress(_EndError):
        run()
        raise RuntimeError(f"The network has not run its block {last}, behind which it should have ended.")


@contextlib.contextmanager
def _ending_after(block: nn.Module) -> Iterator[None]:
    def end(module: nn.Module, inputs: object, output: object) -> None:
        raise _EndError

    handle = block.register_forward_hook(end)
    try:
        yield
    finally:
        handle.remove()
