"""An example pose of the example portrait, and a clip in which the head turns and the shoulders sway."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from stillguard.engine.conversions import to_pillow
from stillguard.lab.pose_pictures import draw_pose
from torch import Tensor

SIDE = 512
# x and y as shares of the side, by eye from scikit-image's astronaut; what the portrait does not show is left out.
SEEN = {0: (0.44, 0.235), 1: (0.44, 0.45), 2: (0.24, 0.52), 3: (0.10, 0.80), 5: (0.64, 0.52), 6: (0.78, 0.80)}
SEEN |= {14: (0.405, 0.195), 15: (0.475, 0.195), 16: (0.37, 0.225), 17: (0.52, 0.225)}
HEAD = (0, 14, 15, 16, 17)


def example_keypoints(phase: float = 0.0, side: int = SIDE) -> np.ndarray:
    """[18,3] as draw_pose takes them; phase 0 is the portrait's own pose, and 1 the end of a full sway."""
    points = np.zeros((18, 3))
    turn, sway = 0.04 * np.sin(2 * np.pi * phase), 0.02 * np.sin(4 * np.pi * phase)
    for index, (x, y) in SEEN.items():
        moved = (x + turn, y) if index in HEAD else (x + turn / 4, y + (sway if x < 0.44 else -sway))
        points[index] = (moved[0] * side, moved[1] * side, 1.0)
    return points


def example_pose(phase: float = 0.0) -> Tensor:
    """[3,512,512]; see example_keypoints."""
    picture: Tensor = draw_pose(example_keypoints(phase), SIDE, SIDE)
    return picture


def save_pose(path: Path) -> None:
    to_pillow(example_pose()).save(path)


def save_pose_clip(path: Path, frames: int = 16) -> None:
    """An MP4 at 8 frames a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(8), options={"crf": "12"})
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(np.asarray(to_pillow(example_pose(index / frames))), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
