"""Pose pictures in the colours of OpenPose and DWPose, which pose-driven animators are trained on."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from ..engine.conversions import from_pillow

# OpenPose's 18 body keypoints: nose, neck, right shoulder, elbow, wrist, left ..., right hip, knee, ankle, left ..., eyes, ears.
LIMBS = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13)),
    *((1, 0), (0, 14), (14, 16), (0, 15), (15, 17)),
)
_FULL, _HALF = 255, 85
COLOURS = tuple(
    (round(r), round(g), round(b))
    for r, g, b in (
        *((_FULL, i * _HALF, 0) for i in range(4)),
        *((_FULL - i * _HALF, _FULL, 0) for i in range(1, 4)),
        *((0, _FULL, i * _HALF) for i in range(1, 4)),
        *((0, _FULL - i * _HALF, _FULL) for i in range(1, 4)),
        *((i * _HALF, 0, _FULL) for i in range(1, 4)),
        *((_FULL, 0, _FULL - i * _HALF) for i in range(1, 3)),
    )
)


def draw_pose(keypoints: np.ndarray, height: int, width: int, *, line: int | None = None) -> Tensor:
    """Keypoints [18,3] (x, y in pixels; confidence, 0 leaves one out) -> picture [3,H,W] in [0,1], limbs on black.

    line: half the width of a limb in pixels; by default that of DWPose at 512 pixels, scaled.
    """
    line = line or max(1, round(4 * max(height, width) / 512))
    canvas = np.zeros((height, width, 3), np.uint8)
    for limb, (first, second) in enumerate(LIMBS):
        if keypoints[first, 2] > 0 and keypoints[second, 2] > 0:
            layer = Image.new("L", (width, height))
            ends = [tuple(keypoints[first, :2]), tuple(keypoints[second, :2])]
            ImageDraw.Draw(layer).line(ends, fill=255, width=2 * line)
            canvas[np.array(layer) > 0] = COLOURS[limb]
    # DWPose draws limbs at 0.6 of their colour below full-coloured joints.
    picture = Image.fromarray((canvas * 0.6).astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for point, colour in zip(keypoints, COLOURS, strict=True):
        if point[2] > 0:
            pen.ellipse([point[0] - line, point[1] - line, point[0] + line, point[1] + line], fill=colour)
    return from_pillow(picture)
