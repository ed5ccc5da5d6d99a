"""What the demo does with a user's own picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bench import demo
from bench.home import DRAWING, PHOTO
from bench.paths import BenchError
from PIL import Image


def prompt() -> dict[str, dict[str, object]]:
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": DRAWING}},
        "2": {"class_type": "StillguardFramePortrait", "inputs": {"place": "already framed", "image": ["1", 0]}},
        "3": {"class_type": "LoadImage", "inputs": {"image": PHOTO}},
    }


def test_the_users_portrait_takes_the_drawings_place_with_its_head_where_he_says() -> None:
    given = prompt()
    demo.use_portrait(given, "mine.png", [0.5, 0.2, 0.25])
    assert [given[key]["inputs"]["image"] for key in "13"] == ["mine.png", PHOTO]
    places = {"place": "by hand", "place.x": 0.5, "place.y": 0.2, "place.height": 0.25}
    assert given["2"]["inputs"] == {"image": ["1", 0], **places}
    untouched = prompt()
    demo.use_portrait(untouched, None, None)
    assert untouched == prompt()


def test_the_part_with_the_real_animator_says_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "face_animator", lambda folder: folder)
    colours = {"RGB": (9, 9, 9), "RGBA": (9, 9, 9, 0)}
    for mode, colour in colours.items():
        Image.new(mode, (8, 8), colour).save(tmp_path / f"{mode}.png")
    assert demo._why_no_face(None, tmp_path) == demo._why_no_face(tmp_path / "RGBA.png", tmp_path) == ""
    assert demo._why_no_face(tmp_path / "RGB.png", tmp_path).endswith("give a picture with a transparent background.")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(BenchError, match=r"text\.png is not a picture that can be read; give a PNG, WebP or JPEG file"):
        demo._why_no_face(tmp_path / "text.png", tmp_path)

    def unreachable(folder: Path) -> Path:
        raise BenchError("pip could not download it; check the network and pip's settings, then try again.")

    monkeypatch.setattr(demo, "face_animator", unreachable)
    assert demo._why_no_face(None, tmp_path) == "pip could not download it; check the network and pip's settings, then try again."


def test_what_is_transparent_in_the_file_is_white_on_the_page(tmp_path: Path) -> None:
    levels = np.full((4, 4, 4), 90, np.uint8)
    levels[..., 3] = [0, 255, 255, 0]
    Image.fromarray(levels).save(tmp_path / "cut.png")
    shown = demo._on_white(np.full((4, 4, 3), 50, np.uint8), tmp_path / "cut.png")
    assert shown[0, :, 0].tolist() == [255, 50, 50, 255]
