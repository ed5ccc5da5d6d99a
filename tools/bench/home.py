"""The folder that the demo and `nox -s serve` share: an input photo and the weights, below the cache."""

from __future__ import annotations

import math
import struct
import wave
from pathlib import Path

from .paths import BENCH
from .weights import lpips_backbone

PHOTO = "astronaut.png"


def prepare_home(*, lpips: bool = True) -> Path:
    """Fill `.bench/demo` where something is missing and return it; outputs of earlier runs stay. lpips: with its weights."""
    base = BENCH / "demo"
    photo = base / "input" / PHOTO
    if not photo.is_file():
        save_astronaut(photo)
    save_example_poses(photo.parent)
    if lpips:
        lpips_backbone(base / "models" / "stillguard")
    return base


def save_example_poses(folder: Path) -> None:
    """`pose.png`, the example photo's pose, and `pose.mp4`, poses to move through; files that are there stay."""
    from .pose_clip import save_pose, save_pose_clip

    for name, save in (("pose.png", save_pose), ("pose.mp4", save_pose_clip)):
        if not (folder / name).is_file():
            save(folder / name)


def save_astronaut(path: Path, side: int = 512) -> None:
    """Eileen Collins, NASA, public domain; the picture, a square of 512 pixels, comes with scikit-image."""
    from PIL import Image
    from skimage.data import astronaut

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(astronaut()).resize((side, side), Image.Resampling.LANCZOS).save(path)


def save_voice(path: Path, seconds: int = 2, rate: int = 16000) -> None:
    """A tone, where a workflow wants the recording of a voice."""
    samples = (round(8000 * math.sin(2 * math.pi * 220 * i / rate)) for i in range(seconds * rate))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))
