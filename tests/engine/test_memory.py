"""What a pass takes, counted from shapes, against the same count of the real pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import torch
from stillguard.engine.compute.memory import META, Footprint, LiveBytes, footprint, send_back, weightless
from stillguard.engine.compute.saved import in_place_allowed
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(64, 192), nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.into(x).unflatten(-1, (3, 4, 16)).movedim(-3, 0).transpose(-3, -2)
        return x + self.out(F.scaled_dot_product_attention(query, key, value).transpose(-3, -2).flatten(-2))


class InPlace(nn.Module):
    """As core's video models: what a product keeps is changed afterwards."""

    def forward(self, x: Tensor) -> Tensor:
        doubled = x * 2
        squared = doubled * doubled
        doubled.add_(1)
        return squared + doubled


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "perceptrons": (lambda: nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.LayerNorm(256), nn.Linear(256, 64)), (2, 200, 64)),
    "convolutions": (
        lambda: nn.Sequential(nn.Conv2d(8, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.SiLU(), nn.Conv2d(32, 8, 3)),
        (1, 8, 64, 64),
    ),
    "attention": (Attention, (2, 300, 64)),
    "in place": (InPlace, (4, 1000)),
}


def real(network: nn.Module, shape: tuple[int, ...], *, recomputed: bool) -> Footprint:
    leaf = torch.rand(shape).requires_grad_()
    with LiveBytes() as count, in_place_allowed():
        output = checkpoint(network, leaf, use_reentrant=False) if recomputed else network(leaf)
        kept = count.live
        send_back([output])
    return Footprint(kept, count.peak, output.nbytes)


# What was changed in place cannot be recomputed.
CASES = [(name, recomputed) for name in NETWORKS for recomputed in (False, True) if name != "in place" or not recomputed]


@pytest.mark.parametrize(("name", "recomputed"), CASES)
def test_shapes_tell_what_the_real_pass_holds(name: str, recomputed: bool) -> None:
    make, shape = NETWORKS[name]
    network = make().requires_grad_(False)
    expected = real(network, shape, recomputed=recomputed)
    leaf = torch.empty(shape, device=META).requires_grad_()
    with weightless([network]):
        found = footprint(lambda: (checkpoint(network, leaf, use_reentrant=False) if recomputed else network(leaf),))
    assert found.results == expected.results
    assert found.kept == pytest.approx(expected.kept, rel=0.02)
    # The gradient of the queries is added up in fp32 on a GPU, and on a CPU it is not.
    assert found.peak == pytest.approx(expected.peak, rel=0.15 if name == "attention" else 0.05)


def test_networks_get_their_own_parameters_back() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    before = list(network.parameters())
    with contextlib.suppress(KeyboardInterrupt), weightless([network, network[0]]):
        assert all(parameter.is_meta for parameter in network.parameters())
        raise KeyboardInterrupt
    assert all(mine is own for mine, own in zip(network.parameters(), before, strict=True))


def test_weights_are_not_counted_and_constants_keep_their_values() -> None:
    weight, schedule = nn.Parameter(torch.rand(1000, 1000), requires_grad=False), torch.arange(10.0)
    leaf = torch.empty(3, 1000, device=META).requires_grad_()

    def forward() -> tuple[Tensor]:
        level = float(schedule[4] * torch.tensor(2.0))
        return (leaf @ weight.T * level + torch.zeros(1000, device="cpu"),)

    found = footprint(forward)
    assert found.results == leaf.nbytes
    assert found.peak < weight.nbytes / 10
    assert float(F.scaled_dot_product_attention(*torch.ones(3, 1, 2, 2))[0, 0, 0]) == 1
