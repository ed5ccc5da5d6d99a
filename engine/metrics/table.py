"""A comparison as text: one line per measure, in the form of a Markdown table."""

from __future__ import annotations

from collections.abc import Iterator

from .comparison import BRANCH_NAMES, BRANCHES, Comparison, Reading, Row


def as_text(comparison: Comparison) -> str:
    """Head, table, what was not measured and why, notes. Intervals stand in brackets, n is the number of values of a mean."""
    height, width = comparison.size
    made_with = "the protection was made with this model" if comparison.surrogate else "the protection was made without this model"
    head = f"{comparison.victim}: {comparison.frames} frames of {width}x{height}; {made_with}."
    branches = [branch for branch in BRANCHES if branch in comparison.strips]
    columns = ["measure", "against", *(BRANCH_NAMES[branch] for branch in branches), "n", "higher is"]
    table = [_line(columns), _line(["---"] * len(columns)), *(_line(_cells(row, branches)) for row in comparison.rows if _measured(row))]
    parts = [head, "\n".join(table), "\n".join(_reasons(comparison)), "\n".join(comparison.notes)]
    return "\n\n".join(part for part in parts if part)


def _measured(row: Row) -> bool:
    return any(reading.value is not None for reading in row.readings.values())


def _cells(row: Row, branches: list[str]) -> list[str]:
    counts = {reading.n for reading in row.readings.values() if reading.value is not None}
    unit = f" ({row.unit})" if row.unit else ""
    values = [_cell(row.readings.get(branch)) for branch in branches]
    return [f"{row.name}{unit}", BRANCH_NAMES.get(row.reference, ""), *values, " / ".join(map(str, sorted(counts))), row.higher or ""]


def _cell(reading: Reading | None) -> str:
    if reading is None:
        return ""
    if reading.value is None:
        return "not measured"
    interval = "" if reading.low is None or reading.high is None else f" [{_number(reading.low)}, {_number(reading.high)}]"
    return _number(reading.value) + interval


def _number(value: float) -> str:
    return f"{value:.2f}" if 10 <= abs(value) < 1e4 else f"{value:.4g}"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _reasons(comparison: Comparison) -> Iterator[str]:
    """Each once, with the measures and videos that share it."""
    whole: dict[str, list[str]] = {}
    for row in comparison.rows:
        missing = {branch: reading.why for branch, reading in row.readings.items() if reading.value is None}
        for why in dict.fromkeys(missing.values()):
            lacking = [BRANCH_NAMES[branch] for branch, other in missing.items() if other == why]
            name = row.name if len(lacking) == len(row.readings) else f"{row.name} of {' and '.join(lacking)}"
            whole.setdefault(why, []).append(name)
    for why, names in whole.items():
        yield f"{', '.join(dict.fromkeys(names))}: {why}"
