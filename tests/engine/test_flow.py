"""The victims' preconditioning, against least squares on samples."""

from __future__ import annotations

import pytest
import torch
from stillguard.engine.animators.lab_victims.rectified_flow import Flow
from torch import Tensor


class Fixed(Flow):
    """Predicts the same everywhere, and keeps what it saw."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value, self.seen = value, torch.empty(0)

    def predict(self, noisy: Tensor, time: Tensor, photo: Tensor, pose: Tensor) -> Tensor:
        self.seen = noisy
        return torch.full_like(noisy, self.value)


@pytest.mark.parametrize("time", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_what_is_left_for_the_network_is_uncorrelated_and_of_unit_variance(time: float) -> None:
    clean, noise = torch.randn(2, 1, 8, 128, 128, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noisy, velocity = (1 - time) * clean + time * noise, noise - clean
    zero, one = Fixed(0.0), Fixed(1.0)
    at, pose = torch.tensor([time], dtype=torch.float64), torch.zeros(1, 3, 8, 8)
    guess = zero(noisy, at, clean, pose)
    scale = one(noisy, at, clean, pose) - guess
    # The best linear guess, by least squares.
    slope = (velocity * noisy).mean() / noisy.square().mean()
    torch.testing.assert_close(guess, slope * noisy, atol=0.06, rtol=0)
    assert float(((velocity - guess) / scale).var()) == pytest.approx(1, abs=0.02)
    assert float(zero.seen.var()) == pytest.approx(1, abs=0.02)


def test_each_item_has_its_own_time() -> None:
    flow = Fixed(0.5)
    noisy, times = torch.randn(3, 8, 4, 4), torch.tensor([0.0, 0.4, 1.0])
    together = flow(noisy, times, noisy, noisy)
    for index, time in enumerate(times):
        torch.testing.assert_close(together[index : index + 1], flow(noisy[index : index + 1], time[None], noisy, noisy))
