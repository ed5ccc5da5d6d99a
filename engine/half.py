"""Gradients that survive half precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def with_scaled_gradient(function: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> tuple[Tensor, ...]:
    """function(*inputs), with gradients brought near 1 while they pass through it, and back afterwards.

    For networks in fp16, where the small gradients of a mean over many elements would become zero. Inputs are fp32 and cast by
    the function itself; outputs that keep a graph are returned in fp32. Nothing else changes: the scale is a power of two, chosen from the
    gradients of all outputs together.
    """
    if not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)):
        return function(*inputs)
    scale: list[Tensor] = []
    reduce: Callable[..., Tensor] = _Reduce.apply
    enlarge: Callable[..., tuple[Tensor, ...]] = _Enlarge.apply
    entries = tuple(reduce(scale, tensor) if tensor.requires_grad else tensor for tensor in inputs)
    outputs = enlarge(scale, *function(*entries))
    return outputs


class _Enlarge(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scale: list[Tensor], *outputs: Tensor) -> tuple[Tensor, ...]:
        ctx.scale, ctx.dtypes = scale, [output.dtype for output in outputs]
        # In fp32 from here on: a gradient that has to pass a cast to half precision first would be lost there.
        return tuple(output.to(torch.float32, copy=True) for output in outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        largest = torch.stack([gradient.abs().max() for gradient in gradients]).max()
        ctx.scale[:] = [torch.exp2(-largest.clamp_min(1e-30).log2().round())]
        return (None, *((gradient * ctx.scale[0]).to(dtype) for gradient, dtype in zip(gradients, ctx.dtypes, strict=True)))


class _Reduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scale: list[Tensor], tensor: Tensor) -> Tensor:
        ctx.scale = scale
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, gradient / ctx.scale[0]
