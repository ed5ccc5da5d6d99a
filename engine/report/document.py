"""What a Protection Report says, as plain values. The page, the card and the JSON file are made from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..conversions import in_colour, middle, within
from ..metrics.comparison import CLEAN, Comparison, as_json, plain
from ..metrics.visibility import NotMeasured, Visibility
from ..picture import check_finite, to_levels

SCHEMA, SCHEMA_VERSION = "stillguard-protection-report", 1
LONGEST, DETAIL = 512, 128


@dataclass(frozen=True)
class NodeSettings:
    """One node of the graph that made the numbers. kind: its class. values: its settings, without links."""

    node: str
    kind: str
    title: str
    values: Mapping[str, object]


@dataclass(frozen=True)
class Gallery:
    """A photo's branches as a page shows them: [3,h,w] uint8, by branch.

    pictures: at most LONGEST pixels a side. details: the middle DETAIL pixels at full size. perturbations: difference from the clean
    picture around middle grey, each level being `gain` levels; by skipping pixels where the photo is larger, since averaging would
    wash it out. Of copies of another size there is no difference, and the middle is their own. sizes: (height, width) by branch.
    """

    sizes: Mapping[str, tuple[int, int]]
    gain: float
    pictures: Mapping[str, Tensor]
    details: Mapping[str, Tensor]
    perturbations: Mapping[str, Tensor]


@dataclass(frozen=True)
class Report:
    """All that is said. visibilities: by branch, of the pictures that were attacked. unmeasured: by branch, why it has no visibility.
    versions: what ran, by name.

    workflow: the whole prompt, where the user asked for it. notes: the user's own words.
    """

    title: str
    date: date
    comparisons: tuple[Comparison, ...]
    visibilities: Mapping[str, Visibility] = field(default_factory=dict)
    unmeasured: Mapping[str, NotMeasured] = field(default_factory=dict)
    gallery: Gallery | None = None
    nodes: tuple[NodeSettings, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: str = ""
    workflow: Mapping[str, Any] | None = None


def gallery(pictures: Mapping[str, Tensor]) -> Gallery:
    """Branch -> picture [C,H,W] in [0,1], the clean one among them, made small enough for a page.

    Raises ValueError when a pixel is not finite.
    """
    levels = {branch: _levels(picture) for branch, picture in pictures.items()}
    clean = levels[CLEAN]
    differences = {branch: picture - clean for branch, picture in levels.items() if branch != CLEAN and picture.shape == clean.shape}
    largest = max((float(difference.abs().max()) for difference in differences.values()), default=0.0)
    gain = 127.5 / largest if largest else 1.0
    return Gallery(
        sizes={branch: (int(picture.shape[-2]), int(picture.shape[-1])) for branch, picture in levels.items()},
        gain=gain,
        pictures={branch: small(picture) for branch, picture in levels.items()},
        details={branch: middle(picture, DETAIL, DETAIL).byte() for branch, picture in levels.items()},
        perturbations={branch: small(127.5 + gain * difference, mode="nearest") for branch, difference in differences.items()},
    )


def report_json(report: Report) -> str:
    """The report as strict JSON, every number in full; infinities as in engine.metrics.comparison.as_json. No pictures."""
    document = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "title": report.title,
        "date": report.date.isoformat(),
        "notes": report.notes,
        "versions": dict(report.versions),
        "visibility": {branch: plain(asdict(seen)) for branch, seen in report.visibilities.items()},
        "visibility_not_measured": {branch: one.why for branch, one in report.unmeasured.items()},
        "victims": [as_json(comparison) for comparison in report.comparisons],
        "settings": [plain(asdict(node)) for node in report.nodes],
    }
    if report.workflow is not None:
        document["workflow"] = plain(report.workflow)
    return json.dumps(document, indent=2, allow_nan=False)


def _levels(picture: Tensor) -> Tensor:
    """[C,H,W] in [0,1] -> 8-bit levels as float, [3,H,W]."""
    check_finite(picture)
    return to_levels(in_colour(picture[None]).cpu())[0]


def small(picture: Tensor, *, longest: int = LONGEST, mode: str = "area") -> Tensor:
    """[3,H,W] levels -> uint8 with at most `longest` pixels a side."""
    size = within(picture.shape[-2], picture.shape[-1], longest)
    reduced = picture if size == picture.shape[-2:] else F.interpolate(picture[None].float(), size=size, mode=mode)[0]
    return reduced.float().round().clamp(0, 255).to(torch.uint8)
