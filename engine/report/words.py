"""What the numbers of a report say, in sentences that promise nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from ..metrics.comparison import BRANCH_NAMES, CHANGED, CLEAN, NOISE, PROTECTED, Comparison, Reading, Row
from ..metrics.measure import SHARE
from ..metrics.visibility import NotMeasured, Visibility
from .document import Report

_FIRST = ("obedience", "lpips", "ssim", "psnr")
"""Which measure leads a summary, by the beginning of its name: what the video does, then perceived difference before pixels."""

HALF, MOST = 0.5, 0.9
"""Shares of the noisy video's obedience: at most the one is no longer obeying, from the other on it is obeying as much."""

LITTLE = 0.1
"""LPIPS below which two pictures can hardly be told apart unless they lie side by side."""

Verdict = Literal["more", "less", "open"]
"""Whether a measure sees the protected video further from the clean one than the noisy one, nearer to it, or cannot tell. Less
obedient is further."""


_DIFFERS: Mapping[Verdict | None, str] = {
    "more": "The protection changed this video more than the noise did",
    "less": "The noise changed this video more than the protection did",
    "open": "The intervals overlap, so these frames do not tell the protection from noise",
    None: "Without intervals this is an example, not evidence",
}
_OBEYS: Mapping[Verdict | None, str] = {
    "less": "The noisy picture obeys the driving less than the protected one does",
    "open": "The intervals of obedience overlap, so these frames do not tell the protection from noise",
    None: _DIFFERS[None],
}


def number(value: float) -> str:
    """A number as a page shows it: four significant digits or four decimals, with a real minus sign."""
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    decimals = 4 if size < 1 else 3 if size < 10 else 2 if size < 100 else 1
    text = f"{value:.2g}" if 0 < size < 1e-3 else f"{value:.{decimals}f}"
    return text.replace("-", "−")


def percent(share: float) -> str:
    """A share in per cent as tables show it, to a tenth."""
    return f"{round(100 * share, 1) + 0.0:.1f}".replace("-", "−")


def reason(reading: Reading) -> str:
    """Why there is no value."""
    return reading.why if reading.why.startswith("not measured") else f"not measured: {reading.why}"


def spread(reading: Reading, unit: str = "") -> str:
    """The interval in words, or "" where there is none."""
    return "" if reading.low is None or reading.high is None else f"{amount(reading.low, unit)} to {amount(reading.high, unit)}"


def amount(value: float, unit: str) -> str:
    """A value with its unit, as sentences have it; shares in whole per cent."""
    if unit == SHARE:
        return f"{round(100 * value)}\u00a0%".replace("-", "−")
    return f"{number(value)} {unit}".strip()


def against_clean(comparison: Comparison) -> list[Row]:
    """Rows that compare videos with the clean one and have a value for the protected one, the leading measure first."""
    comparing = ("more obedient", "more alike", "less alike")
    rows = [row for row in comparison.rows if row.reference == CLEAN and row.higher in comparing and _value(row, PROTECTED)]
    return sorted(rows, key=lambda row: next((i for i, name in enumerate(_FIRST) if row.name.lower().startswith(name)), len(_FIRST)))


def verdict(row: Row) -> Verdict | None:
    """By the intervals of the protected and the noisy video, or None where either is missing."""
    protected, noise = row.readings.get(PROTECTED), row.readings.get(NOISE)
    if protected is None or noise is None or None in (protected.low, protected.high, noise.low, noise.high):
        return None
    above, below = protected.low > noise.high, protected.high < noise.low  # type: ignore[operator]
    if not above and not below:
        return "open"
    return "more" if above == (row.higher == "less alike") else "less"


def victim_summary(comparison: Comparison, *, fair: bool | None = None) -> tuple[str, ...]:
    """What was seen of one victim: first what it means beside noise, then the numbers, then what the victim was to the protection.

    It leads with obedience where that was measured, which is where the driving moves the clean picture.

    fair: whether the noise has the protection's budget, as `same_budget` says.
    """
    rows = against_clean(comparison)
    if not rows:
        return ("Nothing was measured that compares the protected video with the clean one.", standing(comparison))
    noise = "random noise of equal budget" if fair else "random noise"
    obeying, likeness = [row for row in rows if _obedient(row)], [row for row in rows if not _obedient(row)]
    numbers = [*_obeyed(obeying, noise), *(_measured(row, noise) for row in likeness[:1]), *_others(likeness, noise)]
    return (_meaning(rows, fair), *filter(None, [*numbers, disagreement(rows)]), standing(comparison))


