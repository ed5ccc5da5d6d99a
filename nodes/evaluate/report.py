"""Protection Report."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...engine.metrics.comparison import CLEAN, NOISE, PROTECTED, Comparison, Row
from ...engine.metrics.visibility import NotMeasured, Visibility
from ...engine.report.card import report_card
from ...engine.report.document import Report, gallery, report_json
from ...engine.report.page import report_page
from ...engine.report.words import report_summary
from ...engine.weights.catalogue import catalogue
from ..bridge.evaluate.report import node_settings, versions, whole_graph
from ..bridge.evaluate.visibility import measure_visibility
from ..bridge.files import write_numbered
from ..bridge.model_files import choices, find_file, fingerprint
from ..bridge.privacy import publishable, without_folders, without_paths
from ..bridge.progress import show_text
from ..sockets import ComparisonSocket
from .visibility import WITHOUT_LPIPS

TITLE = "Protection report"


class ProtectionReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        template = io.Autogrow.TemplatePrefix(ComparisonSocket.Input("comparison"), prefix="comparison", min=1, max=16)
        return io.Schema(
            node_id="StillguardProtectionReport",
            display_name="Protection Report",
            category="stillguard/evaluate",
            description=(
                "What the attack test showed, as a page (HTML), a file for programs (JSON) and a picture: how visible the protection is "
                "and what it did to each victim, beside random noise. It measures and promises nothing."
            ),
            search_aliases=["html", "summary", "results", "table", "honest"],
            is_output_node=True,
            inputs=[
                io.Autogrow.Input("comparisons", template=template, tooltip="One Compare Videos for each victim."),
                io.Image.Input("clean", optional=True, tooltip="The photo before protection, to show how visible the change is."),
                io.Image.Input("protected", optional=True, tooltip="The photo that was attacked, or the copy of it: of any size."),
                io.Image.Input("noise", optional=True, tooltip="The photo with random noise of the same budget, as it was attacked."),
                io.Combo.Input(
                    "lpips_backbone",
                    options=[*choices([catalogue()["lpips_vgg16"]]), WITHOUT_LPIPS],
                    tooltip="VGG16 weights in models/stillguard, for LPIPS of the photos; where they are missing, the rest goes on.",
                ),
                io.String.Input("title", default=TITLE, tooltip="The report's heading."),
                io.String.Input("notes", default="", multiline=True, tooltip="Your own words, below the heading."),
                io.String.Input(
                    "filename_prefix",
                    default="stillguard/report",
                    tooltip="Below ComfyUI's output folder; reports are numbered and never overwritten.",
                ),
                io.Boolean.Input(
                    "include_workflow",
                    default=False,
                    tooltip="Add the whole prompt, with the names of your files. Settings and seeds are always told.",
                ),
            ],
            outputs=[io.String.Output("report", display_name="report")],
            hidden=[io.Hidden.dynprompt, io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, lpips_backbone: str | None = None, **others: object) -> str:
        return fingerprint([(catalogue()["lpips_vgg16"], lpips_backbone)])

    @classmethod
    def execute(
        cls,
        comparisons: dict[str, Comparison | None],
        lpips_backbone: str,
        title: str,
        notes: str,
        filename_prefix: str,
        include_workflow: bool,
        clean: Tensor | None = None,
        protected: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> io.NodeOutput:
        backbone, lacking = _backbone(lpips_backbone)
        pictures = _one_each({CLEAN: clean, PROTECTED: protected, NOISE: noise})
        seen = _seen(pictures, backbone)
        prompt: Any = cls.hidden.dynprompt
        report = Report(
            title=title.strip() or TITLE,
            date=date.today(),
            comparisons=tuple(_publishable(one) for one in comparisons.values() if one is not None),
            visibilities={branch: one for branch, one in seen.items() if isinstance(one, Visibility)},
            unmeasured={branch: one for branch, one in seen.items() if isinstance(one, NotMeasured)},
            gallery=gallery({branch: picture[0] for branch, picture in pictures.items()}) if pictures else None,
            nodes=node_settings(whole_graph(prompt), str(cls.hidden.unique_id)),
            versions=versions(),
            notes=notes.strip(),
            workflow=without_paths(prompt.get_original_prompt()) if include_workflow else None,
        )
        files = {"html": report_page(report).encode(), "json": report_json(report).encode(), "png": report_card(report)}
        page, data, card = write_numbered(filename_prefix, files)
        where = (
            f"Written to the output folder: {', '.join(str(Path(e['subfolder'], e['filename']).as_posix()) for e in (page, data, card))}"
        )
        text = "\n".join([report_summary(report), *lacking, where])
        show_text(where, node_id=cls.hidden.unique_id)
        return io.NodeOutput(text, ui={"images": [card], "text": (text,), "stillguard_report": [page]})


def _backbone(name: str) -> tuple[Path | None, tuple[str, ...]]:
    """The file and nothing, or no file and the sentence that says why."""
    if name == WITHOUT_LPIPS:
        return None, ()
    try:
        return find_file(catalogue()["lpips_vgg16"], name), ()
    except FileNotFoundError as missing:
        return None, (f"LPIPS of the photos is not measured: {missing}",)


def _one_each(given: dict[str, Tensor | None]) -> dict[str, Tensor]:
    """Branch -> its picture [1,C,H,W], those that are connected."""
    pictures = {branch: picture.movedim(-1, 1) for branch, picture in given.items() if picture is not None}
    for branch, picture in pictures.items():
        if picture.shape[0] != 1:
            raise ValueError(
                f"`{branch}` has {picture.shape[0]} pictures: a report is about one photo, so choose it with Image From Batch."
            )
    if pictures and CLEAN not in pictures:
        raise ValueError("A protected picture is shown beside the clean one: connect the photo that went into Protect to `clean`.")
    return pictures


def _publishable(comparison: Comparison) -> Comparison:
    """Without what a library's error or a setting tells of the user's disk."""

    def row(one: Row) -> Row:
        return replace(
            one, readings={branch: replace(reading, why=without_folders(reading.why)) for branch, reading in one.readings.items()}
        )

    return replace(
        comparison,
        rows=tuple(row(one) for one in comparison.rows),
        notes=tuple(without_folders(note) for note in comparison.notes),
        settings=publishable("", comparison.settings),
    )


def _seen(pictures: dict[str, Tensor], backbone: Path | None) -> dict[str, Visibility | NotMeasured]:
    others = {branch: (pictures[CLEAN], picture) for branch, picture in pictures.items() if branch != CLEAN}
    return dict(zip(others, measure_visibility(others.values(), lpips_backbone=backbone), strict=True)) if others else {}


NODES: tuple[type[io.ComfyNode], ...] = (ProtectionReport,)
