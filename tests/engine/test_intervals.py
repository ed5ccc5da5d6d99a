"""Intervals of means: how often they hold the truth, on series whose mean is known, and against SciPy's bootstrap."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from stillguard.engine.metrics.intervals import LEAST, block_length, expanded_tail, interval_of_mean
from torch import Tensor

SERIES = 300


def series(count: int, *, correlation: float) -> Tensor:
    """Stationary AR(1) series of mean 0, [SERIES,count]: each value is `correlation` times the one before plus noise."""
    noise = torch.randn(SERIES, count, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
    values = [noise[:, 0] / math.sqrt(1 - correlation**2)]
    for index in range(1, count):
        values.append(correlation * values[-1] + noise[:, index])
    return torch.stack(values, 1)


def coverage(values: Tensor, block: int | None = None) -> float:
    """Share of the intervals that hold the true mean, 0."""
    found = [interval_of_mean(one, block=block, draws=1000, seed=index) for index, one in enumerate(values)]
    return sum(one.low <= 0 <= one.high for one in found) / len(found)


# Three standard errors of a share of 300 that is truly 0.95.
MARGIN = 3 * math.sqrt(0.95 * 0.05 / SERIES)


@pytest.mark.parametrize("count", [LEAST, 100])
def test_intervals_of_independent_values_hold_the_mean_as_often_as_they_say(count: int) -> None:
    assert coverage(series(count, correlation=0)) >= 0.95 - MARGIN
    assert coverage(series(count, correlation=0), block=1) == pytest.approx(0.95, abs=MARGIN)


def test_of_neighbours_that_are_alike_blocks_hold_the_mean_and_single_values_do_not() -> None:
    alike = series(300, correlation=0.7)
    assert coverage(alike) >= 0.95 - 2 * MARGIN
    # The mean's variance is (1+r)/(1-r) = 5.7 times what independent values would have: 95 % shrink to about 59 %.
    expected = math.erf(1.96 / math.sqrt((1 + 0.7) / (1 - 0.7)) / math.sqrt(2))
    assert coverage(alike, block=1) == pytest.approx(expected, abs=3 * math.sqrt(expected * (1 - expected) / SERIES))


def test_with_blocks_of_one_it_is_scipys_bootstrap() -> None:
    values = torch.rand(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 3
    found = interval_of_mean(values, block=1, draws=20000)
    level = 1 - 2 * expanded_tail(40, 0.95)
    theirs = stats.bootstrap(
        (values.numpy(),), lambda x, axis: x.mean(axis), confidence_level=level, n_resamples=20000, method="percentile"
    )
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert found.low == pytest.approx(theirs.confidence_interval.low, abs=width / 50)
    assert found.high == pytest.approx(theirs.confidence_interval.high, abs=width / 50)


def test_the_expansion_gives_students_interval_where_values_are_normal() -> None:
    """Hesterberg's purpose: of normal values the expanded percentiles are those of Student's t."""
    values = torch.randn(20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = interval_of_mean(values, block=1, draws=50000)
    low, high = stats.t.interval(0.95, 19, loc=values.mean().item(), scale=values.std().item() / math.sqrt(20))
    assert found.high - found.low == pytest.approx(high - low, rel=0.04)


def test_blocks_that_do_not_divide_the_length_count_every_value_equally() -> None:
    """The mean over all samples is the series' own, and constant series have intervals without width."""
    ramp = torch.arange(50, dtype=torch.float64)
    found = interval_of_mean(ramp, block=7, draws=20000)
    assert (found.low + found.high) / 2 == pytest.approx(24.5, abs=0.5)
    flat = interval_of_mean(torch.full((50,), 3.25))
    assert (flat.low, flat.high) == pytest.approx((3.25, 3.25))


def test_blocks_grow_with_the_root_of_the_length() -> None:
    assert [block_length(count) for count in (1, 16, 100, 1000)] == [1, 4, 10, 32]


def test_equal_seeds_give_equal_intervals_and_neither_order_nor_scale_is_lost() -> None:
    values = series(60, correlation=0.8)[0]
    assert interval_of_mean(values) == interval_of_mean(values)
    scaled = interval_of_mean(2 * values + 5)
    plain = interval_of_mean(values)
    assert (scaled.low, scaled.high) == pytest.approx((2 * plain.low + 5, 2 * plain.high + 5))
    shuffled = interval_of_mean(values[torch.randperm(60, generator=torch.Generator().manual_seed(0))])
    assert shuffled.high - shuffled.low < plain.high - plain.low


def test_few_values_have_no_interval_and_say_why() -> None:
    found = interval_of_mean(torch.rand(LEAST - 1))
    assert found.low is None
    assert found.high is None
    assert found.why == f"An interval needs at least {LEAST} values, and there are {LEAST - 1}."
    assert interval_of_mean(torch.rand(LEAST)).low is not None


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        interval_of_mean(torch.tensor([1.0, math.inf] * LEAST))
