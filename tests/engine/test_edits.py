"""Edits against SciPy, NumPy and Pillow's own calls, and for what all of them promise."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from goldens import baselines_edits
from goldens.folder import Folder
from PIL import Image
from scipy import ndimage
from stillguard.engine.purify.edits import (
    BitSqueeze,
    Brightness,
    Contrast,
    Erase,
    JPEGFile,
    MedianBlur,
    OpenCVBlur,
    RoundedNoise,
    SaltAndPepper,
    WebPFile,
)
from stillguard.engine.purify.geometry import Crop, Resize, Rotate
from stillguard.engine.purify.pipelines import PIPELINES, Pipeline
from stillguard.engine.transforms import Transform
from torch import Tensor

EACH = [
    JPEGFile(60),
    JPEGFile(60, "4:4:4"),
    WebPFile(40),
    OpenCVBlur(5),
    OpenCVBlur(3, 2.0),
    RoundedNoise(0.05, 3),
    RoundedNoise(0.05, 4),
    MedianBlur(3),
    BitSqueeze(3),
    BitSqueeze(3, "cut"),
    Resize(0.5),
    Resize(0.5, "bilinear"),
    Resize(0.7, back=False),
    Resize(0.5, meanwhile=(JPEGFile(50),)),
    Crop(0.75),
    Crop(0.75, back=True),
    Rotate(22.5),
    Brightness(1.5),
    Contrast(1.5),
    SaltAndPepper(0.05, 1),
    Erase(0.125, 1),
    *PIPELINES.values(),
]


def levels(image: Tensor) -> np.ndarray:
    """[1,C,H,W] in [0,1] -> [H,W,C] 0..255."""
    return (image[0] * 255).round().byte().permute(1, 2, 0).numpy()


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * (a - b).square().mean().log10())


@pytest.fixture(scope="module")
def photo(astronaut: Tensor) -> Tensor:
    return astronaut[..., 30:151, 60:193].contiguous()


def test_equals_the_numbers_of_opencv_pillow_and_numpy(shared: Path) -> None:
    rows = list(baselines_edits.checks(Folder(shared / "vectors" / "baselines")))
    assert len(rows) == 36
    assert not [row for row in rows if not row.passed]


@pytest.mark.parametrize("edit", EACH, ids=str)
def test_the_result_is_a_picture_of_8_bits_and_the_same_each_time(edit: Transform, photo: Tensor) -> None:
    batch = torch.cat([photo, 1 - photo])
    edited = edit(batch)
    assert torch.equal(edited, edit(batch))
    assert torch.equal(edited * 255, (edited * 255).round())
    assert 0 <= float(edited.min()) < float(edited.max()) <= 1
    assert edited.shape[:2] == batch.shape[:2]
    if not (isinstance(edit, Crop | Resize) and not edit.back):
        assert edited.shape == batch.shape
    assert not torch.equal(edited, batch)
    # Other values round to levels first, as a file does.
    torch.testing.assert_close(edit(batch + 0.4 / 255), edited, atol=1e-6, rtol=0)


@pytest.mark.parametrize("edit", EACH, ids=str)
def test_grey_pictures_stay_grey_and_small_ones_are_pictures_too(edit: Transform, photo: Tensor) -> None:
    grey = photo[:, :1]
    assert edit(grey).shape[1] == 1
    small = edit(photo[..., :6, :8])
    assert small.shape[1] == 3


def test_every_setting_stands_in_the_words() -> None:
    assert len({str(edit) for edit in EACH}) == len(EACH)
    assert str(Pipeline((RoundedNoise(0.05, 7), BitSqueeze(3)))) == (
        "Gaussian noise, sigma 0.05, seed 7 -> 3 bits per channel (nearest value)"
    )


def test_jpeg_is_the_encoder_and_keeps_colour_as_asked(photo: Tensor) -> None:
    buffer = io.BytesIO()
    Image.fromarray(levels(photo)).save(buffer, "JPEG", quality=75)
    assert np.array_equal(levels(JPEGFile(75)(photo)), np.array(Image.open(buffer)))
    errors = [psnr(JPEGFile(quality)(photo), photo) for quality in (10, 30, 50, 75, 90, 100)]
    assert errors == sorted(errors)
    stripes = torch.zeros(1, 3, 32, 32)
    stripes[:, 0, :, ::2] = stripes[:, 2, :, 1::2] = 1  # red and blue columns
    red = {kind: float((edited[:, 0, :, ::2] - edited[:, 0, :, 1::2]).mean()) for kind, edited in _subsampled(stripes).items()}
    # At half the resolution red and blue columns are one colour, apart from what their brightness tells.
    assert red["4:4:4"] > 0.9
    assert red["4:2:0"] < 0.4
    assert red["4:2:2"] < 0.4
    rows = {kind: float((edited[:, 0, ::2] - edited[:, 0, 1::2]).mean()) for kind, edited in _subsampled(stripes.mT.contiguous()).items()}
    assert rows["4:2:2"] > 0.9
    assert rows["4:2:0"] < 0.4


def _subsampled(image: Tensor) -> dict[str, Tensor]:
    return {kind: JPEGFile(100, kind)(image) for kind in ("4:4:4", "4:2:2", "4:2:0")}


def test_webp_loses_more_with_less_quality(photo: Tensor) -> None:
    errors = [psnr(WebPFile(quality)(photo), photo) for quality in (5, 30, 60, 90)]
    assert errors == sorted(errors)
    assert 20 < errors[0] < errors[-1] < 50


@pytest.mark.parametrize(("kernel", "sigma"), [(3, None), (5, 1.0), (9, None), (61, 10.0)])
def test_gaussian_blur_equals_scipys(kernel: int, sigma: float | None, photo: Tensor) -> None:
    width = 0.3 * ((kernel - 1) / 2 - 1) + 0.8 if sigma is None else sigma
    expected = levels(photo).astype(float)
    for axis in (0, 1):
        expected = ndimage.gaussian_filter1d(expected, width, axis=axis, mode="mirror", radius=kernel // 2)
    # Ties apart, rounding gives the same level.
    assert np.abs(levels(OpenCVBlur(kernel, sigma)(photo)) - expected).max() < 0.51


@pytest.mark.parametrize("kernel", [1, 3, 5, 9])
def test_median_equals_scipys_also_where_the_kernel_is_wider_than_the_picture(kernel: int, photo: Tensor) -> None:
    for image in (photo, photo[..., :3, :7]):
        expected = ndimage.median_filter(levels(image), size=(kernel, kernel, 1), mode="nearest")
        assert np.array_equal(levels(MedianBlur(kernel)(image)), expected)


@pytest.mark.parametrize("bits", range(1, 9))
def test_bit_squeeze_leaves_the_values_that_the_bits_have(bits: int) -> None:
    ramp = torch.arange(256).view(1, 1, 1, 256) / 255
    near, cut = (levels(BitSqueeze(bits, rounding)(ramp)).ravel().astype(int) for rounding in ("nearest", "cut"))
    assert set(near) == set(np.rint(np.linspace(0, 255, 2**bits)).astype(int))
    assert np.abs(near - np.arange(256)).max() <= 128 / (2**bits - 1) + 0.5
    assert np.array_equal(cut, np.arange(256) & (0x100 - 2 ** (8 - bits)))


def test_noise_has_its_size_and_differs_from_picture_to_picture() -> None:
    grey = torch.full((1, 3, 200, 200), 0.5)
    pipeline = Pipeline((RoundedNoise(0.05, seed=9),))
    first, second = pipeline.numbered(0)(grey), pipeline.numbered(1)(grey)
    # Five standard errors of a standard deviation over 120000 draws.
    assert float(first.std()) == pytest.approx(0.05, abs=5 * 0.05 / (2 * 120000) ** 0.5)
    assert abs(float((first * second).mean() - first.mean() * second.mean())) < 0.05**2 / 50
    assert torch.equal(second, RoundedNoise(0.05, seed=10)(grey))
    assert all(torch.equal(edit.numbered(5)(grey), edit(grey)) for edit in (Pipeline((JPEGFile(50), Crop(0.5))),))


def test_salt_and_pepper_leaves_all_other_pixels(photo: Tensor) -> None:
    grey = (photo * 100 / 255 + 0.25).mul(255).round().div(255)
    edited = SaltAndPepper(0.1, seed=2)(grey)
    white, black = (edited == 1).all(1), (edited == 0).all(1)
    count = white.numel()
    assert abs(int(white.sum()) - 0.05 * count) < 5 * (count * 0.05 * 0.95) ** 0.5
    assert abs(int(black.sum()) - 0.05 * count) < 5 * (count * 0.05 * 0.95) ** 0.5
    assert torch.equal(torch.where(white | black, 0, edited), torch.where(white | black, 0, grey))


@pytest.mark.parametrize("seed", range(5))
def test_erase_blackens_one_rectangle_of_its_share(seed: int, photo: Tensor) -> None:
    light = (photo / 2 + 0.5).mul(255).round().div(255)
    erased = Erase(0.125, seed)(light)
    black = (erased == 0).all(1)[0]
    rows, columns = black.any(1).sum(), black.any(0).sum()
    assert int(black.sum()) == int(rows * columns)
    assert int(black.sum()) / black.numel() == pytest.approx(0.125, abs=0.005)
    assert torch.equal(erased[..., ~black], light[..., ~black])


def test_a_resized_picture_has_the_size_and_what_the_filter_leaves(photo: Tensor) -> None:
    assert Resize(0.5, back=False)(photo).shape[-2:] == (60, 66)
    smooth = OpenCVBlur(31, 5.0)(photo)
    detail = {scale: psnr(Resize(scale)(photo), photo) for scale in (0.25, 0.5, 0.75)}
    assert detail[0.25] < detail[0.5] < detail[0.75]
    assert psnr(Resize(0.5)(smooth), smooth) > 45
    doubled = Resize(2.0, "nearest", back=False)(photo)
    assert torch.equal(doubled, photo.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_what_is_done_meanwhile_is_done_at_the_small_size(photo: Tensor) -> None:
    small = JPEGFile(30)(Resize(0.5, back=False)(photo))
    expected = Image.fromarray(levels(small)).resize((photo.shape[-1], photo.shape[-2]), Image.Resampling.LANCZOS)
    assert np.array_equal(levels(Resize(0.5, meanwhile=(JPEGFile(30),))(photo)), np.array(expected))


def test_crop_keeps_the_middle(photo: Tensor) -> None:
    height, width = photo.shape[-2:]
    assert (height, width) == (121, 133)
    assert torch.equal(Crop(0.5)(photo), photo[..., 30:90, 33:99])
    back = Crop(0.5, back=True)(photo)
    assert back.shape == photo.shape
    expected = Image.fromarray(levels(photo[..., 30:90, 33:99])).resize((width, height), Image.Resampling.LANCZOS)
    assert np.array_equal(levels(back), np.array(expected))


def test_rotation_is_counter_clockwise_and_leaves_black_corners(astronaut: Tensor) -> None:
    assert torch.equal(Rotate(90)(astronaut), astronaut.rot90(1, (2, 3)))
    tilted = Rotate(45)(astronaut / 2 + 0.5)
    assert all(float(tilted[..., y, x].max()) == 0 for y in (0, -1) for x in (0, -1))
    assert float(tilted[..., 128, 128].min()) >= 0.5


def test_brightness_and_contrast_scale_levels(photo: Tensor) -> None:
    before = levels(photo).astype(float)
    assert np.abs(levels(Brightness(1.5)(photo)) - np.clip(before * 1.5, 0, 255)).max() <= 1
    grey = float(np.rint((before @ [0.299, 0.587, 0.114]).mean()))
    assert np.abs(levels(Contrast(0.6)(photo)) - np.clip(grey + 0.6 * (before - grey), 0, 255)).max() <= 1
    for edit in (Brightness(1.0), Contrast(1.0)):
        assert torch.equal(edit(photo), photo)


def test_alpha_stays_or_moves_with_the_pixels(photo: Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    alpha = torch.randint(0, 256, (1, 1, *photo.shape[-2:]), generator=generator) / 255
    picture = torch.cat([photo, alpha], dim=1)
    for edit in (JPEGFile(10), WebPFile(10), RoundedNoise(0.3), Resize(0.25), Brightness(0.2), Erase(0.5), MedianBlur(5)):
        edited = Pipeline((edit,))(picture)
        assert torch.equal(edited[:, :3], edit(photo))
        assert torch.equal(edited[:, 3:], alpha)
    for edit in (Crop(0.5), Crop(0.5, back=True), Rotate(30), Resize(0.5, back=False)):
        edited = Pipeline((JPEGFile(90), edit))(picture)
        assert torch.equal(edited[:, :3], edit(JPEGFile(90)(photo)))
        assert torch.equal(edited[:, 3:], edit(alpha))
    turned = Pipeline((Rotate(45),))(torch.ones(1, 4, 64, 64))
    assert float(turned[0, 3, 0, 0]) == 0


def test_a_pipeline_is_its_steps_one_after_the_other(photo: Tensor) -> None:
    steps = (Resize(0.8, "bilinear"), JPEGFile(40), BitSqueeze(5))
    assert torch.equal(Pipeline(steps)(photo), steps[2](steps[1](steps[0](photo))))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: OpenCVBlur(4), "kernel 4 pixels wide has no middle pixel: choose an odd width"),
        (lambda: MedianBlur(0), "kernel 0 pixels wide has no middle pixel"),
        (lambda: OpenCVBlur(3, 0.0), "needs a sigma above 0"),
        (lambda: JPEGFile(0), "Quality goes from 1 to 100, not 0"),
        (lambda: WebPFile(101), "Quality goes from 1 to 100, not 101"),
        (lambda: JPEGFile(50, "4:1:1"), "no '4:1:1' here: choose one of 4:2:0, 4:2:2, 4:4:4"),
        (lambda: Resize(0.5, "sinc"), "no 'sinc' here: choose one of lanczos"),
        (lambda: BitSqueeze(9), "1 to 8 bits, not 9"),
        (lambda: Crop(0.0), "above 0 and is at most 1, not 0"),
        (lambda: SaltAndPepper(1.5), "above 0 and is at most 1, not 1.5"),
        (lambda: Crop(0.01)(torch.zeros(1, 3, 40, 40)), "Of a side of 40 pixels, 0.01 leaves nothing: keep more"),
        (lambda: Resize(0.01)(torch.zeros(1, 3, 40, 400)), "Of a side of 40 pixels, 0.01 leaves nothing: keep more"),
        (lambda: OpenCVBlur(9)(torch.zeros(1, 3, 40, 4)), "A kernel of 9 pixels is too wide for a picture of 4x40: choose a smaller"),
        (lambda: WebPFile(50)(torch.zeros(1, 1, 1, 16384)), "A WEBP file holds at most 16383 pixels a side, and the picture is 16384x1"),
        (lambda: JPEGFile(50)(torch.zeros(1, 1, 65501, 1)), "A JPEG file holds at most 65500 pixels a side"),
        (lambda: Pipeline((JPEGFile(50),))(torch.zeros(0, 3, 8, 8)), "There is no picture to transform"),
        (lambda: Pipeline((JPEGFile(50),))(torch.full((1, 3, 8, 8), torch.nan)), "pixels that are not numbers"),
        (lambda: Pipeline((JPEGFile(50),))(torch.zeros(1, 2, 8, 8)), "The picture has 2 channels: give"),
    ],
)
def test_nonsense_is_told_in_a_sentence(make: object, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make()
