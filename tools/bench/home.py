"""The folder that the demo and `nox -s serve` share: an input photo and the weights, below the cache."""

from __future__ import annotations

import math
import shutil
import struct
import wave
from pathlib import Path

from .paths import BENCH
from .weights import face_animator, lpips_backbone

PHOTO, DRAWING = "astronaut.png", "drawn_portrait.png"


def prepare_home(*, weights: bool = True) -> Path:
    """Fill `.bench/demo` where something is missing and return it; outputs of earlier runs stay. weights: with those of LPIPS and faces."""
    base = BENCH / "demo"
    photo = base / "input" / PHOTO
    if not photo.is_file():
        save_astronaut(photo)
    save_example_poses(photo.parent)
    save_drawing(photo.parent)
    if weights:
        for fetch in (lpips_backbone, face_animator):
            fetch(base / "models" / "stillguard")
    return base


def save_example_poses(folder: Path) -> None:
    """`pose.png`, the example photo's pose, and `pose.mp4`, poses to move through; files that are there stay."""
    from .pose_clip import save_pose, save_pose_clip

    for name, save in (("pose.png", save_pose), ("pose.mp4", save_pose_clip)):
        if not (folder / name).is_file():
            save(folder / name)


def save_drawing(folder: Path) -> None:
    """A portrait that was drawn for this project, 512x512 with transparency, framed as the face animator expects it."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / DRAWING).is_file():
        shutil.copyfile(Path(__file__).with_name("media") / DRAWING, folder / DRAWING)


def save_astronaut(path: Path, side: int = 512) -> None:
    """Eileen Collins, NASA, public domain; the picture, a square of 512 pixels, comes with scikit-image."""
    from PIL import Image
    from skimage.data import astronaut

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(astronaut()).resize((side, side), Image.Resampling.LANCZOS).save(path)


def save_voice(path: Path, seconds: int = 2, rate: int = 16000, tone: int = 220) -> None:
    """A tone, where a workflow wants the recording of a voice. tone: in Hz."""
    samples = (round(8000 * math.sin(2 * math.pi * tone * i / rate)) for i in range(seconds * rate))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))
