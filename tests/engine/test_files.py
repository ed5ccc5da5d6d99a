"""Picture files: exact levels, nothing but pixels, never over another file."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from stillguard.engine.files import decode_picture, encode_picture, write_new
from stillguard.engine.picture import to_levels
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
