"""Copies are found on their photo: made by Pillow, as attackers make them, from scikit-image's photos."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from stillguard.engine.baselines import random_signs
from stillguard.engine.metrics.registration import Placement, placement
from torch import Tensor

PHOTOS = {name: Image.fromarray(getattr(data, name)()).convert("RGB") for name in ("astronaut", "chelsea", "coffee", "rocket", "camera")}


def tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255


def protected(photo: Image.Image, levels: float = 8.0) -> Image.Image:
    noisy = random_signs(tensor(photo), levels, seed=0)[0]
    return Image.fromarray((noisy * 255).round().byte().permute(1, 2, 0).numpy())


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def cut(left: float, top: float, right: float, bottom: float) -> Callable[[Image.Image], Image.Image]:
    return lambda p: p.crop((round(left * p.width), round(top * p.height), round(right * p.width), round(bottom * p.height)))


def screenshot(picture: Image.Image) -> Image.Image:
    """The picture on a page."""
    page = Image.new("RGB", (round(picture.width * 1.6), round(picture.height * 1.5)), (240, 240, 240))
    page.paste(picture, (100, 60))
    return page


WHOLE: dict[str, Callable[[Image.Image], Image.Image]] = {
    "equal": lambda p: p,
    "JPEG 10": lambda p: jpeg(p, 10),
    "half": lambda p: p.resize((p.width // 2, p.height // 2), Image.Resampling.LANCZOS),
    "twice": lambda p: p.resize((2 * p.width, 2 * p.height), Image.Resampling.BICUBIC),
    "a little larger": lambda p: p.resize((round(p.width * 1.013), round(p.height * 1.01)), Image.Resampling.BILINEAR),
    "grey": lambda p: p.convert("L").convert("RGB"),
    "dark": lambda p: p.point(lambda level: level // 2),
}


@pytest.mark.parametrize("change", WHOLE.values(), ids=list(WHOLE))
@pytest.mark.parametrize("photo", PHOTOS.values(), ids=list(PHOTOS))
def test_the_whole_photo_is_known_in_any_size_and_compression(photo: Image.Image, change: Callable[[Image.Image], Image.Image]) -> None:
    assert placement(tensor(photo), tensor(change(protected(photo, 16.0)))) == Placement("whole")


@pytest.mark.parametrize(
    "box", [(0.01, 0.01, 0.99, 0.99), (0, 0, 0.95, 0.95), (0.1, 0.2, 0.8, 0.9), (0, 0.25, 1, 0.75), (0.3, 0.1, 0.7, 0.5)]
)
@pytest.mark.parametrize("name", ["astronaut", "chelsea"])
def test_a_crop_is_a_section_of_its_share(name: str, box: tuple[float, float, float, float]) -> None:
    photo, (left, top, right, bottom) = PHOTOS[name], box
    crop = jpeg(cut(*box)(protected(photo)), 75)
    for copy in (crop, crop.resize(photo.size, Image.Resampling.LANCZOS)):  # the second is squashed where the aspect is another
        found = placement(tensor(photo), tensor(copy))
        if copy is crop or abs((right - left) - (bottom - top)) < 1e-9:
            assert found.kind == "section"
            assert found.share == pytest.approx((right - left) * (bottom - top), rel=0.08)
        assert found.kind != "other photo" or copy is not crop


@pytest.mark.parametrize("name", ["astronaut", "chelsea"])
def test_a_screenshot_with_other_things_and_a_turned_copy_are_recognised(name: str) -> None:
    photo = PHOTOS[name]
    shown = placement(tensor(photo), tensor(screenshot(protected(photo))))
    assert shown.kind == "surrounded"
    assert shown.share == pytest.approx(1 / 2.4, rel=0.08)
    for turn in (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_90):
        assert placement(tensor(photo), tensor(protected(photo).transpose(turn))).kind == "turned"


def test_other_photos_are_known_as_such() -> None:
    """Mostly: where two are alike by chance it is not claimed."""
    kinds = [placement(tensor(a), tensor(b)).kind for a in PHOTOS.values() for b in PHOTOS.values() if a is not b]
    assert set(kinds) <= {"other photo", "unclear"}
    assert kinds.count("other photo") >= 0.8 * len(kinds)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 9), (4, 40, 3), (3, 64, 64)])
def test_photos_without_details_are_taken_for_the_whole(shape: tuple[int, int, int]) -> None:
    flat = torch.full((1, *shape), 0.5)
    assert placement(flat, random_signs(flat, 8.0, seed=0)).kind == "whole"
