"""The first part of the demo's page."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from bench.face_story import FaceAttack, animation, cropped, face_part, read_rows, verdict
from bench.paths import BenchError
from bench.story import Attack, story
from PIL import Image
from stillguard.engine.metrics.comparison import Comparison, Reading, Row, as_json

RANDOM = np.random.default_rng(0)
SIDE = 32


def obedience(protected: float | None, noise: float | None, spread: float = 0.02) -> Row:
    def reading(value: float | None) -> Reading:
        return Reading(None, why="The video hardly moves.") if value is None else Reading(value, value - spread, value + spread, 24)

    return Row("Obedience", "share", "more obedient", "clean", {"protected": reading(protected), "noise": reading(noise)})


def face(**parts: list[Row]) -> FaceAttack:
    ramp = np.linspace(0, 255, SIDE).round().astype(np.uint8)
    clean = np.stack([*np.meshgrid(ramp, ramp), np.full((SIDE, SIDE), 99, np.uint8)], -1)
    photos = {"clean": clean, "noise": clean ^ 1, "protected": clean.copy()}
    photos["protected"][3, 4, 2] += 5
    frames = np.stack([np.roll(np.concatenate(list(photos.values()), axis=1), 4 * step, axis=0) for step in range(5)])
    return FaceAttack(photos, Attack("face animator", True, frames), parts or {"mouth and eyes": [obedience(0.1, 0.98)]}, 8.0)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (
            {"mouth and eyes": (0.09, 0.99)},
            "The protected face no longer obeys: of the movement of mouth and eyes 9 % (7 to 11) is",
        ),
        (
            {"mouth and eyes": (0.09, 0.99), "the head": (0.85, 1.0)},
            "The protected face no longer obeys with mouth and eyes: of the",
        ),
        ({"mouth and eyes": (0.5, 0.99), "the head": (0.99, 1.0)}, "The protected face obeys less with mouth and eyes: of the"),
        (
            {"mouth and eyes": (0.5, 0.99), "the head": (0.5, 1.0)},
            "The protected face obeys less: of the movement of mouth and eyes 50 %",
        ),
        (
            {"mouth and eyes": (0.98, 0.99), "the head": (0.99, 1.0)},
            "The protected face obeys about as the noisy one does: of the",
        ),
        # Noise that stops the face too leaves nothing for the method to be praised for.
        ({"mouth and eyes": (0.2, 0.2)}, "The protected face obeys about as the noisy one does: of the movement of mouth and eyes 20 %"),
        (
            {"mouth and eyes": (None, 0.9)},
            "Whether the protected face obeys with mouth and eyes could not be said (not measured: The",
        ),
    ],
)
def test_the_verdict_is_what_was_measured(parts: dict[str, tuple[float | None, float | None]], said: str) -> None:
    sentence = verdict({part: obedience(*values) for part, values in parts.items()})
    assert sentence.startswith(said)
    assert sentence.endswith(".")
    if None not in parts["mouth and eyes"]:
        assert all(f"of the movement of {part} " in sentence for part in parts)


def test_rows_come_back_from_a_report(tmp_path: Path) -> None:
    infinite = Row("PSNR", "dB", "more alike", "clean", {"noise": Reading(float("inf"), n=2, items=(float("inf"), 30.0))})
    given = (obedience(0.1, None), infinite)
    compared = Comparison("head", True, 2, (8, 8), given, {}, ())
    (tmp_path / "report.json").write_text(json.dumps({"victims": [as_json(compared)]}), encoding="utf-8")
    (name, rows), *others = read_rows(tmp_path / "report.json").items()
    assert (name, others) == ("head", [])
    assert [row.name for row in rows] == ["Obedience", "PSNR"]
    assert asdict(rows[0]) == asdict(given[0])
    assert rows[1].readings["noise"].value == float("inf")


def test_the_moving_picture_holds_head_and_shoulders_of_all_three_in_step() -> None:
    frames = face().attack.frames
    parts = cropped(frames)
    assert parts.shape == (5, 20, 60, 3)
    for index in range(3):
        assert np.array_equal(parts[:, :, 20 * index : 20 * index + 20], frames[:, 2:22, 32 * index + 6 : 32 * index + 26])
    moving = Image.open(io.BytesIO(animation(frames, 8.0)))
    assert (moving.format, getattr(moving, "n_frames", 1), moving.info["loop"]) == ("WEBP", 5, 0)
    moving.seek(3)
    shown = np.array(moving.convert("RGB"))
    assert moving.info["duration"] == 125
    # WebP is lossy, so the frame is the one that it is nearest to.
    assert np.abs(shown - parts.astype(float)).mean(axis=(1, 2, 3)).argmin() == 3


def test_the_part_leads_the_page_and_needs_nothing_else() -> None:
    given = face(**{"mouth & eyes": [obedience(0.1, 0.98), Row("LPIPS", "", "less alike", "clean", obedience(0.2, 0.3).readings)]})
    lead = face_part(given)
    pictures = {name: np.zeros((8, 8, 3), np.uint8) for name in ("clean", "noise", "protected")}
    page = story(pictures, pictures["clean"], [Attack("unet", False, np.zeros((2, 8, 24, 3), np.uint8))], lead=lead)
    assert not re.search(r"https?:|<script|<link|url\(", page)
    assert page.index("data:image/webp") < page.index('class="verdict"') < page.index('type="range"') < page.index("In the laboratory")
    assert "moved by more\nthan 5 of 255 levels" in page
    assert "<td>Obedience: mouth &amp; eyes</td><td>98 % (96 to 100)</td><td>10 % (8 to 12)</td>" in page
    assert "<td>LPIPS: mouth &amp; eyes</td><td>0.3000 (0.2800 to 0.3200)</td>" in page
    shown = [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r"base64,([^\"]+)", lead)]
    assert [np.array_equal(np.array(picture), given.photos[name]) for picture, name in zip(shown[1:], ("clean", "protected"), strict=False)]


def test_a_report_without_obedience_gives_no_verdict() -> None:
    with pytest.raises(BenchError, match="The report has no obedience of head; restore the workflow"):
        face_part(face(head=[]))
