"""Gradients of what is changed in place, against the same without a change in place."""

from __future__ import annotations

import torch
from stillguard.engine.compute.memory import LiveBytes
from stillguard.engine.compute.saved import in_place_allowed
from torch import Tensor


def test_memory_that_is_used_again_is_another_tensor() -> None:
    """Tensors that come and go at the same address, which a name made of addresses takes for one another."""
    values = range(1, 8)
    with in_place_allowed():
        for _ in range(100):
            factor = torch.ones(1000, requires_grad=True)
            products = []
            for value in values:
                other = torch.full((1000,), float(value))
                products.append(factor * other)
                other.zero_()
                del other
            (gradient,) = torch.autograd.grad(torch.stack(products).sum(), factor)
            assert torch.equal(gradient, torch.full_like(gradient, float(sum(values))))


def test_a_part_that_is_kept_is_copied_before_the_whole_changes_and_the_other_way_round() -> None:
    factor = torch.ones(4, requires_grad=True)

    def gradient(change: bool) -> Tensor:
        whole = torch.arange(8.0)
        rows = torch.arange(8.0).view(2, 4)
        product = factor * whole[4:] + factor * rows.sum(0) + (factor * rows).sum(0)
        if change:
            whole.zero_()
            rows[1].zero_()
            torch._foreach_add_([rows[0]], 1.0)
            torch.add(rows, 1.0, out=rows)
        (found,) = torch.autograd.grad(product.sum(), factor)
        return found

    with in_place_allowed():
        assert torch.equal(gradient(True), gradient(False))


def test_one_copy_serves_every_graph_that_keeps_a_tensor() -> None:
    factor = torch.ones(1000, requires_grad=True)
    other = torch.full((1000,), 2.0)
    with LiveBytes() as count, in_place_allowed():
        total = torch.stack([factor * other, factor * other, factor * other]).sum()
        before = count.live
        other.zero_()
        assert count.live - before == other.nbytes
        total.backward()
    assert torch.equal(factor.grad, torch.full_like(factor, 6.0))


def test_a_graph_that_is_dropped_goes_at_once() -> None:
    """As low memory drops them; each of these operations keeps its own result, which would be a circle."""
    factor = torch.ones(1000, requires_grad=True)
    with LiveBytes() as count, in_place_allowed():
        result = factor.relu().tanh().sigmoid().softmax(0) * 2
        assert count.live > result.nbytes
        del result
        assert count.live == 0
