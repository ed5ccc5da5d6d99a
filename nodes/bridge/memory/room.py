"""How much memory a run takes on its device, found before it starts: every surrogate's pass is gone through with shapes alone.

`Room` is the one place that is asked. What it cannot count are kernels' own buffers and what the allocator rounds up; RESULTS.md says
how close it comes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import comfy.model_management
import psutil
import torch
from torch import Tensor, nn

from ....engine.compute.memory import META, Footprint, footprint, send_back, weightless
from ....engine.observation import Features, Observation

log = logging.getLogger("stillguard")
Warn = Callable[[str], object]
GB = 1e9
# What is free of a card before anything is loaded: the rest is its driver's, the desktop's, and lost between blocks of memory.
USABLE = 0.9


class Checkpointed(Protocol):
    """Recomputes its activations in the backward pass while `checkpointing` is set."""

    checkpointing: bool


@contextmanager
def checkpointing(network: Checkpointed | None, wanted: bool) -> Iterator[None]:
    if network is None:
        yield
        return
    before, network.checkpointing = network.checkpointing, wanted
    try:
        yield
    finally:
        network.checkpointing = before


@dataclass(frozen=True)
class Pass:
    """What a surrogate computes of one picture, and keeps until the picture's gradient has come back.

    kind: passes of one kind run one after another, so that the largest counts; graphs of different kinds exist at once and add up. With low
    memory no graph stays while another network runs (see Observation.make_room), and of all kinds only the results are there together.
    networks: all that take part. ask: what is asked of an observation. clean: how many of these results stay for the clean picture.
    checkpointed: what recomputes with low memory.
    """

    kind: str
    networks: tuple[nn.Module, ...]
    ask: Callable[[Observation], Features]
    clean: int = 1
    checkpointed: Checkpointed | None = None

    def footprint(self, height: int, width: int, *, low_memory: bool) -> Footprint:
        """For a photo that is seen at this size, forward and backward as the engine goes. Call inside `autograd_session`."""
        with weightless(self.networks), _free_memory_known(), checkpointing(self.checkpointed, low_memory):
            seen = Observation(torch.empty(1, 3, height, width, device=META).requires_grad_(), low_memory=low_memory)

            def backward(features: Sequence[Tensor]) -> None:
                send_back(features)
                seen.release_picture()

            try:
                return footprint(lambda: self.ask(seen), backward)
            finally:
                seen.discard()


@dataclass(frozen=True)
class Need:
    """Bytes on the device. weights: that are there at one time; least: what the largest pass takes beside them; most: what all graphs
    that may be held together take."""

    weights: float
    least: float
    most: float


@dataclass(frozen=True)
class Room:
    """What the surrogates of a run take.

    passes: of each. weights: bytes that are on the device together, in fast mode and with low memory.
    """

    passes: Sequence[Pass]
    weights: Callable[[bool], float]
    _known: dict[tuple[int, int, bool], Need] = field(default_factory=dict)

    def need(self, height: int, width: int, *, low_memory: bool) -> Need:
        """For a photo that is seen at this size. A pass that cannot be counted, such as one through operations of other packs that do
        not tell their results' shapes, is left out, and a line in the log says so."""
        key = (height, width, low_memory)
        if key not in self._known:
            found = [(each, one) for each in self.passes if (one := _counted(each, height, width, low_memory)) is not None]
            least = max((float(one.peak) for _, one in found), default=0.0)
            most = _one_after_another(found) if low_memory else _together(found)
            most += sum(each.clean * one.results for each, one in found)
            self._known[key] = Need(self.weights(low_memory), least, most)
        return self._known[key]

    def claim(self, height: int, width: int, *, low_memory: bool, multiple: int = 8, warn: Warn = log.warning) -> float:
        """Bytes beside weights to ask core for; on the CPU none, and nothing is counted. Warns of and raises what `check` finds."""
        if comfy.model_management.get_torch_device().type == "cpu":
            return 0.0
        warning = self.check(height, width, low_memory=low_memory, multiple=multiple)
        if warning is not None:
            warn(warning)
        return self.need(height, width, low_memory=low_memory).most

    def check(self, height: int, width: int, *, low_memory: bool, multiple: int = 8, device: torch.device | None = None) -> str | None:
        """None where a run fits its device, one sentence where it may not. Raises ValueError, with what would fit, where it cannot.

        On the CPU everything fits: its memory is the user's own to fill.
        """
        device = device or comfy.model_management.get_torch_device()
        if device.type == "cpu":
            return None
        total = float(comfy.model_management.get_total_memory(device))
        now = self.need(height, width, low_memory=low_memory)
        if now.weights + now.most <= USABLE * total:
            return None
        ways = self._ways(height, width, USABLE * total, low_memory=low_memory, multiple=multiple)
        takes = (
            f"{now.weights / GB:.1f} GB of weights and {now.least / GB:.1f} GB or more for gradients at {width}x{height}, and "
            f"this device has {total / GB:.1f} GB"
        )
        if now.weights + now.least > _lent(device, total):
            raise ValueError(f"This does not fit the device, because it takes {takes}: {ways}.")
        return f"This may not fit the device, because it takes {takes}; if it stops for lack of memory, {ways}."

    def _ways(self, height: int, width: int, room: float, *, low_memory: bool, multiple: int) -> str:
        ways, size = [], self._largest(height, width, room, multiple=multiple)
        if not low_memory and self._fits(height, width, room, low_memory=True):
            ways.append('set memory to "low memory"')
        elif size is not None:
            ways.append(f"set working_size to {size}" + ("" if low_memory else ' and memory to "low memory"'))
        kinds = {each.kind for each in self.passes}
        if "video" in kinds:
            ways.append("give the I2V Surrogate a shorter length or a smaller width and height")
        if "animator" in kinds:
            ways.append("ask for fewer frames")
        return ", or ".join(ways) if ways else "use smaller models, or leave out the losses of the largest"

    def _fits(self, height: int, width: int, room: float, *, low_memory: bool) -> bool:
        need = self.need(height, width, low_memory=low_memory)
        return need.weights + need.most <= room

    def _largest(self, height: int, width: int, room: float, *, multiple: int) -> int | None:
        """The longest side in steps of 64 at which a photo of this aspect fits with low memory; None where none does."""

        def sized(side: float) -> tuple[int, int]:
            return tuple(max(multiple, int(edge * side / max(height, width) / multiple) * multiple) for edge in (height, width))  # type: ignore[return-value]

        half = sized(max(height, width) / 2)
        whole, smaller = (self.need(*size, low_memory=True) for size in ((height, width), half))
        # With fused attention, graphs grow with the number of pixels.
        slope = (whole.most - smaller.most) / (height * width - half[0] * half[1])
        if slope <= 0:
            return None
        share = 1 + (room - whole.weights - whole.most) / (slope * height * width)
        side = int(max(height, width) * max(0.0, share) ** 0.5) // 64 * 64
        return side if 0 < side < max(height, width) and self._fits(*sized(side), room, low_memory=True) else None


