"""Large networks that take turns on a device too small for all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

Weights = dict[str, Tensor]


@contextlib.contextmanager
def one_at_a_time(networks: Sequence[nn.Module], device: torch.device, *, trained: Collection[nn.Parameter] = ()) -> Iterator[None]:
    """While it lasts, only the network that was called last has its weights on `device`, and the next one's are on their way.

    Which comes next is learned from the first round. Of two networks none is on its way, see `on_device_together`.
    A network's backward pass must end before another network is called,
    as Observation(low_memory=True) and Objective see to. Weights are never changed, and are in the host's memory afterwards
    as they have to be before.

    trained: parameters that change while it lasts (see engine.learning). They take no turns and stay on the device, which is where an
    optimiser then keeps its state, and come to the host's memory as they are by then.
    """
    turns = _Turns(networks, device, {id(parameter) for parameter in trained})
    hooks = [network.register_forward_pre_hook(partial(turns.take, index)) for index, network in enumerate(networks)]
    try:
        for parameter in trained:
            parameter.data = parameter.data.to(device)
        yield
    finally:
        for hook in hooks:
            hook.remove()
        turns.end()
        for parameter in trained:
            parameter.data = parameter.data.cpu()


def on_device_together(sizes: Sequence[float]) -> float:
    """Of networks of these sizes that take turns, how much is on the device at most: the one at work and the one on its way.

    Where there are but two, the other would be on its way all the time and nothing would be saved: it waits for its turn.
    """
    return sum(sorted(sizes)[-2 if _fetched_ahead(len(sizes)) else -1 :])


def _fetched_ahead(networks: int) -> bool:
    return networks > 2


class _Turns:
    def __init__(self, networks: Sequence[nn.Module], device: torch.device, staying: Collection[int]) -> None:
        self._networks, self._device, self._staying = networks, device, staying
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)
            for network in networks:
                # Only from pinned memory do copies run beside the computation; while it lasts, in place of the pageable one.
                _replace(network, _pinned, staying)
        self._homes = [{name: tensor.data for name, tensor in _tensors(network, staying)} for network in networks]
        self._current: int | None = None
        # What followed a network depends on what came before it: a ReferenceNet is called before its animator and after it.
        self._after: dict[tuple[int | None, int | None], int] = {}
        self._before: int | None = None
        self._coming: tuple[int, Weights] | None = None

    def take(self, index: int, module: nn.Module, inputs: object) -> None:
        """Called before a network's forward pass."""
        if index == self._current:
            return
        self._after[self._before, self._current] = index
        self._leave()
        arrived = self._coming[1] if self._coming is not None and self._coming[0] == index else None
        self._coming = None
        self._assign(index, self._arrival(self._copies(index) if arrived is None else arrived))
        self._before, self._current = self._current, index
        following = self._after.get((self._before, self._current)) if _fetched_ahead(len(self._networks)) else None
        if following is not None:
            self._coming = (following, self._copies(following))

    def end(self) -> None:
        self._leave()
        self._current = self._coming = None
        if self._stream is not None:
            for network in self._networks:
                _replace(network, Tensor.clone, self._staying)
            _empty_host_cache()

    def _leave(self) -> None:
        if self._stream is not None:
            # The host must not run ahead of the device here: weights that left would pile up behind those that come.
            torch.cuda.current_stream(self._device).synchronize()
        if self._current is not None:
            self._assign(self._current, self._homes[self._current])

    def _assign(self, index: int, weights: Weights) -> None:
        for name, tensor in _tensors(self._networks[index], self._staying):
            tensor.data = weights[name]

    def _copies(self, index: int) -> Weights:
        with torch.cuda.stream(self._stream) if self._stream is not None else contextlib.nullcontext():
            beside = self._stream is not None
            return {name: tensor.to(self._device, non_blocking=beside, copy=True) for name, tensor in self._homes[index].items()}

    def _arrival(self, weights: Weights) -> Weights:
        """The same weights, once they are complete and known to belong to the computing stream."""
        if self._stream is not None:
            computing = torch.cuda.current_stream(self._device)
            computing.wait_stream(self._stream)
            for tensor in weights.values():
                tensor.record_stream(computing)
        return weights


def _tensors(network: nn.Module, staying: Collection[int]) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers with their names, without those that stay, by identity."""
    return ((name, tensor) for name, tensor in (*network.named_parameters(), *network.named_buffers()) if id(tensor) not in staying)


def _pinned(tensor: Tensor) -> Tensor:
    """Where the system lends no more pinned memory, copies from pageable memory are slower and otherwise the same."""
    try:
        return tensor.cpu().pin_memory()
    except RuntimeError:
        return tensor.cpu()


def _empty_host_cache() -> None:
    """torch keeps pinned memory that was given back, rounded up to powers of two, from every other program."""
    # The public name came with torch 2.13.
    empty = getattr(torch.accelerator, "empty_host_cache", None) or getattr(torch._C, "_host_emptyCache", None)
    if empty is not None:
        empty()


def _replace(network: nn.Module, make: Callable[[Tensor], Tensor], staying: Collection[int]) -> None:
    for _, tensor in _tensors(network, staying):
        tensor.data = make(tensor.data)
