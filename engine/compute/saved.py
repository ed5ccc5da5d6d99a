"""Gradients through networks that change tensors in place which the backward pass needs, as many of core's video models do."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(eq=False)
class Saved:
    """One tensor that a graph keeps, as it was when the graph was made."""

    tensor: Tensor

    def read(self) -> Tensor:
        """The unpack hook."""
        return self.tensor


class SavedTensors:
    """What graphs keep, by the memory it lies in, so that it is copied before that memory changes.

    torch.autograd.graph.allow_mutation_on_saved_tensors is the same by name, but it knows a tensor by its Python object's address, its
    memory's and its version: after a copy was made all three can come again with another tensor, which then reads the first one's values
    in its backward pass, and a change of a whole tensor leaves a kept part of it, which begins elsewhere in memory, uncopied. Both give
    wrong gradients without a word.
    """

    def __init__(self) -> None:
        self._at: dict[int, weakref.WeakSet[Saved]] = {}

    def save(self, tensor: Tensor) -> Saved:
        """A pack hook for torch.autograd.graph.saved_tensors_hooks, to go with `Saved.read`."""
        # Without its history: of a result such as ReLU's that is the very graph which keeps it, and neither would ever go.
        saved = Saved(tensor.detach())
        # What is saved holds the memory, so that no other tensor's has this name meanwhile.
        self._at.setdefault(_memory(tensor), weakref.WeakSet()).add(saved)
        return saved

    def copy_changed(self, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
        """Before `function` (of torch.ops) runs: copy what it is about to overwrite. Returns the copies."""
        copies: list[Tensor] = []
        for tensor in written(function, args, kwargs):
            alike: dict[Hashable, Tensor] = {}
            # Copies need no place here: nobody but the backward pass sees them, and it writes to nothing that was saved.
            for saved in self._at.pop(_memory(tensor), ()):
                # Every graph that keeps a tensor has another object for it: one copy for all of them.
                kept = saved.tensor
                view = (kept.storage_offset(), kept.shape, kept.stride(), kept.dtype, kept.is_conj(), kept.is_neg())
                saved.tensor = alike[view] = alike[view] if view in alike else kept.clone()
            copies += alike.values()
        return copies


def written(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    """The tensors that an operation of torch.ops changes in place, by its schema."""
    if not function._schema.is_mutable:
        return
    for index, argument in enumerate(function._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[index] if index < len(args) else kwargs.get(argument.name)
            yield from (part for part in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(part, Tensor))


class _Copying(TorchDispatchMode):
    def __init__(self, saved: SavedTensors) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._saved = saved

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        self._saved.copy_changed(function, args, kwargs or {})
        return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def in_place_allowed() -> Iterator[None]:
    """While it lasts, tensors may be changed in place that a backward pass still needs: the forward and the backward pass run in it.

    Memory: a copy of what was changed, for as long as its graph lives. Errors: none of its own.
    """
    saved = SavedTensors()
    unpack: Callable[[Saved], Tensor] = Saved.read
    with torch.autograd.graph.saved_tensors_hooks(saved.save, unpack), _Copying(saved):
        yield


def _memory(tensor: Tensor) -> int:
    name: int = tensor.untyped_storage()._cdata
    return name
