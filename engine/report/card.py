"""A report's essence as one picture: who was attacked, what was seen, and a few frames."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import cache

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..metrics.comparison import BRANCH_NAMES, BRANCHES, Comparison
from .document import Report, small
from .markup import legal
from .words import budget_sentence, copy_sentences, same_budget, victim_summary

WIDTH, MARGIN, LABEL, GAP = 1200, 48, 150, 6
FRAMES, VICTIMS, TALLEST = 6, 6, 220
"""At most so many frames a strip and victims a card, and the height of a frame."""

_INK, _MUTED, _RULE = "#1b1d20", "#5a6068", "#d8dbe0"
_COLOURS = dict(zip(BRANCHES, ("#5f666e", "#0066b3", "#b84f00", "#007a57"), strict=True))
_FALLBACKS = ("DejaVuSans.ttf", "arial.ttf", "Arial.ttf", "NotoSansCJK-Regular.ttc", "msyh.ttc", "PingFang.ttc")
_SPOKEN = str.maketrans({"\u00a0": " ", "−": "-", "∞": "infinite", "×": "x"})  # what Pillow's own font lacks


def report_card(report: Report) -> bytes:
    """A PNG file without any metadata, 1200 pixels wide and as high as it takes."""
    height = _draw(report, None)
    sheet = Image.new("RGB", (WIDTH, height), "white")
    _draw(report, sheet)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _draw(report: Report, sheet: Image.Image | None) -> int:
    """Draw on the sheet, or only measure without one; returns the height that it takes."""
    pen = _Pen(sheet)
    pen.text(report.title, 44)
    pen.text(f"Stillguard protection report, {report.date.isoformat()}", 24, _MUTED)
    for comparison in report.comparisons[:VICTIMS]:
        _victim(pen, comparison, same_budget(report.visibilities))
    if len(report.comparisons) > VICTIMS:
        pen.rule()
        pen.text(f"and {len(report.comparisons) - VICTIMS} more, in the HTML file", 28)
    pen.rule()
    for sentence in copy_sentences(report):
        pen.text(sentence, 24)
    budget = budget_sentence(report.comparisons, report.visibilities)
    pen.text(f"{budget} One photo and these seeds, no promise: all numbers, limits and settings are in the HTML file.".strip(), 24, _MUTED)
    return pen.top + MARGIN


def _victim(pen: _Pen, comparison: Comparison, fair: bool | None) -> None:
    pen.rule()
    pen.text(f"{comparison.victim}, {'surrogate' if comparison.surrogate else 'black box'}", 34)
    first, *others = victim_summary(comparison, fair=fair)
    pen.text(first, 28)
    pen.text(" ".join(others[:-1]), 24, _MUTED)
    pen.top += 10
    for branch in BRANCHES:
        if branch in comparison.strips:
            pen.strip(branch, comparison.strips[branch][:FRAMES])


class _Pen:
    """Draws downwards; without a sheet it only finds out how far down that leads."""

    def __init__(self, sheet: Image.Image | None) -> None:
        self.sheet, self.top = sheet, MARGIN
        self.draw = ImageDraw.Draw(sheet or Image.new("RGB", (1, 1)))

    def text(self, text: str, size: int, colour: str = _INK) -> None:
        text = legal(text).translate(_SPOKEN)
        font = _font(text, size)
        for line in self._lines(text, font, size):
            self.draw.text((MARGIN, self.top), line, fill=colour, font=font)
            self.top += round(size * 1.35)

    def rule(self) -> None:
        self.top += 24
        self.draw.line((MARGIN, self.top, WIDTH - MARGIN, self.top), fill=_RULE, width=2)
        self.top += 20

    def strip(self, branch: str, frames: Tensor) -> None:
        """[S,3,h,w] uint8 beside each other, the branch's name before them."""
        height, width = frames.shape[-2:]
        room = (WIDTH - 2 * MARGIN - LABEL - GAP * (FRAMES - 1)) / FRAMES
        scale = min(room / width, TALLEST / height)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        self.draw.text((MARGIN, self.top + size[1] / 2), BRANCH_NAMES[branch], fill=_COLOURS[branch], font=_font("", 26), anchor="lm")
        for index, frame in enumerate(frames):
            if self.sheet is not None:
                picture = Image.fromarray(small(frame).permute(1, 2, 0).numpy()).resize(size, Image.Resampling.LANCZOS)
                self.sheet.paste(picture, (MARGIN + LABEL + index * (size[0] + GAP), self.top))
        self.top += size[1] + GAP

    def _lines(self, text: str, font: ImageFont.FreeTypeFont, size: int) -> Iterator[str]:
        line, room = "", WIDTH - 2 * MARGIN
        longest = room // size
        # Words that no line can hold are cut into pieces, since no letter is wider than its font's size.
        for piece in (word[start : start + longest] for word in text.split() for start in range(0, len(word), longest)):
            longer = f"{line} {piece}".strip()
            if line and self.draw.textlength(longer, font=font) > room:
                yield line
                longer = piece
            line = longer
        if line:
            yield line


def _font(text: str, size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font, or the first common one that has every character of a name that it lacks."""
    fonts = (font for name in ("", *_FALLBACKS) if (font := _load(name, size)) is not None)
    return next((font for font in fonts if all(_has(font, character) for character in set(text))), _load("", size))  # type: ignore[return-value]


@cache
def _load(name: str, size: int) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(name, size) if name else ImageFont.load_default(size)  # type: ignore[return-value]
    except OSError:
        return None


def _has(font: ImageFont.FreeTypeFont, character: str) -> bool:
    return character.isspace() or bytes(font.getmask(character)) != bytes(font.getmask("\uffff"))
