"""Portraits drawn by code, no two alike, as the face animator expects them: 512x512, transparent around the person, head in its place."""

from __future__ import annotations

import colorsys
import random

from PIL import Image, ImageDraw

SIDE, _FINE = 512, 4
_LINE, _LIPS = (62, 40, 48, 255), (150, 60, 70, 255)

Colour = tuple[int, int, int, int]


def drawing(seed: int, opening: float = 0.0) -> Image.Image:
    """RGBA, the same for the same seed. opening: of the mouth, from 0, a line, to 1."""
    dice = random.Random(seed)
    canvas = Image.new("RGBA", (SIDE * _FINE, SIDE * _FINE), (0, 0, 0, 0))
    pen = _Pen(ImageDraw.Draw(canvas))
    skin = _colour(dice.uniform(0.04, 0.09), dice.uniform(0.12, 0.5), dice.uniform(0.6, 1.0))
    hair, iris = (_colour(dice.random(), dice.uniform(0.3, 0.8), dice.uniform(0.25, 0.9)) for _ in range(2))
    clothes, collar = (_colour(dice.random(), dice.uniform(0.1, 0.7), dice.uniform(0.3, 0.95)) for _ in range(2))
    width, long = dice.uniform(48, 54), dice.random() < 0.5
    if long:
        pen.oval(256, 150, width + 26, 92, hair)
        pen.shape([(256 - width - 26, 150), (256 + width + 26, 150), (256 + width + 20, 250), (256 - width - 20, 250)], hair)
    else:
        pen.oval(256, 122, width + 18, 72, hair)
    _body(pen, clothes, collar, skin)
    pen.shape(_outline(width), skin, smooth=True)
    _features(pen, dice, skin, hair, iris)
    _mouth(pen, dice, opening)
    _fringe(pen, dice, width, hair)
    return canvas.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


class _Pen:
    """Draws in pixels of the finished picture, every shape with its line around it."""

    def __init__(self, draw: ImageDraw.ImageDraw) -> None:
        self._draw = draw

    def shape(self, points: list[tuple[float, float]], fill: Colour, *, smooth: bool = False, line: Colour | None = _LINE) -> None:
        fine = [(x * _FINE, y * _FINE) for x, y in (_smoothed(points) if smooth else points)]
        self._draw.polygon(fine, fill=fill)
        if line is not None:
            self._draw.line([*fine, fine[0]], fill=line, width=_FINE, joint="curve")

    def oval(self, x: float, y: float, across: float, down: float, fill: Colour, *, line: Colour | None = _LINE) -> None:
        box = [value * _FINE for value in (x - across, y - down, x + across, y + down)]
        self._draw.ellipse(box, fill=fill, outline=line, width=_FINE)

    def line(self, points: list[tuple[float, float]], *, width: float = 1.2, colour: Colour = _LINE) -> None:
        self._draw.line([(x * _FINE, y * _FINE) for x, y in _smoothed(points, closed=False)], fill=colour, width=round(width * _FINE))


def _outline(width: float) -> list[tuple[float, float]]:
    right = [(0.0, 92.0), (width * 0.8, 108.0), (width, 145.0), (width * 0.85, 178.0), (width * 0.4, 200.0)]
    return [*((256 + x, y) for x, y in right), (256, 208), *((256 - x, y) for x, y in right[:0:-1])]


def _body(pen: _Pen, clothes: Colour, collar: Colour, skin: Colour) -> None:
    pen.shape([(168, 512), (178, 300), (196, 252), (236, 232), (276, 232), (316, 252), (334, 300), (344, 512)], clothes, smooth=True)
    pen.shape([(238, 196), (274, 196), (276, 236), (256, 262), (236, 236)], skin)
    pen.shape([(234, 228), (256, 262), (248, 280), (214, 244)], collar)
    pen.shape([(278, 228), (256, 262), (264, 280), (298, 244)], collar)


def _features(pen: _Pen, dice: random.Random, skin: Colour, hair: Colour, iris: Colour) -> None:
    tall, dark = dice.uniform(10, 14), _darker(hair, 0.6)
    for side in (-1, 1):
        x = 256 + side * 25.5
        pen.oval(x, 150, 13, tall, (255, 255, 255, 255), line=None)
        pen.oval(x, 151, 8.5, tall - 1, iris, line=_darker(iris, 0.5))
        pen.oval(x, 152, 4, tall * 0.45, (30, 20, 30, 255), line=None)
        pen.oval(x - 3, 146, 2.6, 3.2, (255, 255, 255, 255), line=None)
        pen.line([(x - 14, 146), (x - 8, 150 - tall), (x + 8, 150 - tall), (x + 14, 146)], width=2.6)
        pen.line([(x - 9, 151 + tall), (x + 9, 151 + tall)], width=0.8)
        pen.line([(x - side * 12, 126), (x, 123), (x + side * 13, 127 + dice.uniform(-2, 2))], width=1.8, colour=dark)
        pen.oval(256 + side * 33, 174, 9, 5, _blush(skin), line=None)
    pen.line([(255, 168), (258, 172), (255, 173)], width=0.9)


def _mouth(pen: _Pen, dice: random.Random, opening: float) -> None:
    wide, low = dice.uniform(8, 13), 190 + dice.uniform(0, 2)
    if opening > 0:
        across = wide * (1 - 0.2 * opening)
        pen.oval(256, 188 + 4 * opening, across, 1 + 7 * opening, (110, 30, 45, 255), line=_LIPS)
        pen.oval(256, 188 - 2 * opening, across * 0.7, 2 * opening, (245, 240, 235, 255), line=None)
    else:
        pen.line([(256 - wide, 187), (256, low), (256 + wide, 187)], width=1.6, colour=_LIPS)


def _fringe(pen: _Pen, dice: random.Random, width: float, hair: Colour) -> None:
    top = [(256 - width - 16, 150), (256 - width - 8, 100), (256 - width * 0.5, 66), (256, 54), (256 + width * 0.5, 66)]
    top += [(256 + width + 8, 100), (256 + width + 16, 150)]
    teeth, ends = dice.randint(4, 7), []
    for index in range(teeth):
        right = 256 + width - 2 * width * index / teeth
        ends += [(right, 118 + dice.uniform(-6, 2)), (right - width / teeth, 134 + dice.uniform(-8, 2))]
    pen.shape([*_smoothed(top, closed=False), (256 + width, 150), *ends, (256 - width, 118), (256 - width, 150)], hair)


def _smoothed(points: list[tuple[float, float]], *, closed: bool = True, parts: int = 8) -> list[tuple[float, float]]:
    """Through the points, by Catmull and Rom's spline."""
    count = len(points)
    around = [points[-1], *points, points[0], points[1]] if closed else [points[0], *points, points[-1]]
    curve = []
    for a, b, c, d in zip(around, around[1:], around[2:], around[3:], strict=False):
        for step in range(parts):
            t = step / parts
            curve.append(tuple(_spline(a[i], b[i], c[i], d[i], t) for i in (0, 1)))
    return [(x, y) for x, y in (curve if closed else [*curve, points[count - 1]])]


def _spline(a: float, b: float, c: float, d: float, t: float) -> float:
    return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))


def _colour(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value))
    return red, green, blue, 255


def _darker(colour: Colour, share: float) -> Colour:
    return round(colour[0] * share), round(colour[1] * share), round(colour[2] * share), 255


def _blush(skin: Colour) -> Colour:
    return skin[0], round(skin[1] * 0.85), round(skin[2] * 0.85), 255
