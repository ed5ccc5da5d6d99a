"""Intervals of means over the frames of a video, which are not independent of each other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy import special
from torch import Tensor

LEAST = 16
"""Values below which no interval is given: of fewer, its 95 % would not be true even roughly."""


@dataclass(frozen=True)
class Interval:
    """low and high are None where there are too few values; `why` says so then, in a sentence."""

    low: float | None = None
    high: float | None = None
    why: str = ""


def block_length(count: int) -> int:
    """Neighbours that are drawn together, of `count` values: round(sqrt(count)), which grows slower than the number of blocks."""
    return max(1, round(math.sqrt(count)))


def interval_of_mean(values: Tensor, *, block: int | None = None, level: float = 0.95, draws: int = 4000, seed: int = 0) -> Interval:
    """Bootstrap interval of the mean of [n] values in order, by the circular block bootstrap (Politis and Romano 1992).

    Whole blocks of `block` neighbours (by default block_length(n)) are drawn with replacement, so that what neighbours have in
    common stays in the samples; the values are thought of as closed to a ring. block=1 is Efron's bootstrap, which takes a smooth
    video's frames for independent and gives intervals several times too narrow. Percentiles are those of the expanded interval
    (Hesterberg 2015, section 5.2) with the number of blocks n/block in place of the number of values, since few blocks vary less
    than what they stand for. Equal values and seed: equal interval.

    It speaks of other moments of the same video, not of other photos or seeds. Raises ValueError for values that are not finite.
    """
    count = values.numel()
    if count < LEAST:
        return Interval(why=f"An interval needs at least {LEAST} values, and there are {count}.")
    if not bool(torch.isfinite(values).all()):
        raise ValueError("An interval can only be given for finite values: leave out those that are missing.")
    length = block_length(count) if block is None else block
    generator = torch.Generator().manual_seed(seed)
    means = _resampled_means(values.cpu().double(), length, draws, generator)
    tail = expanded_tail(count / length, level)
    low, high = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(low, high)


def expanded_tail(blocks: float, level: float) -> float:
    """Share that each end cuts off: Phi(-sqrt(b/(b-1)) t), t being the level's quantile of Student's t with b-1 degrees of freedom."""
    return float(special.ndtr(-math.sqrt(blocks / (blocks - 1)) * special.stdtrit(blocks - 1, (1 + level) / 2)))


def _resampled_means(values: Tensor, length: int, draws: int, generator: torch.Generator) -> Tensor:
    """Means of `draws` samples as long as the original, [draws]; the last block of each is cut to fit."""
    count = values.numel()
    blocks = math.ceil(count / length)
    last = count - (blocks - 1) * length
    sums = torch.cat([values.new_zeros(1), torch.cat([values, values[:length]]).cumsum(0)])
    # Sums of the runs that begin at each value, so that a sample costs one addition per block.
    whole, cut = (sums[size : size + count] - sums[:count] for size in (length, last))
    starts = torch.randint(count, (draws, blocks), generator=generator)
    return (whole[starts[:, 1:]].sum(1) + cut[starts[:, 0]]) / count
