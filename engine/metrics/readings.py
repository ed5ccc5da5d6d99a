"""From values to readings: means with their intervals, reasons where there are none, and what a reader has to know of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .comparison import BRANCH_NAMES, CHANGED, CLEAN, Reading, Row
from .intervals import LEAST, interval_of_mean

NOTHING_SEEN = "no frame gave a value, as when no face is found."

FROZEN = 0.25
"""Share of the clean video's motion below which another one counts as frozen."""


def missing(why: str, *, n: int = 0, items: tuple[float, ...] = ()) -> Reading:
    return Reading(None, n=n, items=items, why=f"not measured: {why}")


def reading_of(values: Tensor) -> Reading:
    """Mean and interval of [K] values in order. NaN marks values that could not be taken; of infinite ones there is no interval."""
    items, numbers = tuple(values.tolist()), values[~values.isnan()].cpu().double()
    if not numbers.numel():
        return missing(NOTHING_SEEN, items=items)
    interval = interval_of_mean(numbers) if bool(torch.isfinite(numbers).all()) else None
    low, high = (None, None) if interval is None else (interval.low, interval.high)
    return Reading(float(numbers.mean()), low, high, n=numbers.numel(), items=items)


def notes_on(rows: Sequence[Row]) -> Iterator[str]:
    """Sentences on what the numbers do not say by themselves."""
    yield from _about_motion(rows)
    yield from _about_gaps(rows)
    if any(0 < reading.n < LEAST and reading.items for row in rows for reading in row.readings.values()):
        yield f"Means of fewer than {LEAST} values have no interval, since it would promise too much."


def _about_motion(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        clean = row.readings.get(CLEAN)
        if row.higher != "more motion" or row.reference or clean is None or clean.value is None:
            continue
        for branch in CHANGED:
            reading = row.readings.get(branch)
            if reading is not None and reading.value is not None and reading.value < FROZEN * clean.value:
                yield (
                    f"The {BRANCH_NAMES[branch]} video moves far less than the clean one ({row.name} {reading.value:.3g} against "
                    f"{clean.value:.3g} {row.unit}): a frozen video counts as consistent and smooth, so those measures say no good of it."
                )


def _about_gaps(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        for branch, reading in row.readings.items():
            if 0 < reading.n < len(reading.items):
                against = f" against {BRANCH_NAMES[row.reference]}" if row.reference else ""
                yield (
                    f"{row.name} of {BRANCH_NAMES[branch]}{against} stands on {reading.n} of {len(reading.items)} values: "
                    "the others could not be taken."
                )
