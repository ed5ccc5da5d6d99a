"""Scalars whose gradients are known before the backward pass comes to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


def summed(passes: Iterable[Callable[[], Tensor]], inputs: Sequence[Tensor]) -> Tensor:
    """The sum of scalars, each differentiated with respect to `inputs` before the next is computed: memory of one, not of all."""
    total, gradients = torch.zeros(()), [torch.zeros_like(tensor) for tensor in inputs]
    for compute in passes:
        value = compute()
        if value.requires_grad:
            for gradient, part in zip(gradients, torch.autograd.grad(value, inputs, allow_unused=True), strict=True):
                if part is not None:
                    gradient += part
        total = total.to(value) + value.detach()
    return with_gradients(total, gradients, inputs)


def with_gradients(value: Tensor, gradients: Sequence[Tensor], inputs: Sequence[Tensor]) -> Tensor:
    """This scalar, whose gradients with respect to the inputs are these, shaped like them."""
    apply: Callable[..., Tensor] = _Known.apply
    return apply(value, gradients, *inputs)


class _Known(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Sequence[Tensor], *inputs: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *(gradient * slope for gradient in ctx.gradients))
