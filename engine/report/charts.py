"""Drawings of a report as inline SVG: no script, colours by class so that the page's style sheet chooses them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from ..metrics.comparison import BRANCH_NAMES, BRANCHES, NOISE, PROTECTED, Row
from .markup import Markup, join, tag
from .words import number

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 340, 150, 46, 72, 8, 22
PLOT_WIDTH, ROW_HEIGHT, EDGE = 130, 15, 7
_STEP = 12


def curves(row: Row, *, frames: int, identifier: str) -> Markup:
    """One measure over time, one line a branch, labelled at its end. Not finite values are gaps."""
    series = {branch: row.readings[branch].items for branch in BRANCHES if branch in row.readings and len(row.readings[branch].items) > 1}
    ticks = _ticks([value for items in series.values() for value in items if math.isfinite(value)])
    last = max(map(len, series.values())) - 1
    low, high = ticks[0], ticks[-1]

    def x(index: float) -> float:
        return LEFT + index / last * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM)

    lines = [tag("path", class_=f"line {branch}", d=_path(items, x, y)) for branch, items in series.items()]
    ends = {branch: y(end) for branch, items in series.items() for end in [_last_finite(items)] if end is not None}
    labels = [
        tag("text", BRANCH_NAMES[branch], class_=f"name {branch}", x=WIDTH - RIGHT + 6, y=f"{height + 3.5:.1f}")
        for branch, height in _apart(ends)
    ]
    title, description = f"{identifier}-title", f"{identifier}-desc"
    return tag(
        "svg",
        tag("title", f"{row.name} over time", id=title),
        tag("desc", "; ".join(_described(branch, items) for branch, items in series.items()), id=description),
        *_axes(ticks, last, frames, x, y),
        *lines,
        *labels,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_labelledby=f"{title} {description}",
    )


def _axes(ticks: Sequence[float], last: int, frames: int, x: Callable[[float], float], y: Callable[[float], float]) -> list[Markup]:
    """The ticks' lines with their numbers, then the numbers of the first and the last item with what they count between them."""
    grid = [
        join(
            tag("path", class_="grid", d=f"M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}"),
            tag("text", number_label(value, ticks), class_="axis", x=LEFT - 6, y=f"{y(value) + 3.5:.1f}", text_anchor="end"),
        )
        for value in ticks
    ]
    below = [
        tag("text", str(index + 1), class_="axis", x=f"{x(index):.1f}", y=HEIGHT - 6, text_anchor=anchor)
        for index, anchor in ((0, "start"), (last, "end"))
    ]
    middle = tag("text", _axis(last + 1, frames), class_="axis", x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 6, text_anchor="middle")
    return [*grid, *below, middle]


def has_curves(row: Row) -> bool:
    """Whether there is more than one finite value of any branch to draw."""
    return any(sum(map(math.isfinite, reading.items)) > 1 for reading in row.readings.values())


def intervals(row: Row, branches: Sequence[str]) -> Markup:
    """Values and intervals of a row's branches below each other, on a scale of the row's own. The numbers stand beside it."""
    shown = {branch: row.readings[branch] for branch in branches if branch in row.readings}
    numbers = [v for reading in shown.values() for v in (reading.low, reading.value, reading.high) if v is not None and math.isfinite(v)]
    if len(set(numbers)) < 2:
        return Markup("")
    low, high = min(numbers), max(numbers)

    def x(value: float) -> str:
        return f"{EDGE + (value - low) / (high - low) * (PLOT_WIDTH - 2 * EDGE):.1f}"

    drawn = []
    for index, (branch, reading) in enumerate(shown.items()):
        y = ROW_HEIGHT * index + ROW_HEIGHT / 2
        if reading.low is not None and reading.high is not None:
            drawn.append(tag("path", class_=f"line {branch}", d=f"M{x(reading.low)} {y}H{x(reading.high)}"))
        if reading.value is not None and math.isfinite(reading.value):
            drawn.append(_mark(branch, float(x(reading.value)), y))
    height = ROW_HEIGHT * len(shown)
    return tag("svg", *drawn, class_="intervals", viewBox=f"0 0 {PLOT_WIDTH} {height}", width=PLOT_WIDTH, height=height, aria_hidden="true")


def number_label(value: float, ticks: Sequence[float]) -> str:
    """A tick's number with as many decimals as the step between ticks needs."""
    step = ticks[1] - ticks[0]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:.{decimals}f}".replace("-", "−") if decimals <= 4 else number(value)


def _ticks(values: Sequence[float]) -> list[float]:
    """Round numbers, three or four steps, from below the least value to above the largest."""
    low, high = min(values), max(values)
    span = high - low or abs(high) * 0.1 or 1.0
    power = 10 ** math.floor(math.log10(span / 3))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * 3 >= span * (1 - 1e-9))
    first = math.floor(low / step + 1e-9)
    last = max(first + 1, math.ceil(high / step - 1e-9))
    return [index * step for index in range(first, last + 1)]


def _axis(count: int, frames: int) -> str:
    return {frames: "frame", frames - 1: "transition"}.get(count, "window")


def _path(items: Sequence[float], x: Callable[[float], float], y: Callable[[float], float]) -> str:
    steps, pen = [], "M"
    for index, value in enumerate(items):
        if math.isfinite(value):
            steps.append(f"{pen}{x(index):.1f} {y(value):.1f}")
            pen = "L"
        else:
            pen = "M"
    return "".join(steps)


def _last_finite(items: Sequence[float]) -> float | None:
    return next((value for value in reversed(items) if math.isfinite(value)), None)


def _apart(heights: Mapping[str, float]) -> list[tuple[str, float]]:
    """Labels moved down, then up as a whole, until none touches another or leaves the drawing."""
    placed: list[tuple[str, float]] = []
    for branch, height in sorted(heights.items(), key=lambda entry: entry[1]):
        placed.append((branch, max(height, placed[-1][1] + _STEP) if placed else height))
    excess = max(0.0, placed[-1][1] - (HEIGHT - BOTTOM)) if placed else 0.0
    return [(branch, height - excess) for branch, height in placed]


def _described(branch: str, items: Sequence[float]) -> str:
    finite = [value for value in items if math.isfinite(value)]
    if not finite:
        return f"{BRANCH_NAMES[branch]}: no finite value"
    return f"{BRANCH_NAMES[branch]}: mean {number(sum(finite) / len(finite))}, between {number(min(finite))} and {number(max(finite))}"


def _mark(branch: str, x: float, y: float) -> Markup:
    """A shape of its own for each branch, so that colour is not all that tells them apart."""
    if branch == PROTECTED:
        return tag("rect", class_=f"mark {branch}", x=x - 3.5, y=y - 3.5, width=7, height=7)
    if branch == NOISE:
        return tag("path", class_=f"mark {branch}", d=f"M{x} {y - 5}L{x + 5} {y}L{x} {y + 5}L{x - 5} {y}Z")
    return tag("circle", class_=f"mark {branch}", cx=x, cy=y, r=3.5)
