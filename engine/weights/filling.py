"""Networks made without memory and filled from a file, every tensor accounted for by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from ..compute.unpatched import unpatched
from .reading import WeightsError

State = dict[str, Tensor]


def on_meta(make: Callable[[], nn.Module]) -> nn.Module:
    """Build a network without memory for its weights, which come from a file anyway."""
    with torch.device("meta"):
        return unpatched(make())


def fill(network: nn.Module, state: State, dtype: torch.dtype, *, name: str, what: str, unknown: Iterable[str] = ()) -> None:
    """Give a network from `on_meta` the tensors of `state`, which must be its own and no others; freeze it in eval mode.

    Raises WeightsError, naming tensors, where they are not; `unknown` are names that were already found to have no place.
    """
    wanted = network.state_dict()
    wrong = [key for key, tensor in wanted.items() if key in state and state[key].shape != tensor.shape]
    problems = {
        "lacks": wanted.keys() - state.keys(),
        "has unknown": {*(state.keys() - wanted.keys()), *unknown},
        "has other shapes for": wrong,
    }
    found = [f"{label} {', '.join(sorted(keys)[:3])} ({len(keys)} in all)" for label, keys in problems.items() if keys]
    if found:
        raise WeightsError(f"{name} is not {what}, because it {' and '.join(found)}: choose another file.")
    # Copied even where the dtype is right: read_weights maps the file, which may change or vanish, and whose tensors may lie unaligned.
    network.load_state_dict({key: state[key].to(dtype, copy=True) for key in wanted}, assign=True)
    network.eval().requires_grad_(False)
