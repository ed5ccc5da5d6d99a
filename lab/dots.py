"""A dot plot with intervals as SVG, readable on light and dark pages."""

from __future__ import annotations

from html import escape

COLOURS = ("#d1495b", "#2e86ab", "#6a994e", "#e09f3e")
_LABEL, _WIDTH, _ROW, _TOP = 270, 460, 24, 46

Interval = tuple[float, float, float]
"""Value, low end, high end."""


def dot_plot(title: str, rows: dict[str, dict[str, Interval]]) -> str:
    """rows: label -> series -> interval. All rows have the same series."""
    series = list(next(iter(rows.values())))
    ends = [end for row in rows.values() for interval in row.values() for end in interval]
    low, high = 5 * (min(ends) // 5), 5 * (max(ends) // 5 + 1)
    height = _TOP + _ROW * len(rows) + 30

    def x(value: float) -> float:
        return _LABEL + _WIDTH * (value - low) / (high - low)

    parts = [f'<text x="8" y="18" font-weight="bold">{escape(title)}</text>']
    for index, name in enumerate(series):
        left = _LABEL + 150 * index
        parts.append(f'<circle cx="{left}" cy="34" r="4" fill="{COLOURS[index]}"/><text x="{left + 8}" y="38">{escape(name)}</text>')
    for tick in range(int(low), int(high) + 1, 5):
        parts.append(f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{_TOP}" y2="{height - 24}" stroke="#8884"/>')
        parts.append(f'<text x="{x(tick):.1f}" y="{height - 8}" text-anchor="middle">{tick}</text>')
    for number, (label, row) in enumerate(rows.items()):
        middle = _TOP + _ROW * (number + 0.5)
        parts.append(f'<text x="8" y="{middle + 4:.1f}">{escape(label)}</text>')
        for index, (value, start, end) in enumerate(row.values()):
            y = middle + 5 * (index - (len(series) - 1) / 2)
            line = f'<line x1="{x(start):.1f}" x2="{x(end):.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="{COLOURS[index]}" stroke-width="2"/>'
            parts.append(f'{line}<circle cx="{x(value):.1f}" cy="{y:.1f}" r="3" fill="{COLOURS[index]}"/>')
    width = _LABEL + _WIDTH + 30
    style = "<style>text { font: 13px system-ui, sans-serif; fill: #777; }</style>"
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{style}{"".join(parts)}</svg>\n'
