"""Pairs of photos of one person in two poses, cropped to squares, with their pose pictures.

The format is that of a folder with NNN_0.jpg and NNN_1.jpg and poses.npz (file name -> 33 MediaPipe landmarks: x, y as shares of the
picture, visibility). Pairs whose number is a multiple of ten are held out and never trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .pose_pictures import draw_pose

HELD_OUT_EVERY = 10
# MediaPipe's landmark for each of OpenPose's 18 body keypoints; the neck (1) lies between the shoulders.
_MEDIAPIPE = (0, -1, 12, 14, 16, 11, 13, 15, 24, 26, 28, 23, 25, 27, 5, 2, 8, 7)
_SHOULDERS = (11, 12)
# OpenPose's keypoints of a mirrored person.
MIRRORED = (0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16)
_VISIBLE = 0.3
_UPPER_BODY = 8  # nose, neck and arms come first


@dataclass(frozen=True)
class Pair:
    """pictures: [2,3,S,S] uint8, cut from the same place; keypoints: [2,18,3] in pixels of the square, with confidence."""

    number: int
    pictures: Tensor
    keypoints: np.ndarray

    def mirrored(self) -> Pair:
        keypoints = self.keypoints[:, MIRRORED].copy()
        keypoints[..., 0] = self.pictures.shape[-1] - 1 - keypoints[..., 0]
        return Pair(self.number, self.pictures.flip(-1), keypoints)

    def poses(self) -> Tensor:
        """[2,3,S,S] in [0,1]."""
        side = self.pictures.shape[-1]
        return torch.stack([draw_pose(points, side, side) for points in self.keypoints])


def is_held_out(number: int) -> bool:
    return number % HELD_OUT_EVERY == 0


def load_pairs(folder: Path, *, side: int, held_out: bool, least_change: float = 4.0, closer: float = 1.0) -> list[Pair]:
    """Pairs with both poses known, whose pictures differ by `least_change` 8-bit levels on average: others are one picture twice.

    Squares of the picture's short side around the person; with closer < 1, of that share of it, around the upper body.
    Raises SystemExit when there are none, and for pictures that cannot be read.
    """
    if not (folder / "poses.npz").is_file():
        raise SystemExit(f"There is no poses.npz in {folder}: give the folder with NNN_0.jpg, NNN_1.jpg and poses.npz with --data.")
    landmarks = np.load(folder / "poses.npz")
    pairs = []
    for first in sorted(folder.glob("[0-9]*_0.jpg")):
        number, second = int(first.stem.split("_")[0]), first.with_name(first.name.replace("_0", "_1"))
        if is_held_out(number) != held_out or not {first.name, second.name} <= set(landmarks.files):
            continue
        pair = _pair(number, (first, second), [landmarks[file.name] for file in (first, second)], side, closer)
        if pair is not None and float((pair.pictures[0].float() - pair.pictures[1].float()).abs().mean()) >= least_change:
            pairs.append(pair)
    if not pairs:
        raise SystemExit(f"No pairs with poses in {folder}: give the folder with NNN_0.jpg, NNN_1.jpg and poses.npz with --data.")
    return pairs


def _pair(number: int, files: tuple[Path, Path], landmarks: list[np.ndarray], side: int, closer: float) -> Pair | None:
    pictures = []
    for file in files:
        try:
            with Image.open(file) as opened:
                pictures.append(opened.convert("RGB"))
        except OSError as error:
            raise SystemExit(f"{file} is missing or no picture: restore it, or take the pair {number:03} out of the folder.") from error
    if pictures[0].size != pictures[1].size:
        return None
    width, height = pictures[0].size
    points = np.stack([openpose(marks) * (width, height, 1) for marks in landmarks])
    seen = points[..., 2] > 0
    if seen.sum(axis=1).min() < 4:
        return None
    short = round(closer * min(width, height))
    around = seen & (np.arange(18) < _UPPER_BODY) if closer < 1 else seen
    if not around.any():
        return None
    centre = points[around][:, :2].mean(axis=0)
    left, top = (int(np.clip(c - short / 2, 0, size - short)) for c, size in zip(centre, (width, height), strict=True))
    box = (left, top, left + short, top + short)
    squares = [np.array(picture.resize((side, side), Image.Resampling.LANCZOS, box=box)) for picture in pictures]
    points[..., :2] = (points[..., :2] - (left, top)) * (side / short)
    return Pair(number, torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).contiguous(), points)


def openpose(landmarks: np.ndarray) -> np.ndarray:
    """MediaPipe's [33,3] -> OpenPose's [18,3] in the same units; what is hardly visible gets confidence 0."""
    points = landmarks[list(_MEDIAPIPE)].astype(np.float64)
    points[1] = landmarks[list(_SHOULDERS)].mean(axis=0)
    points[1, 2] = landmarks[list(_SHOULDERS), 2].min()
    points[:, 2] = np.where(points[:, 2] >= _VISIBLE, points[:, 2], 0.0)
    return points