def disagreement(rows: list[Row]) -> str:
    """Where LPIPS or PSNR mislead about a video that obeys no longer, or still does; "" where they do not. rows: of against_clean."""
    noisy = [row for row in rows if _value(row, NOISE)]
    obeys = next((row for row in noisy if _obedient(row)), None)
    if obeys is None:
        return ""
    little = {row.name: _says_little(row) for row in noisy if row.name in ("LPIPS", "PSNR")}
    silent, loud = (" and ".join(name for name, one in little.items() if one is wanted) for wanted in (True, False))
    if silent and _halved(obeys):
        return (
            f"{silent} cannot show that the protected video obeys at most half as much as the noisy one, since a frozen face stays near "
            "the clean frames: go by obedience, and look at the frames."
        )
    if loud and _of(obeys, NOISE) >= HALF and _obeys_as_much(obeys):
        return f"By {loud} the protected video is clearly further from the clean one, but it obeys about as much as the noisy one does."
    return ""


def standing(comparison: Comparison) -> str:
    if comparison.surrogate:
        return "The protection was made against this very model, which is its best case: other models may be disturbed less."
    return "The protection was made without this model (black box)."


def visibility_sentence(branch: str, seen: Visibility) -> str:
    name = "Random noise" if branch == NOISE else "The protection"
    lpips = "LPIPS not measured" if seen.lpips is None else f"LPIPS {number(seen.lpips)}"
    levels = f"{seen.linf} {'level' if seen.linf == 1 else 'levels'}"
    resizing = "" if seen.resized_from is None else " with the resizing"
    return (
        f"{name}{resizing} changes channels by at most {levels} of 255 and touches {number(100 * seen.changed)}\u00a0% of the pixels: "
        f"PSNR {number(seen.psnr)} dB, SSIM {number(seen.ssim)}, {lpips}."
    )


def copy_sentences(report: Report) -> list[str]:
    """What was done to pictures that do not lie on the clean one pixel for pixel, or why their visibility is not measured."""
    sentences = []
    for branch in CHANGED:
        name = f"the {BRANCH_NAMES[branch]} picture"
        if branch in report.unmeasured:
            sentences.append(_unmeasured(name, report.unmeasured[branch]))
        elif branch in report.visibilities and (size := report.visibilities[branch].resized_from) is not None:
            alone = number(report.visibilities[branch].resizing_psnr or 0.0)
            sentences.append(
                f"{name.capitalize()} is {size[1]} × {size[0]} pixels and was resized back to be measured; resizing alone gives the clean "
                f"one a PSNR of {alone} dB. The videos differ by that resizing too."
            )
    return sentences


def _unmeasured(name: str, one: NotMeasured) -> str:
    reason_given = f"How visible the change of {name} is was not measured: {one.why}"
    if one.other_photo:
        return f"{reason_given} If it shows another photo, nothing here says anything about the protection: choose its file anew."
    return f"{reason_given} The videos differ by that too, not only by the protection."


def same_budget(visibilities: Mapping[str, Visibility]) -> bool | None:
    """Whether noise and protection change a channel by equally many levels at most; None where either cannot be told.

    What resizing did to a copy is no budget.
    """
    protected, noise = (visibilities.get(branch) for branch in CHANGED)
    if protected is None or noise is None or protected.resized_from is not None or noise.resized_from is not None:
        return None
    return protected.linf == noise.linf


def budget_sentence(comparisons: Iterable[Comparison], visibilities: Mapping[str, Visibility]) -> str:
    """Whether the noise that serves as a baseline is of the protection's budget; "" where there is none."""
    match same_budget(visibilities):
        case None:
            compared = any(NOISE in row.readings for comparison in comparisons for row in comparison.rows)
            return (
                "Whether the noise has the protection's budget was not checked: it takes the clean, the protected and the noisy picture, "
                "pixel for pixel."
                if compared
                else ""
            )
        case True:
            return f"Noise and protection have the same budget, {visibilities[NOISE].linf} levels."
    noise, protected = visibilities[NOISE].linf, visibilities[PROTECTED].linf
    sentence = f"Noise and protection differ in budget, {noise} against {protected} levels: beside each other they say little."
    # A JPEG file changes single pixels by far more than any protection does.
    lossy = " Unless the protected picture is a JPEG or another copy with loss, of which the largest change is no budget."
    return sentence + (lossy if protected > noise else "")


