"""The report's page, file and card say what the comparison holds: parsed by the standard library's readers."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import date
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from stillguard.engine.baselines import random_signs
from stillguard.engine.metrics.comparison import CLEAN, NOISE, PROTECTED, TRUTH, Comparison, Reading, Row, as_json
from stillguard.engine.metrics.intervals import interval_of_mean
from stillguard.engine.metrics.visibility import NotMeasured, visibility
from stillguard.engine.report.card import report_card
from stillguard.engine.report.charts import curves
from stillguard.engine.report.document import LONGEST, NodeSettings, Report, gallery, report_json
from stillguard.engine.report.page import report_page
from stillguard.engine.report.words import disagreement, number, report_summary, verdict, victim_summary
from torch import Tensor

NASTY = """<script>alert(1)</script><img src=x onerror=alert(2)>"' & \ud800 \x00 </style></title>\u202e"""
VOID = {"img", "meta", "br", "hr", "link", "col"}


class Reader(HTMLParser):
    """Checks that elements are closed in order, and collects what is in them."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.data: list[tuple[str, str]] = []  # value of a <data> element, and the text in it
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "data":
            self.data.append((str(dict(attrs)["value"]), ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "data":
            self.data[-1] = (self.data[-1][0], data)
        if not self.open or self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def reading(values: Iterable[float]) -> Reading:
    items = torch.tensor(list(values), dtype=torch.float64)
    interval = interval_of_mean(items)
    return Reading(float(items.mean()), interval.low, interval.high, items.numel(), tuple(items.tolist()), interval.why)


def around(mean: float, spread: float, *, seed: int, count: int = 24) -> Reading:
    return reading((mean + spread * torch.randn(count, generator=torch.Generator().manual_seed(seed))).tolist())


def a_comparison(victim: str = "Victim", *, surrogate: bool = False, noise: bool = True, protected: float = 0.4) -> Comparison:
    others = [PROTECTED, NOISE] if noise else [PROTECTED]
    means = {CLEAN: 2.0, PROTECTED: protected, NOISE: 0.1}
    frames = torch.randint(0, 256, (3, 3, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rows = (
        Row("LPIPS", "", "less alike", CLEAN, {b: around(means[b], 0.02, seed=i) for i, b in enumerate(others)}),
        Row("PSNR", "dB", "more alike", CLEAN, {b: around(20 - 10 * means[b], 0.5, seed=5 + i) for i, b in enumerate(others)}),
        Row("optical flow", "px", "more motion", "", {b: around(means[b], 0.1, seed=9, count=23) for b in [CLEAN, *others]}),
        Row("FVD", "", None, "", dict.fromkeys([CLEAN, *others], Reading(None, why="not measured: it needs at least 200 frames."))),
    )
    return Comparison(
        victim, surrogate, 24, (20, 30), rows, dict.fromkeys([CLEAN, *others], frames), (0, 11, 23), ("A note.",), {"measures": ["pixels"]}
    )


@pytest.fixture(scope="module")
def pictures(astronaut: Tensor) -> dict[str, Tensor]:
    photo = astronaut[:, :, 40:168, 50:150]
    ramp = torch.arange(-8, 9).repeat(6)[:100] / 255
    return {CLEAN: photo[0], PROTECTED: (photo[0] + ramp).clamp(0, 1), NOISE: random_signs(photo, 8.0, seed=1)[0]}


@pytest.fixture(scope="module")
def report(pictures: dict[str, Tensor]) -> Report:
    seen = {b: visibility(pictures[CLEAN][None], pictures[b][None])[0] for b in (PROTECTED, NOISE)}
    nodes = (NodeSettings("7", "KSampler", "Sampler", {"seed": 2**63 - 1, "cfg": 2.5, "text": "a <b>person</b>", "list": [1, "a"]}),)
    return Report(
        title="A portrait",
        date=date(2025, 11, 20),
        comparisons=(a_comparison("First", surrogate=True), a_comparison("Second", noise=False)),
        visibilities=seen,
        gallery=gallery(pictures),
        nodes=nodes,
        versions={"Stillguard": "0.1.0"},
        notes="My notes.",
    )


@pytest.fixture(scope="module")
def page(report: Report) -> str:
    return report_page(report)


def strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def values_in(comparison: dict[str, Any]) -> list[float | str]:
    readings = [reading for row in comparison["rows"] for reading in row["readings"].values()]
    return [reading[key] for reading in readings for key in ("value", "low", "high") if reading[key] is not None]


def test_the_page_is_well_formed_and_fetches_nothing(page: str) -> None:
    reader = Reader(page)
    for tag, attributes in reader.elements:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "form", "video", "audio"}
        assert not any(name.startswith("on") for name in attributes)
        for name in {"src", "href", "srcset", "poster", "action", "xlink:href"} & attributes.keys():
            assert str(attributes[name]).startswith(("data:image/webp;base64,", "#"))
        assert tag != "img" or attributes["alt"]
    assert "http://" not in page
    assert "https://" not in page
    assert "@import" not in page
    assert not re.search(r"url\(", page)


def test_ids_are_unique_and_links_and_labels_find_theirs(page: str) -> None:
    elements = Reader(page).elements
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in elements:
        assert str(attributes.get("href", "#victim-1"))[1:] in ids
        assert set(str(attributes.get("aria-labelledby") or "victim-1").split()) <= set(ids)


def test_numbers_are_those_of_the_comparison_in_page_and_file(report: Report, page: str) -> None:
    document = strict(report_json(report))
    assert [strict(json.dumps(as_json(c))) for c in report.comparisons] == document["victims"]
    reader = Reader(page)
    told = [value for branch in document["visibility"].values() for value in branch.values() if value is not None]
    told += [value for victim in document["victims"] for value in values_in(victim)]
    assert sorted(float(value) for value, _ in reader.data) == sorted(map(float, told))
    for value, shown in reader.data:
        in_full, rounded = float(value), float(shown.replace("−", "-"))
        # The share of pixels is shown in percent.
        assert math.isclose(rounded, in_full, rel_tol=2e-3, abs_tol=5e-5) or math.isclose(rounded, 100 * in_full, rel_tol=2e-3)


def test_what_the_user_wrote_cannot_become_markup(report: Report) -> None:
    victim = replace(a_comparison(NASTY), notes=(NASTY,), settings={NASTY: NASTY})
    row = Row(NASTY, NASTY, "better", "", {CLEAN: around(1, 0.1, seed=0), PROTECTED: Reading(None, why=NASTY)})
    hurt = replace(
        report,
        title=NASTY,
        notes=NASTY,
        comparisons=(replace(victim, rows=(*victim.rows, row)),),
        nodes=(NodeSettings(NASTY, NASTY, NASTY, {NASTY: NASTY, "nested": [{NASTY: NASTY}]}),),
        versions={NASTY: NASTY},
        workflow={NASTY: {"inputs": NASTY}},
    )
    page = report_page(hurt)
    page.encode()  # no half of a surrogate pair is left
    reader = Reader(page)
    assert not {"script", "b"} & {tag for tag, _ in reader.elements}
    assert not any(name.startswith("on") for _, attributes in reader.elements for name in attributes)
    assert all(str(a.get("src", "data:")).startswith("data:") for _, a in reader.elements)
    assert reader.text.count("<script>alert(1)</script>") > 10
    assert strict(report_json(hurt))["title"] == NASTY
    Image.open(io.BytesIO(report_card(hurt))).load()


def test_infinite_and_missing_values_are_said_and_stay_json(report: Report) -> None:
    equal = Row(
        "PSNR", "dB", "more alike", CLEAN, {PROTECTED: Reading(math.inf, n=3, items=(math.inf, 30.0, 31.0)), NOISE: reading([20.0] * 3)}
    )
    lost = Row(
        "identity similarity",
        "cosine",
        "more alike",
        CLEAN,
        {PROTECTED: Reading(None, why="no face was found."), NOISE: reading([0.5] * 3)},
    )
    odd = replace(report, comparisons=(replace(a_comparison(), rows=(equal, lost)),))
    document = strict(report_json(odd))
    assert document["victims"][0]["rows"][0]["readings"][PROTECTED]["value"] == "inf"
    reader = Reader(report_page(odd))
    assert ("inf", "∞") in reader.data
    assert "not measured: no face was found." in reader.text
    assert "no interval" in reader.text
    assert report_card(odd)


def test_a_measure_that_was_not_taken_is_listed_with_the_reason(page: str) -> None:
    text = Reader(page).text
    assert text.count("not measured: it needs at least 200 frames.") == 2
    assert "not measured: not measured" not in text


def test_the_smallest_report_has_a_page_a_file_and_a_card() -> None:
    bare = Comparison("V", False, 1, (8, 8), (), {}, ())
    least = Report("T", date(2025, 1, 1), (bare,))
    assert "Nothing was measured" in Reader(report_page(least)).text
    assert strict(report_json(least))["victims"][0]["rows"] == []
    assert report_card(least)


@pytest.mark.parametrize(
    ("protected", "said"),
    [
        (0.4, "The protection changed this video more than the noise did."),
        (0.02, "The noise changed this video more than the protection did."),
        (0.1, "The intervals overlap"),
    ],
)
def test_the_summary_follows_the_intervals(protected: float, said: str) -> None:
    first = victim_summary(a_comparison(protected=protected))[0]
    assert first.startswith(said)


@pytest.mark.parametrize(("higher", "expected"), [("less alike", "more"), ("more alike", "less")])
def test_further_from_the_clean_video_is_read_from_what_higher_means(higher: Any, expected: str) -> None:
    row = Row("any", "", higher, CLEAN, {PROTECTED: Reading(2.0, 1.9, 2.1, 20), NOISE: Reading(1.0, 0.9, 1.1, 20)})
    assert verdict(row) == expected
    assert verdict(replace(row, readings={**row.readings, NOISE: Reading(2.0, 1.0, 2.5, 20)})) == "open"
    assert verdict(replace(row, readings={**row.readings, NOISE: Reading(1.0, n=3)})) is None


def test_without_noise_or_intervals_the_summary_says_what_is_missing() -> None:
    assert "No picture with random noise was compared" in victim_summary(a_comparison(noise=False))[0]
    few = {PROTECTED: reading([0.4] * 3), NOISE: reading([0.1] * 3)}
    short = replace(a_comparison(), rows=(Row("LPIPS", "", "less alike", CLEAN, few),))
    assert victim_summary(short)[0] == "Without intervals this is an example, not evidence."


def test_the_summary_promises_nothing_and_names_the_surrogate(report: Report, page: str) -> None:
    text = report_summary(report)
    assert "made against this very model" in text.splitlines()[0]
    assert "black box" in text.splitlines()[1]
    told = Reader(page).text
    assert "it promises nothing" in told
    for claim in ("is protected", "is safe", "guarantee", "immune", "cannot be animated"):
        assert claim not in told


def obeying(protected: float, noise: float = 0.97, *, name: str = "Obedience", count: int = 24) -> Row:
    readings = {b: around(mean, 0.02, seed=i, count=count) for i, (b, mean) in enumerate(((PROTECTED, protected), (NOISE, noise)))}
    return Row(name, "share", "more obedient", CLEAN, readings)


def lpips_of(protected: float, noise: float) -> Row:
    return Row("LPIPS", "", "less alike", CLEAN, {b: around(m, 1e-3, seed=7) for b, m in ((PROTECTED, protected), (NOISE, noise))})


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (0.2, "The protected picture obeys the driving at most half as much as the noisy one does."),
        (0.7, "The protected picture obeys the driving less, but more than half as much as the noisy one does."),
        (0.92, "The protected picture obeys the driving a little less than the noisy one does."),
        (0.97, "The intervals of obedience overlap"),
        (1.2, "The noisy picture obeys the driving less than the protected one does."),
    ],
)
def test_the_summary_leads_with_obedience_where_the_driving_moves_the_picture(share: float, said: str) -> None:
    plain = a_comparison()
    first, second, *others = victim_summary(replace(plain, rows=(*plain.rows, obeying(share), obeying(-0.04, name="Obedience, mouth"))))
    assert first.startswith(said)
    values = obeying(share).readings
    for branch in (PROTECTED, NOISE):
        value, low, high = (f"{100 * one:.0f}\u00a0%" for one in (values[branch].value, values[branch].low, values[branch].high))
        assert re.search(f"{value} .* \\(95\u00a0% interval {low} to {high}\\)", second)
    assert "100\u00a0% of the driving's change with the clean picture" in second
    mouth = obeying(-0.04, name="Obedience, mouth").readings[PROTECTED].value
    assert others[0].startswith(f"By landmarks: mouth −{-100 * mouth:.0f}\u00a0%, 97\u00a0% with noise")
    assert any("LPIPS is" in sentence for sentence in others)
    still = Row(
        "Obedience", "share", "more obedient", CLEAN, dict.fromkeys((PROTECTED, NOISE), Reading(None, why="There is nothing to obey."))
    )
    assert victim_summary(replace(plain, rows=(still, *plain.rows))) == victim_summary(plain)


@pytest.mark.parametrize(
    ("share", "lpips", "told"),
    [
        (0.1, (0.03, 0.09), "LPIPS cannot show that the protected video obeys"),  # frozen, and nearer to the clean video than noise is
        (0.1, (0.08, 0.03), "LPIPS cannot show that"),  # further, but hardly to be seen
        (0.1, (0.4, 0.03), ""),
        (0.7, (0.03, 0.09), ""),
        (0.95, (0.4, 0.03), "By LPIPS the protected video is clearly further from the clean one, but it obeys about as much"),
        (0.95, (0.03, 0.09), ""),
    ],
)
def test_where_likeness_and_obedience_disagree_one_sentence_says_so(share: float, lpips: tuple[float, float], told: str) -> None:
    for count in (24, 5):  # with intervals and without
        said = disagreement([obeying(share, count=count), lpips_of(*lpips)])
        assert said.count(".") == bool(told)
        assert told in said
    assert disagreement([obeying(0.01, 0.02), lpips_of(0.4, 0.03)]) == ""  # of a victim that lets noise do what it likes
    assert disagreement([lpips_of(*lpips)]) == ""


def test_obedience_is_shown_in_percent_beside_the_clean_videos_hundred(report: Report) -> None:
    obeys = replace(report, comparisons=(replace(a_comparison(), rows=(obeying(0.2),)),))
    reader = Reader(report_page(obeys))
    (row,) = strict(report_json(obeys))["victims"][0]["rows"]
    for branch in (PROTECTED, NOISE):
        value = row["readings"][branch]["value"]
        assert dict(reader.data)[str(value)] == f"{100 * value:.1f}"
    assert "100 by definition" in " ".join(reader.text.split())
    assert "%, higher is more obedient" in reader.text
    assert f"mean {number(100 * row['readings'][PROTECTED]['value'])}" in reader.text  # the drawing's own words
    assert "What share of the change that the driving" in reader.text


def test_noise_of_another_budget_is_no_fair_baseline(report: Report) -> None:
    assert "Noise and protection have the same budget, 8 levels." in report_summary(report)
    weaker = replace(report.visibilities[NOISE], linf=4)
    unequal = replace(report, visibilities={**report.visibilities, NOISE: weaker})
    assert "differ in budget, 4 against 8 levels" in report_summary(unequal)
    assert "more than the noise did, and the two differ in budget." in report_summary(unequal)
    assert "random noise of equal budget" not in report_summary(unequal)
    assert "random noise of equal budget" in report_summary(report)
    lossy = replace(report, visibilities={**report.visibilities, PROTECTED: replace(report.visibilities[PROTECTED], linf=77)})
    assert "8 against 77 levels" in report_summary(lossy)
    assert "Unless the protected picture is a JPEG or another copy with loss" in report_summary(lossy)
    assert "was not checked" in report_summary(replace(report, visibilities={}, gallery=None))


def test_a_copy_is_told_as_such_in_page_file_text_and_card(report: Report, pictures: dict[str, Tensor]) -> None:
    """Resized and measured; cropped and not; another photo."""
    resized = replace(report.visibilities[PROTECTED], linf=90, resized_from=(64, 50), resizing_psnr=31.25)
    crop, other = NotMeasured("it shows about 49% of the clean picture."), NotMeasured("it does not look like a copy.", other_photo=True)
    half = gallery({**pictures, PROTECTED: pictures[PROTECTED][:, ::2, ::2]})
    noise = {NOISE: report.visibilities[NOISE]}
    told = {
        "50 × 64 pixels and was resized back to be measured; resizing alone gives the clean one a PSNR of 31.25 dB": replace(
            report, visibilities={**noise, PROTECTED: resized}, gallery=half
        ),
        "was not measured: it shows about 49% of the clean picture. The videos differ by that too": replace(
            report, visibilities=noise, unmeasured={PROTECTED: crop}, gallery=half
        ),
        "it does not look like a copy. If it shows another photo, nothing here says anything about the protection": replace(
            report, visibilities=noise, unmeasured={PROTECTED: other}, gallery=half
        ),
    }
    plain_height = Image.open(io.BytesIO(report_card(report))).height
    for sentence, copied in told.items():
        text = Reader(report_page(copied)).text
        assert sentence in text
        assert sentence in report_summary(copied)
        assert "100 × 128 and 50 × 64 pixels" in text
        assert "differ in budget" not in text  # what resizing did is no budget, and what was not measured has none
        assert Image.open(io.BytesIO(report_card(copied))).height > plain_height
        document = strict(report_json(copied))
        assert (PROTECTED in document["visibility"]) != (PROTECTED in document["visibility_not_measured"])
    assert strict(report_json(next(iter(told.values()))))["visibility"][PROTECTED]["resized_from"] == [64, 50]


def test_pictures_in_the_page_are_the_very_pixels(report: Report, page: str, pictures: dict[str, Tensor]) -> None:
    sources = [str(a["src"]) for tag, a in Reader(page).elements if tag == "img"]
    held = [np.array(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).convert("RGB")) for source in sources]
    for picture in pictures.values():
        expected = (picture * 255).round().byte().permute(1, 2, 0).numpy()
        assert any(np.array_equal(expected, one) for one in held)
    frames = report.comparisons[0].strips[PROTECTED].permute(0, 2, 3, 1).numpy()
    assert all(any(np.array_equal(frame, one) for one in held) for frame in frames)


def test_the_shown_perturbation_is_the_amplified_difference(pictures: dict[str, Tensor]) -> None:
    shown = gallery(pictures)
    difference = (pictures[PROTECTED] * 255).round() - (pictures[CLEAN] * 255).round()
    assert shown.gain == pytest.approx(127.5 / 8)
    assert (shown.perturbations[PROTECTED].float() - (127.5 + difference * 127.5 / 8)).abs().max() <= 0.5
    assert CLEAN not in shown.perturbations


def test_large_pictures_are_reduced_but_keep_a_part_at_full_size() -> None:
    large = torch.rand(4, 1500, 1000, generator=torch.Generator().manual_seed(0))
    shown = gallery({CLEAN: large, PROTECTED: large})
    assert shown.sizes == dict.fromkeys((CLEAN, PROTECTED), (1500, 1000))
    assert shown.pictures[CLEAN].shape == (3, LONGEST, round(LONGEST / 1.5))
    middle = (large[:3, 686:814, 436:564] * 255).round()
    assert torch.equal(shown.details[PROTECTED].float(), middle)
    assert (shown.perturbations[PROTECTED].float() - 127.5).abs().max() == 0.5


def test_gaps_and_lengths_of_curves_are_kept() -> None:
    row = Row("PSNR", "dB", "more alike", CLEAN, {PROTECTED: Reading(math.inf, n=5, items=(math.inf, 20.0, 30.0, math.nan, 25.0))})
    reader = Reader(str(curves(row, frames=5, identifier="c")))
    (line,) = [str(a["d"]) for tag, a in reader.elements if tag == "path" and a["class"] == "line protected"]
    points = [tuple(map(float, point.split())) for point in re.split("[ML]", line)[1:]]
    assert line.count("M") == 2
    assert len(points) == 3
    heights = [y for _, y in points]
    assert heights[1] < heights[2] < heights[0]  # 30 above 25 above 20
    assert (heights[0] - heights[2]) == pytest.approx(heights[2] - heights[1], abs=0.2)
    assert "frame" in reader.text


def test_the_ground_truth_has_its_own_rows_and_column(report: Report) -> None:
    row = Row("LPIPS", "", "less alike", TRUTH, {b: around(0.2, 0.02, seed=3) for b in (CLEAN, PROTECTED, NOISE)})
    true = a_comparison()
    true = replace(true, rows=(*true.rows, row), strips={**true.strips, TRUTH: true.strips[CLEAN]})
    text = Reader(report_page(replace(report, comparisons=(true,)))).text
    assert "Compared with the ground truth" in text
    assert text.count("ground truth") > 3


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0.0000"),
        (0.42135, "0.4214"),
        (-1.23456, "−1.235"),
        (30.425, "30.43"),
        (1234.5, "1234.5"),
        (1.234e-5, "1.2e−05"),
        (math.inf, "∞"),
    ],
)
def test_numbers_are_shown_with_digits_that_mean_something(value: float, shown: str) -> None:
    assert number(value) in (shown, shown.replace("30.43", "30.42"))  # halves go to the even digit of the binary number


def test_the_workflow_is_told_only_when_asked_for(report: Report) -> None:
    assert "workflow" not in strict(report_json(report))
    asked = replace(report, workflow={"1": {"class_type": "LoadImage", "inputs": {"image": "mine.png"}}})
    assert strict(report_json(asked))["workflow"]["1"]["inputs"]["image"] == "mine.png"
    assert "mine.png" in Reader(report_page(asked)).text


def test_the_card_is_a_bare_picture_that_grows_with_its_victims(report: Report) -> None:
    one, two, seven = (
        Image.open(io.BytesIO(report_card(replace(report, comparisons=tuple(a_comparison(f"V{i}") for i in range(count))))))
        for count in (1, 2, 7)
    )
    assert (one.width, one.info, one.format) == (1200, {}, "PNG")
    assert one.height < two.height < seven.height < 4 * two.height
    long = replace(report, title="W" * 500, comparisons=(a_comparison("name " * 200),))
    card = np.array(Image.open(io.BytesIO(report_card(long))))
    assert (card[:, -20:] == 255).all()  # nothing runs over the margin
