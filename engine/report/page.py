"""A report as one HTML page that fetches nothing: pictures, style and drawings are inside."""

from __future__ import annotations

import json
from pathlib import Path

from ..metrics.comparison import BRANCH_NAMES, BRANCHES, CHANGED, plain
from .document import DETAIL, LONGEST, Gallery, Report
from .elements import branch_head, data, head, image, kind, listed, section, table, values_list
from .markup import Markup, tag
from .reading_guide import LIMITS, MEANING, PROMISE, sources
from .victim import victim_section
from .words import copy_sentences, number, picture_summary, same_budget, victim_summary

STYLE = Path(__file__).with_name("style.css")
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def report_page(report: Report) -> str:
    """The whole document. Light or dark as the reader's system is, printable, without any script."""
    top = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", report.title),
        tag("style", Markup(STYLE.read_text(encoding="utf-8"))),
    )
    victims = [victim_section(comparison, f"victim-{index}") for index, comparison in enumerate(report.comparisons, 1)]
    body = tag("body", tag("main", _header(report), _summary(report), _visibility(report), *victims, _settings(report), _guide(report)))
    return f"<!DOCTYPE html>\n{tag('html', top, body, lang='en')}\n"


def _header(report: Report) -> Markup:
    day = tag("time", report.date.isoformat(), datetime=report.date.isoformat())
    meta = tag("p", day, *(f" · {name} {version}" for name, version in report.versions.items()), class_="meta")
    return tag("header", tag("h1", report.title), meta, tag("p", report.notes, class_="own") if report.notes else None)


def _summary(report: Report) -> Markup:
    items: list[Markup] = []
    for index, comparison in enumerate(report.comparisons, 1):
        name = tag("a", tag("bdi", comparison.victim), href=f"#victim-{index}")
        first, *others = victim_summary(comparison, fair=same_budget(report.visibilities))
        items.append(tag("div", tag("dt", name, kind(comparison)), tag("dd", tag("p", first, class_="first"), tag("p", " ".join(others)))))
    if changed := picture_summary(report):
        items.append(tag("div", tag("dt", "The picture itself"), tag("dd", tag("p", changed))))
    return section("In short", tag("p", PROMISE), tag("dl", *items), class_="short")


def _visibility(report: Report) -> Markup | None:
    if report.gallery is None and not report.visibilities and not report.unmeasured:
        return None
    copies = [tag("p", sentence, class_="copy") for sentence in copy_sentences(report)]
    return section("How visible the change is", *copies, _visibility_table(report), report.gallery and _gallery(report.gallery))


def _visibility_table(report: Report) -> Markup | None:
    shown = {branch: report.visibilities[branch] for branch in CHANGED if branch in report.visibilities}
    if not shown:
        return None
    rows: dict[str, tuple[str, str, list[Markup | str]]] = {
        "L-infinity": ("levels", "largest change of any channel, of 255 levels", [data(seen.linf) for seen in shown.values()]),
        "Pixels changed": ("%", "share of which any channel changed", [_percent(seen.changed) for seen in shown.values()]),
        "PSNR": ("dB", "higher is less visible", [data(seen.psnr) for seen in shown.values()]),
        "SSIM": ("", "higher is less visible, 1 for equal pictures", [data(seen.ssim) for seen in shown.values()]),
        "LPIPS": (
            "",
            "lower is less visible, 0 for equal pictures",
            ["not measured" if seen.lpips is None else data(seen.lpips) for seen in shown.values()],
        ),
    }
    lines = [
        tag(
            "tr",
            tag("th", name, tag("small", listed(unit, meaning)), scope="row"),
            *(tag("td", value, data_label=BRANCH_NAMES[branch]) for branch, value in zip(shown, values, strict=True)),
        )
        for name, (unit, meaning, values) in rows.items()
    ]
    return table([head("Measure of the picture"), *map(branch_head, shown)], [tag("tbody", *lines)], class_="figures short-table")


def _percent(share: float) -> Markup:
    return data(share, shown=number(100 * share))


def _gallery(gallery: Gallery) -> Markup:
    shown = [branch for branch in BRANCHES if branch in gallery.pictures]
    sizes = {f"{width} × {height}": max(height, width) > LONGEST for height, width in (gallery.sizes[branch] for branch in shown)}
    reduced = f", reduced to {LONGEST} on the longer side" if any(sizes.values()) else ""
    rows = {
        f"The whole picture, {' and '.join(sizes)} pixels{reduced}": gallery.pictures,
        f"The middle {DETAIL} pixels, enlarged": gallery.details,
        f"The change, {number(gallery.gain)} times as strong; grey is none": gallery.perturbations,
    }
    bodies = [
        tag(
            "tbody",
            tag("tr", tag("th", title, colspan=len(shown), scope="rowgroup", class_="muted")),
            tag("tr", *(tag("td", image(pictures[b], f"{title}: {BRANCH_NAMES[b]}") if b in pictures else None) for b in shown)),
            class_="detail" if pictures is gallery.details else None,
        )
        for title, pictures in rows.items()
        if pictures
    ]
    return tag("table", tag("thead", tag("tr", *map(branch_head, shown))), *bodies, class_=f"pictures of-{len(shown)}")


def _settings(report: Report) -> Markup | None:
    if not report.nodes and report.workflow is None:
        return None
    rows = [
        tag(
            "tr",
            tag("th", node.title, tag("small", listed(node.kind, f"node {node.node}")), scope="row"),
            tag("td", values_list(node.values)),
        )
        for node in report.nodes
    ]
    workflow = None
    if report.workflow is not None:
        text = json.dumps(plain(report.workflow), indent=1, ensure_ascii=False)
        workflow = tag("details", tag("summary", "The whole prompt"), tag("pre", text))
    seeds = [f"{node.title}: {value}" for node in report.nodes for name, value in node.values.items() if name.endswith("seed")]
    return section(
        "Settings and seeds",
        tag("p", f"Seeds: {'; '.join(seeds)}." if seeds else "No node has a seed."),
        table([head("Node"), head("Settings")], [tag("tbody", *rows)]),
        workflow,
        class_="settings",
    )


def _guide(report: Report) -> Markup:
    named = {row.name for comparison in report.comparisons for row in comparison.rows}
    named |= {"PSNR", "SSIM", "LPIPS"} if report.visibilities else set()
    return section(
        "How to read this, and what it cannot say",
        tag("dl", *(tag("div", tag("dt", term), tag("dd", text)) for term, text in MEANING.items()), class_="terms"),
        tag("h3", "Limits"),
        tag("ul", *(tag("li", sentence) for sentence in LIMITS)),
        tag("h3", "Sources"),
        tag("ul", *(tag("li", source) for source in sources(named)), class_="muted"),
    )
