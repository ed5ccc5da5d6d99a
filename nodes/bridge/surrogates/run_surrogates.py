"""The surrogates of one run: one for each socket however many losses use it, resident together or taking turns."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

import comfy.model_management

from ....engine.compute.saved import in_place_allowed
from ....engine.residency import on_device_together
from ..memory.devices import Place
from ..memory.room import Room, Warn, checkpointing
from .resident import Resident
from .turns import takes_turns, taking_turns, who_takes_turns

log = logging.getLogger("stillguard")

View = TypeVar("View")
Value = TypeVar("Value")


class Surrogates:
    """in_fp32: keys of residents, as `key_of` gave them in an earlier run, whose networks are run in fp32.

    last_blocks: by keys too, of networks that no loss of the run needs whole the last block that one reads.
    """

    def __init__(self, in_fp32: Collection[Hashable] = (), last_blocks: Mapping[Hashable, int] | None = None) -> None:
        self._in_fp32, self._last_blocks = in_fp32, last_blocks or {}
        self.place = Place()
        self._residents: dict[Hashable, Resident[Any]] = {}
        self._derived: dict[Hashable, object] = {}

    def get(self, key: Hashable, make: Callable[[bool], Resident[View]]) -> Resident[View]:
        """The resident of a socket, made when it is first asked for. key: stands for the socket as long as that lives, such as its id.

        make: is told whether to run in fp32 whatever the device.
        """
        if key not in self._residents:
            self._residents[key] = make(key in self._in_fp32)
        return cast("Resident[View]", self._residents[key])

    def last_block(self, key: Hashable) -> int | None:
        """Behind which the network of that resident is cut; None: it is whole."""
        return self._last_blocks.get(key)

    def once(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """What is made of residents, such as a view of one in tiles: one for each key."""
        if key not in self._derived:
            self._derived[key] = make()
        return cast(Value, self._derived[key])

    def key_of(self, view: object) -> tuple[Hashable, str]:
        """The key and the name of the resident that this is the view of."""
        return next((key, resident.name) for key, resident in self._residents.items() if resident.view is view)

    def keep_copies(self) -> None:
        """Leave the copies of the user's models for the next run. This one is over."""
        for resident in self._residents.values():
            if resident.keep is not None:
                resident.keep()

    @property
    def multiple(self) -> int:
        """Working sizes must be a multiple of it."""
        return math.lcm(8, *(resident.multiple for resident in self._residents.values()))

    @contextlib.contextmanager
    def on_device(self, *, height: int, width: int, low_memory: bool, warn: Warn = log.warning) -> Iterator[None]:
        """While it lasts, all are on the device with room for the largest: loading one later could evict another that autograd needs.

        With low_memory networks take turns on it instead, and recompute their activations in the backward pass; beside a denoiser
        whose conditioning needs them together, the encoders take a turn too. warn: is told when they may not fit.
        """
        residents = list(self._residents.values())
        turns = low_memory and takes_turns()
        room = Room([one for resident in residents for one in resident.passes.values()], self._weights)
        activations = room.claim(height, width, low_memory=low_memory, multiple=self.multiple, warn=warn)
        alone, together = who_takes_turns(residents) if turns else ([], [])
        if turns:
            # Whatever an earlier run left there: weights that take turns have to start in the host's memory.
            comfy.model_management.unload_all_models()
            for resident in (*alone, *together):
                resident.patcher.model.to("cpu")
            activations += on_device_together(_sizes_by_turn(alone, together))
        staying = [resident.patcher for resident in residents if resident not in (*alone, *together)]
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.place.taken(staying, room=activations))
            for resident in residents:
                stack.enter_context(checkpointing(resident.checkpointed, low_memory))
            if turns:
                stack.enter_context(taking_turns(alone, together))
            yield

    def step(self) -> contextlib.AbstractContextManager[object]:
        """Around each step: some of core's models change tensors in place that the backward pass needs.

        Not around a whole run, since what keeps their old values keeps a note of every one until it ends.
        """
        in_place = any(resident.in_place for resident in self._residents.values())
        return in_place_allowed() if in_place else contextlib.nullcontext()

    def _weights(self, low_memory: bool) -> float:
        """Bytes of weights that are on the device together: with low memory, of what takes turns only a part."""
        residents = list(self._residents.values())
        every = sum(float(resident.patcher.model_size()) for resident in residents)
        if not (low_memory and takes_turns()):
            return every
        turning = _sizes_by_turn(*who_takes_turns(residents))
        return every - sum(turning) + on_device_together(turning)


def _sizes_by_turn(alone: Sequence[Resident[Any]], together: Sequence[Resident[Any]]) -> list[float]:
    """Bytes of weights of each turn."""
    turns = [*([resident] for resident in alone), *([together] if together else [])]
    return [float(sum(resident.patcher.model_size() for resident in turn)) for turn in turns]
