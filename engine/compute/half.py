"""Gradients that survive half precision."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")

# Gradients enter a network with a largest value near 2^0. One overflow lowers that by 2^_BACKOFF; fp16 reaches from 2^-24 to 2^16, so that
# below 2^_LEAST nothing would be left of most of them, and the network is declared unfit.
_BACKOFF, _LEAST = 4, -20


class HalfPrecisionError(ValueError):
    """A network of the run computes numbers in fp16 that are not finite, however small its gradients are made. network: which."""

    def __init__(self, network: object) -> None:
        super().__init__(f"A network ({type(network).__name__}) gives numbers that are not finite in fp16: run it in fp32.")
        self.network = network


@dataclass
class _Record:
    """What is known of one network. overflowed, broken: more than 0 where it happened since the last look, on the network's device."""

    network: object
    exponent: int = 0
    overflowed: Tensor | None = None
    broken: Tensor | None = None

    def note_outputs(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        self.broken = _either(self.broken, ~_finite(outputs) & _finite(inputs))

    def note_gradient(self, gradient: Tensor, largest: Tensor) -> None:
        """largest: of the gradients that came in; where these are not finite already, another network is to blame."""
        self.overflowed = _either(self.overflowed, ~torch.isfinite(gradient).all() & torch.isfinite(largest))


class Scales:
    """Loss scaling for each fp16 network of one run, as torch.amp.GradScaler does it for a whole training.

    A step in which a network's gradient overflowed is repeated with that network's gradients made smaller, and they stay so. Nothing is
    brought to the host for it but with the numbers that a step reports anyway.
    """

    def __init__(self) -> None:
        self._records: dict[int, _Record] = {}

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """While it lasts, networks tell this object what happens to them."""
        token = _watcher.set(self)
        try:
            yield
        finally:
            _watcher.reset(token)

    def repeated(self, attempt: Callable[[], tuple[Result, Sequence[Tensor]]]) -> tuple[Result, list[float]]:
        """What `attempt` gives, its scalars on the host; tried again while a network's gradient overflows.

        Raises HalfPrecisionError where a network's outputs are not finite, or its gradient is not at any scale.
        """
        while True:
            with self.watching():
                result, numbers = attempt()
            numbers = [number.detach().to(numbers[0].dtype) for number in numbers]
            records = list(self._records.values())
            flags = [flag for record in records for flag in (record.overflowed, record.broken)]
            # One transfer for everything: each would otherwise stall the device on its own.
            values = torch.stack(
                [*numbers, *(numbers[0].new_zeros(()) if flag is None else flag.to(numbers[0]) for flag in flags)]
            ).tolist()
            if not _lowered(records, values[len(numbers) :]):
                return result, values[: len(numbers)]

    def record(self, network: object) -> _Record:
        return self._records.setdefault(id(network), _Record(network))


_watcher: ContextVar[Scales | None] = ContextVar("scales", default=None)


def _lowered(records: Sequence[_Record], flags: Sequence[float]) -> bool:
    """Whether a scale had to be lowered. Two flags for each record, in its order."""
    again = False
    for record, overflowed, broken in zip(records, flags[::2], flags[1::2], strict=True):
        record.overflowed = record.broken = None
        if broken or (overflowed and record.exponent <= _LEAST):
            raise HalfPrecisionError(record.network)
        if overflowed:
            record.exponent, again = record.exponent - _BACKOFF, True
    return again


def with_scaled_gradient(function: Callable[..., tuple[Tensor, ...]], *inputs: Tensor, network: object = None) -> tuple[Tensor, ...]:
    """function(*inputs), with gradients brought near 1 while they pass through it, and back afterwards.

    For networks in fp16, where the small gradients of a mean over many elements would become zero. Inputs are fp32 and cast by
    the function itself; outputs that keep a graph are returned in fp32. Nothing else changes: the scale is a power of two, chosen from the
    gradients of all outputs together. network: whose function it is; Scales that watch adapt its scale where gradients overflow inside.
    """
    watcher = _watcher.get()
    record = _Record(network) if watcher is None else watcher.record(network)
    if not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)):
        outputs = function(*inputs)
    else:
        scale: list[Tensor] = []
        reduce: Callable[..., Tensor] = _Reduce.apply
        enlarge: Callable[..., tuple[Tensor, ...]] = _Enlarge.apply
        entries = tuple(reduce(record, scale, tensor) if tensor.requires_grad else tensor for tensor in inputs)
        outputs = enlarge(record, scale, *function(*entries))
    if watcher is not None:
        record.note_outputs(inputs, outputs)
    return outputs


class _Enlarge(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, record: _Record, scale: list[Tensor], *outputs: Tensor) -> tuple[Tensor, ...]:
        ctx.record, ctx.scale, ctx.dtypes = record, scale, [output.dtype for output in outputs]
        # In fp32 from here on: a gradient that has to pass a cast to half precision first would be lost there.
        return tuple(output.to(torch.float32, copy=True) for output in outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        largest = torch.stack([gradient.abs().max() for gradient in gradients]).max()
        scale = torch.exp2(ctx.record.exponent - largest.clamp_min(1e-30).log2().round())
        ctx.scale[:] = [scale, largest]
        return (None, None, *((gradient * scale).to(dtype) for gradient, dtype in zip(gradients, ctx.dtypes, strict=True)))


class _Reduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, record: _Record, scale: list[Tensor], tensor: Tensor) -> Tensor:
        ctx.record, ctx.scale = record, scale
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, Tensor]:
        scale, largest = ctx.scale
        ctx.record.note_gradient(gradient, largest)
        return None, None, gradient / scale


def _finite(tensors: Sequence[Tensor]) -> Tensor:
    device = tensors[0].device
    return torch.stack([torch.isfinite(tensor).all().to(device) for tensor in tensors]).all()


def _either(before: Tensor | None, now: Tensor) -> Tensor:
    return now if before is None else before | now
