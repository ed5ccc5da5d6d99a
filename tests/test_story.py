"""The demo's page."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from bench.story import Attack, numbers, psnr, story, write_new_page
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

RANDOM = np.random.default_rng(0)
PICTURES = {name: RANDOM.integers(0, 256, (32, 32, 3), np.uint8) for name in ("clean", "noise", "protected")}


def attack(name: str = "animator <1>", *, surrogate: bool = True) -> Attack:
    return Attack(name, surrogate, RANDOM.integers(0, 256, (9, 32, 96, 3), np.uint8))


def test_psnr_is_scikit_images() -> None:
    assert psnr(PICTURES["clean"], PICTURES["noise"]) == pytest.approx(
        peak_signal_noise_ratio(PICTURES["clean"], PICTURES["noise"], data_range=255)
    )
    assert psnr(PICTURES["clean"], PICTURES["clean"]) == float("inf")


def test_numbers_compare_each_video_with_the_clean_one() -> None:
    frames = RANDOM.integers(0, 256, (4, 8, 24, 3), np.uint8)
    frames[:, :, 16:] = frames[:, :, :8]  # the protected video is the clean one
    photo, video = numbers(PICTURES, [Attack("x", False, frames)])
    assert photo[0] == "the photo itself"
    assert video[0] == "x (never seen by the protection)"
    assert video[2] == "inf dB"
    expected = peak_signal_noise_ratio(frames[:, :, :8], frames[:, :, 8:16], data_range=255)
    assert video[1] == f"{expected:.1f} dB"


def test_the_page_holds_everything_itself_and_runs_nothing() -> None:
    given = attack()
    page = story(PICTURES, PICTURES["noise"], [given, attack("unet", surrogate=False)])
    assert not re.search(r"https?:|<script|<link|url\(", page)
    assert "animator &lt;1&gt; (surrogate)" in page
    assert "unet (black box)" in page
    shown = [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r"base64,([^\"]+)", page)]
    for picture, expected in zip(shown, PICTURES.values(), strict=False):
        assert np.array_equal(np.array(picture), expected)
    moving = shown[4]
    assert getattr(moving, "n_frames", 1) == 9
    moving.seek(8)
    assert np.array_equal(np.array(moving.convert("RGB")), given.frames[8])


def test_the_page_says_how_far_pixels_really_moved() -> None:
    clean = np.full((32, 32, 3), 100, np.uint8)
    moved = {**dict.fromkeys(("clean", "noise"), clean), "protected": clean.copy()}
    moved["protected"][3, 4, 1] = 88
    assert "moved by more than 12 of 255 levels" in story(moved, clean, [attack()])


def test_an_earlier_page_is_never_overwritten(tmp_path: Path) -> None:
    assert [write_new_page(tmp_path, text).name for text in "ab"] == ["story_00001.html", "story_00002.html"]
    assert (tmp_path / "story_00001.html").read_text() == "a"