def picture_summary(report: Report) -> str:
    """How visible the change is, and whether the noise is a fair baseline; "" where no pictures were given."""
    visible = [visibility_sentence(branch, report.visibilities[branch]) for branch in CHANGED if branch in report.visibilities]
    return " ".join(filter(None, [*copy_sentences(report), budget_sentence(report.comparisons, report.visibilities), *visible]))


def report_summary(report: Report) -> str:
    """The summary as plain text, a line for each victim and one for the picture."""
    fair = same_budget(report.visibilities)
    lines = [f"{comparison.victim}: {' '.join(victim_summary(comparison, fair=fair))}" for comparison in report.comparisons]
    return "\n".join(filter(None, [*lines, picture_summary(report)]))


def _value(row: Row, branch: str) -> bool:
    return branch in row.readings and row.readings[branch].value is not None


def _of(row: Row, branch: str) -> float:
    value = row.readings[branch].value
    assert value is not None
    return value


def _obedient(row: Row) -> bool:
    return row.higher == "more obedient"


def _halved(row: Row) -> bool:
    """Whether the protected video obeys at most half as much as the noisy one, as far as the intervals, if there are any, tell."""
    return verdict(row) in ("more", None) and _of(row, PROTECTED) <= HALF * _of(row, NOISE)


def _less(row: Row) -> str:
    if _halved(row):
        return "at most half as much as"
    return "a little less than" if _obeys_as_much(row) else "less, but more than half as much as"


def _obeys_as_much(row: Row) -> bool:
    return _of(row, PROTECTED) >= MOST * _of(row, NOISE)


def _says_little(row: Row) -> bool:
    """Of LPIPS and PSNR, which one would look at for a failed animation."""
    further = (_of(row, PROTECTED) > _of(row, NOISE)) == (row.higher == "less alike")
    clearly = further and verdict(row) in ("more", None)
    return not clearly or (row.name == "LPIPS" and _of(row, PROTECTED) < LITTLE)


def _measured(row: Row, noise: str) -> str:
    parts = [_figure(row, PROTECTED, "for the protected picture")]
    if _value(row, NOISE):
        parts.append(_figure(row, NOISE, f"for the picture with {noise}"))
    return f"Against the video of the clean picture, {row.name} is {' and '.join(parts)}; higher is {row.higher}."


def _figure(row: Row, branch: str, name: str) -> str:
    ends = spread(row.readings[branch], SHARE if row.unit == SHARE else "")
    interval = f"95\u00a0% interval {ends}" if ends else "no interval"
    return f"{amount(_of(row, branch), row.unit)} {name} ({interval})"


def _obeyed(rows: list[Row], noise: str) -> Iterator[str]:
    """What was left of the driving in all, then in parts of the face."""
    if not rows:
        return
    parts = [_figure(rows[0], PROTECTED, "with the protected one")]
    if _value(rows[0], NOISE):
        parts.append(_figure(rows[0], NOISE, f"with {noise}"))
    yield f"{rows[0].name}: 100\u00a0% of the driving's change with the clean picture (by definition), {' and '.join(parts)}."
    told = []
    for row in rows[1:]:
        beside = f", {amount(_of(row, NOISE), row.unit)} with noise" if _value(row, NOISE) else ""
        told.append(f"{row.name.removeprefix('Obedience, ')} {amount(_of(row, PROTECTED), row.unit)}{beside}")
    if told:
        yield f"By landmarks: {'; '.join(told)}."


def _meaning(rows: list[Row], fair: bool | None) -> str:
    if not _value(rows[0], NOISE):
        return "No picture with random noise was compared, so how much of this any change of the picture would do is not known."
    found = verdict(rows[0])
    if not _obedient(rows[0]):
        said = _DIFFERS[found]
    else:
        said = f"The protected picture obeys the driving {_less(rows[0])} the noisy one does" if found == "more" else _OBEYS[found]
    return f"{said}, and the two differ in budget." if fair is False else f"{said}."


def _others(rows: list[Row], noise: str) -> list[str]:
    sentences = [_measured(row, noise) for row in rows[1:] if row.name.lower().startswith("identity")]
    counts = Counter(found for row in rows if (found := verdict(row)) is not None)
    if counts.total() > 1:
        sentences.append(
            f"Of {counts.total()} measures against the clean video, {counts['more']} see the protected one clearly further from it than "
            f"the noisy one, {counts['less']} see the reverse and {counts['open']} cannot tell."
        )
    return sentences
