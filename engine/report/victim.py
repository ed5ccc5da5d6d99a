"""What a report's page says of one victim."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ..metrics.comparison import BRANCH_NAMES, BRANCHES, CLEAN, TRUTH, Comparison, Reading, Row
from ..metrics.measure import SHARE
from .charts import curves, has_curves, intervals
from .elements import branch_head, data, head, image, kind, listed, section, table, values_list
from .markup import Markup, join, tag
from .words import percent, reason, standing

FRAME_LONGEST = 256
_GROUPS = {
    CLEAN: "Compared with the video of the clean picture",
    TRUTH: "Compared with the ground truth",
    "": "Each video by itself",
    None: "Not measured",
}


def victim_section(comparison: Comparison, identifier: str) -> Markup:
    """Frames, measures with their intervals, and curves."""
    height, width = comparison.size
    charts = [
        tag(
            "figure",
            tag("figcaption", _measure(row), tag("small", listed(_reference(row), f"higher is {row.higher}" if row.higher else ""))),
            drawn,
        )
        for index, row in enumerate(map(_in_percent, comparison.rows))
        if has_curves(row)
        for drawn in [curves(row, frames=comparison.frames, identifier=f"{identifier}-curve-{index}")]
    ]
    return section(
        join(tag("bdi", comparison.victim), kind(comparison)),
        tag(
            "p",
            f"{_counted(comparison.frames, 'frame')} of {width} × {height} pixels were compared. {standing(comparison)}",
            class_="muted",
        ),
        tag("ul", *(tag("li", note) for note in comparison.notes)) if comparison.notes else None,
        _strips(comparison),
        tag("h3", "Measures"),
        _measures(comparison),
        join(tag("h3", "Over time"), tag("div", *charts, class_="charts")) if charts else None,
        _victim_settings(comparison),
        id=identifier,
    )


def _strips(comparison: Comparison) -> Markup | None:
    if not comparison.strips:
        return None
    shown = [branch for branch in BRANCHES if branch in comparison.strips]
    header = tag("tr", tag("td"), *(tag("th", f"frame {index + 1}", scope="col") for index in comparison.strip_indices))
    rows = [
        tag(
            "tr",
            branch_head(branch, scope="row"),
            *(
                tag("td", image(frame, f"{BRANCH_NAMES[branch]}, frame {index + 1}", longest=FRAME_LONGEST))
                for index, frame in zip(comparison.strip_indices, comparison.strips[branch], strict=True)
            ),
        )
        for branch in shown
    ]
    frames = tag("table", tag("thead", header), tag("tbody", *rows), class_="strip")
    return tag("div", frames, class_="scroll", role="region", aria_label="Frames of the videos", tabindex="0")


def _measures(comparison: Comparison) -> Markup:
    branches = [branch for branch in BRANCHES if any(branch in (*row.readings, row.reference) for row in comparison.rows)]
    groups = []
    for reference, heading in _GROUPS.items():
        rows = [_row(row, branches) for row in comparison.rows if reference == (row.reference if _measured(row) else None)]
        if rows:
            groups.append(tag("tbody", tag("tr", tag("th", heading, colspan=len(branches) + 2, scope="rowgroup"), class_="group"), *rows))
    heads = [head("Measure"), *map(branch_head, branches), head("value and interval")]
    return table(heads, groups, class_="figures")


def _row(row: Row, branches: Sequence[str]) -> Markup:
    higher = f"higher is {row.higher}" if row.higher else ""
    name = tag("th", row.name, tag("small", listed(_in_percent(row).unit, higher)), scope="row")
    if not _measured(row):
        reasons = dict.fromkeys(map(reason, row.readings.values()))
        return tag("tr", name, tag("td", *(tag("p", text) for text in reasons), colspan=len(branches) + 1, class_="why"))
    cells = [tag("td", *_cell(row, branch), data_label=BRANCH_NAMES[branch]) for branch in branches]
    return tag("tr", name, *cells, tag("td", intervals(row, branches)))


def _cell(row: Row, branch: str) -> Iterable[Markup]:
    if branch == row.reference:
        whole = row.higher == "more obedient"
        return [join("100", tag("small", "by definition"))] if whole else [tag("span", "reference", class_="muted")]
    reading = row.readings.get(branch)
    if reading is None:
        return [tag("span", "–", class_="muted")]
    if reading.value is None:
        return [tag("span", reason(reading), class_="why")]
    value, interval = _shown(reading.value, row), _interval(reading, row)
    return [value, tag("small", interval, f"n = {reading.n}", reading.why and f". {reading.why}")]


def _interval(reading: Reading, row: Row) -> Markup:
    if reading.low is None or reading.high is None:
        return Markup("no interval, ")
    return join(_shown(reading.low, row), " to ", _shown(reading.high, row), ", ")


def _shown(value: float, row: Row) -> Markup:
    return data(value, shown=percent(value)) if row.unit == SHARE else data(value)


def _in_percent(row: Row) -> Row:
    """The row as it is drawn, shares in per cent."""
    if row.unit != SHARE:
        return row
    scaled = {branch: replace(one, items=tuple(100 * item for item in one.items)) for branch, one in row.readings.items()}
    return replace(row, unit="%", readings=scaled)


def _victim_settings(comparison: Comparison) -> Markup | None:
    if not comparison.settings:
        return None
    return tag("div", tag("h3", "How it was compared"), values_list(comparison.settings), class_="settings")


def _measured(row: Row) -> bool:
    return any(reading.value is not None for reading in row.readings.values())


def _measure(row: Row) -> Markup:
    return join(row.name, f" ({row.unit})" if row.unit else None)


def _reference(row: Row) -> str:
    return {CLEAN: "against the clean video", TRUTH: "against the ground truth"}.get(row.reference, "")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
