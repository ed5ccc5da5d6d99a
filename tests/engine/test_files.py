"""Picture files: exact levels, nothing but pixels, never over another file."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from stillguard.engine.files import decode_picture, encode_picture, write_new
from stillguard.engine.picture import to_levels
from stillguard.engine.purify.edits import JPEGFile, WebPFile
from stillguard.engine.transforms import Transform
from torch import Tensor


def png_chunks(data: bytes) -> list[str]:
    position, names = 8, []
    while position < len(data):
        length, name = struct.unpack(">I4s", data[position : position + 8])
        names.append(name.decode())
        position += length + 12
    return names


def webp_chunks(data: bytes) -> list[str]:
    position, names = 12, []
    while position < len(data):
        name, length = struct.unpack("<4sI", data[position : position + 8])
        names.append(name.decode())
        position += 8 + length + length % 2
    return names


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["png", "webp"]), st.sampled_from([1, 3, 4]), st.integers(1, 30), st.integers(1, 30), st.integers(0, 99))
def test_levels_survive_exactly(format: str, channels: int, height: int, width: int, seed: int) -> None:
    """Colour under transparent pixels included; WebP stores greyscale as three equal channels."""
    image = torch.rand(channels, height, width, generator=torch.Generator().manual_seed(seed))
    if channels == 4:
        image[3] = (image[3] > 0.5).float()
    decoded = decode_picture(encode_picture(image, format))
    expected = to_levels(image) / 255
    if channels == 4 and decoded.shape[0] == 3:  # an entirely opaque alpha may be left out
        assert bool((expected[3] == 1).all())
        expected = expected[:3]
    assert torch.equal(decoded, expected.expand_as(decoded))


def test_a_file_holds_pixels_only(astronaut: Tensor) -> None:
    assert set(png_chunks(encode_picture(astronaut[0], "png"))) == {"IHDR", "IDAT", "IEND"}
    assert set(webp_chunks(encode_picture(astronaut[0], "webp"))) == {"VP8L"}


@pytest.mark.parametrize("format", ["png", "webp"])
def test_text_is_kept_when_asked_for(format: str, astronaut: Tensor) -> None:
    data = encode_picture(astronaut[0], format, text={"prompt": "{}", "workflow": '{"a": 1}', "another": "[]"})
    with Image.open(io.BytesIO(data)) as picture:
        found = dict(picture.text) if format == "png" else dict(v.split(":", 1) for v in picture.getexif().values())
    assert found == {"prompt": "{}", "workflow": '{"a": 1}', "another": "[]"}
    assert torch.equal(decode_picture(data), astronaut[0])


def test_never_overwrites(tmp_path: Path) -> None:
    write_new(tmp_path / "a.png", b"first")
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "a.png", b"second")
    assert (tmp_path / "a.png").read_bytes() == b"first"


def _photo() -> np.ndarray:
    """Red above, green at the left, so that every turn and mirror image is another picture."""
    levels = np.zeros((40, 60, 3), np.uint8)
    levels[:10], levels[:, :5] = (255, 0, 0), (0, 255, 0)
    return levels


def _file(picture: Image.Image, format: str = "PNG", **settings: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **settings)
    return buffer.getvalue()


def _levels(data: bytes) -> np.ndarray:
    return (decode_picture(data) * 255).round().byte().permute(1, 2, 0).numpy()


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "WEBP", "JPEG"])
def test_a_photo_that_its_exif_turns_is_turned(format: str, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    settings = {"PNG": {}, "WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}[format]
    data = _file(Image.fromarray(_photo()), format, exif=exif.tobytes(), **settings)
    expected = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")).astype(int)
    assert _levels(data).shape == expected.shape == ((40, 60, 3) if turn < 5 else (60, 40, 3))
    assert np.abs(_levels(data) - expected).max() == 0


@pytest.mark.parametrize("kind", ["palette", "grey with alpha", "a transparent colour", "a transparent grey"])
def test_transparency_of_every_kind_is_kept(kind: str) -> None:
    cut = np.dstack([_photo(), np.full((40, 60), 255, np.uint8)])
    cut[20:, :, 3] = 0
    picture, settings = Image.fromarray(cut), {}
    match kind:
        case "palette":
            picture = picture.quantize(16)
        case "grey with alpha":
            picture = picture.convert("LA")
        case "a transparent colour":
            picture, settings = picture.convert("RGB"), {"transparency": (255, 0, 0)}
        case _:
            picture, settings = picture.convert("L"), {"transparency": 0}
    data = _file(picture, **settings)
    expected = np.array(Image.open(io.BytesIO(data)).convert("RGBA"))
    assert 0 < (expected[..., 3] == 0).mean() < 1
    assert np.array_equal(_levels(data), expected)


def test_grey_of_sixteen_bits_keeps_them() -> None:
    ramp = np.linspace(0, 65535, 40 * 60).round().astype(np.uint16).reshape(40, 60)
    decoded = decode_picture(_file(Image.fromarray(ramp)))
    assert np.array_equal((decoded[0].double().numpy() * 65535).round(), ramp)


@pytest.mark.parametrize("format", ["png", "webp"])
def test_only_own_files_may_be_larger_than_foreign_ones(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's guard against files that unpack to more than the memory holds, here at a thousand pixels."""
    image = torch.rand(3, 60, 60, generator=torch.Generator().manual_seed(0))
    data = encode_picture(image, format)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(Image.DecompressionBombError):
        decode_picture(data)
    assert torch.equal(decode_picture(data, own=True), to_levels(image) / 255)
    assert Image.MAX_IMAGE_PIXELS == 1000


@pytest.mark.parametrize("edit", [JPEGFile(90), WebPFile(90)])
def test_an_edit_through_a_file_may_be_larger_too(edit: Transform, monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.rand(1, 3, 60, 60, generator=torch.Generator().manual_seed(0))
    expected = edit(image)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert torch.equal(edit(image), expected)