def _lent(device: torch.device, total: float) -> float:
    """What a run can have at the very most: on Windows the driver lends half of the host's memory, on a Mac the system swaps."""
    if device.type == "mps":
        return float("inf")
    return total + (psutil.virtual_memory().total / 2 if os.name == "nt" else 0)


Counted = Sequence[tuple[Pass, Footprint]]


def _together(found: Counted) -> float:
    """Bytes of all kinds' graphs, and of what the hungriest takes beside its own."""
    kept = sum(max(one.kept for each, one in found if each.kind == kind) for kind in {each.kind for each, _ in found})
    return float(kept + max((one.peak - one.kept for _, one in found), default=0))


def _one_after_another(found: Counted) -> float:
    """Bytes of the hungriest graph, and of the other kinds' results, with as much again for their gradients."""
    results = {kind: max(one.results for each, one in found if each.kind == kind) for kind in {each.kind for each, _ in found}}
    every = sum(results.values())
    return float(max((one.peak + 2 * (every - results[each.kind]) for each, one in found), default=0))


def _counted(each: Pass, height: int, width: int, low_memory: bool) -> Footprint | None:
    try:
        return each.footprint(height, width, low_memory=low_memory)
    except Exception as error:  # Whatever an operation of other packs does with tensors that have no values.
        log.warning("How much memory the %s takes could not be counted: %s.", each.kind, error)
        return None


@contextmanager
def _free_memory_known() -> Iterator[None]:
    """Core's split attention asks how much is free where its tensors lie, which nobody knows of the meta device."""
    ask = comfy.model_management.get_free_memory

    def elsewhere(device: torch.device | None = None, *args: Any, **kwargs: Any) -> Any:
        return ask(None if device == META else device, *args, **kwargs)

    comfy.model_management.get_free_memory = elsewhere
    try:
        yield
    finally:
        comfy.model_management.get_free_memory = ask
