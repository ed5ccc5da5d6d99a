"""Bytes that a pass through networks holds on a device, counted from shapes: nothing is computed and no such device is needed."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from .saved import Saved, SavedTensors

META = torch.device("meta")
# Operations with a device among their arguments that also copy a tensor's values there.
_KEEPS_VALUES = (torch.ops.aten._to_copy.default,)


@dataclass(frozen=True)
class Footprint:
    """Bytes beside weights. kept: what the graph holds when the forward pass has ended, results included; peak: the most at one time,
    until the backward pass has ended; results: those of the outputs alone."""

    kept: int
    peak: int
    results: int


def footprint(forward: Callable[[], Sequence[Tensor]], backward: Callable[[Sequence[Tensor]], None] | None = None) -> Footprint:
    """Of `forward` and of the backward pass from its outputs, which is `send_back` unless another is given.

    Inputs are tensors on the meta device, and the networks' weights too, see `weightless`. What kernels take for themselves while they
    run, and what an allocator rounds up, are not in it.
    """
    with Shapes() as count, _fused_kernels(), torch.autograd.graph.saved_tensors_hooks(count.saved.save, Saved.read):
        outputs = forward()
        kept, results = count.live, sum(output.nbytes for output in outputs)
        (backward or send_back)(outputs)
    return Footprint(kept, count.peak, results)


def send_back(outputs: Sequence[Tensor]) -> None:
    """The backward pass from gradients of the outputs' shapes."""
    due = [output for output in outputs if output.requires_grad]
    torch.autograd.backward(due, [torch.empty_like(output) for output in due])


@contextmanager
def weightless(networks: Iterable[nn.Module]) -> Iterator[None]:
    """While it lasts, the networks have frozen parameters without memory in place of their own, which they get back as they were."""
    before = [(part, dict(part._parameters)) for network in networks for part in network.modules()]
    try:
        for part, parameters in before:
            for name, parameter in parameters.items():
                if parameter is not None:
                    part._parameters[name] = nn.Parameter(torch.empty_like(parameter, device=META), requires_grad=False)
        yield
    finally:
        for part, parameters in before:
            part._parameters.update(parameters)


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operations make while it is active: `live` bytes now, `peak` at most so far."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._storages: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        for tensor in _tensors((args, kwargs)):
            # A tensor that is read before any operation has made it existed before, as weights do, and is not counted.
            self._note(tensor, counted=False)
        result = self.run(function, args, dict(kwargs or {}))
        for tensor in _tensors(result):
            self._note(tensor)
        return result

    def run(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return function(*args, **kwargs)

    def _note(self, tensor: Tensor, *, counted: bool = True) -> None:
        storage = tensor.untyped_storage()
        if (key := id(storage)) in self._storages:
            return
        size = storage.nbytes() if counted else 0
        self._storages[key] = weakref.ref(storage, partial(self._forget, key, size))
        self.live += size
        self.peak = max(self.peak, self.live)

    def _forget(self, key: int, size: int, reference: object) -> None:
        del self._storages[key]
        self.live -= size


class Shapes(LiveBytes):
    """Keeps everything on the meta device, whatever device a program names.

    Constants that are made from numbers or were there before have values as long as they are among themselves, since programs ask for
    them. Where they meet what has none they lose theirs, and they are not counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.saved = SavedTensors()

    def run(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        makes = any(argument.name == "device" for argument in function._schema.arguments)
        if any(tensor.is_meta for tensor in _tensors((args, kwargs))) or (makes and function not in _KEEPS_VALUES):
            args, kwargs = tree_map_only(Tensor, _without_values, (args, kwargs))
            kwargs |= {"device": META} if makes else {}
        for copy in self.saved.copy_changed(function, args, kwargs):
            self._note(copy)
        return function(*args, **kwargs)


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _without_values(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_meta else torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=META)


@contextmanager
def _fused_kernels() -> Iterator[None]:
    """Attention and RMSNorm as the fused kernels of a GPU hold them, in place of the many operations that torch takes on the meta device.

    By name: a mode of torch's functions would end where a backward pass begins, in which checkpoints run forward once more.
    """
    attend, norm = F.scaled_dot_product_attention, F.rms_norm
    keep_attention: Callable[..., Tensor] = _Attention.apply
    keep_norm: Callable[..., Tensor] = _RMSNorm.apply

    def attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
        if not query.is_meta:  # of another thread
            return attend(query, key, value, attn_mask, *args, **kwargs)
        return keep_attention(query, key, value, attn_mask)

    def rms_norm(input: Tensor, normalized_shape: list[int], weight: Tensor | None = None, eps: float | None = None) -> Tensor:
        if not input.is_meta:
            return norm(input, normalized_shape, weight, eps)
        return keep_norm(input, weight, len(normalized_shape))

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(F, "scaled_dot_product_attention", attention))
        # Torch got this kernel in its version 2.9.
        if hasattr(torch.ops.aten, "_fused_rms_norm"):
            stack.enter_context(mock.patch.object(F, "rms_norm", rms_norm))
        yield


class _Attention(torch.autograd.Function):
    """Keeps its inputs, its output and one number for each query (Dao et al. 2022), and adds up the queries' gradient in fp32."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        # Kernels write a token's heads side by side, so that what follows needs no copy.
        *batch, heads, tokens, _ = query.shape if query.ndim > 3 else (1, *query.shape)
        attended = query.new_empty(*batch, tokens, heads, value.shape[-1]).transpose(-3, -2)
        attended = attended if query.ndim > 3 else attended[0]
        ctx.save_for_backward(query, key, value, mask, attended, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return attended

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *_ = ctx.saved_tensors
        accumulated = torch.empty_like(query, dtype=torch.float32)
        gradients = tuple(torch.empty_like(tensor) for tensor in (query, key, value))
        del accumulated
        return (*gradients, None)


class _RMSNorm(torch.autograd.Function):
    """Keeps its input and one number for each row."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor | None, dimensions: int) -> Tensor:
        ctx.save_for_backward(input, weight, input.new_empty(input.shape[:-dimensions], dtype=torch.float32))
        return torch.empty_like(input)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return torch.empty_like(ctx.saved_tensors[0]), None, None
