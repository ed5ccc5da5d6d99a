"""Scaled gradients: exact where nothing underflows, alive where fp16 alone would give zero."""

from __future__ import annotations

import pytest
import torch
from stillguard.engine.half import with_scaled_gradient
from torch import Tensor


def two_layers(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    mixed = torch.tanh(first * 0.3 + second)
    return mixed, (mixed * first).cumsum(-1)


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 8, generator=generator), torch.randn(3, 8, generator=generator)


def gradients(inputs: tuple[Tensor, Tensor], weight: float, *, scaled: bool, dtype: torch.dtype) -> list[Tensor]:
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]

    def function(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return two_layers(*(tensor.to(dtype) for tensor in tensors))

    outputs = with_scaled_gradient(function, *leaves) if scaled else function(*leaves)
    sum((output.float().square() * weight).sum() for output in outputs).backward()
    return [leaf.grad for leaf in leaves]


def test_exact_in_single_precision(inputs: tuple[Tensor, Tensor]) -> None:
    """A power of two: not a bit is lost."""
    for ours, plain in zip(*(gradients(inputs, 3e-4, scaled=s, dtype=torch.float32) for s in (True, False)), strict=True):
        assert torch.equal(ours, plain)


def test_small_gradients_survive_half_precision(inputs: tuple[Tensor, Tensor]) -> None:
    exact = gradients(inputs, 1e-9, scaled=False, dtype=torch.float32)
    assert all(not gradient.any() for gradient in gradients(inputs, 1e-9, scaled=False, dtype=torch.float16))
    for ours, truth in zip(gradients(inputs, 1e-9, scaled=True, dtype=torch.float16), exact, strict=True):
        assert (ours - truth).abs().max() < 0.01 * truth.abs().max()


def test_inputs_without_gradient_and_no_grad(inputs: tuple[Tensor, Tensor]) -> None:
    first = inputs[0].clone().requires_grad_()
    outputs = with_scaled_gradient(two_layers, first, inputs[1])
    outputs[0].sum().backward()
    assert first.grad is not None
    with torch.no_grad():
        assert not with_scaled_gradient(two_layers, first, inputs[1])[0].requires_grad
