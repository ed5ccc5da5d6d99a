"""Picture files: written from 8-bit levels without loss, never over another file."""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps, PngImagePlugin
from torch import Tensor

from .conversions import to_pillow

Format = Literal["png", "webp"]
WEBP_LONGEST = 16383
_unlimited = threading.Lock()


def encode_picture(image: Tensor, format: Format = "png", *, text: Mapping[str, str] | None = None) -> bytes:
    """One picture [C,H,W] in [0,1], C = 1, 3 or 4, as the bytes of a lossless file.

    The file holds pixels only, unless `text` is given: PNG text chunks, or for WebP an EXIF block with `name:value` strings.
    Raises ValueError when the picture is too large for WebP.
    """
    if format == "webp" and max(image.shape[-2:]) > WEBP_LONGEST:
        raise ValueError(f"WebP holds at most {WEBP_LONGEST} pixels a side and the picture has {max(image.shape[-2:])}: save it as png.")
    picture, buffer = to_pillow(image), io.BytesIO()
    if format == "png":
        info = PngImagePlugin.PngInfo()
        for name, value in (text or {}).items():
            info.add_text(name, value)
        picture.save(buffer, "PNG", pnginfo=info, compress_level=6)
    else:
        exif = picture.getexif()
        for offset, (name, value) in enumerate((text or {}).items()):
            # Where ComfyUI's page looks in WebP files: the tag Model (0x0110) and downwards, away from tags that hold numbers.
            exif[0x0110 - offset] = f"{name}:{value}"
        # exact keeps the colour under transparent pixels, which lossless alone does not.
        picture.save(buffer, "WEBP", lossless=True, exact=True, exif=exif.tobytes() if text else b"")
    return buffer.getvalue()


def decode_picture(data: bytes, *, own: bool = False) -> Tensor:
    """Bytes of a picture file -> [C,H,W] float in [0,1] as a viewer shows it, turned as its EXIF says.

    C is 1 for greyscale, which keeps a depth of 16 bits, 3, or 4 with transparency of any kind. Colour profiles are not applied.
    own: `encode_picture` made the bytes, which may then be of any size. Raises what Pillow raises: UnidentifiedImageError for what is
    no picture, DecompressionBombError for one of more pixels than a file from elsewhere is trusted with.
    """
    with open_own(data) if own else Image.open(io.BytesIO(data)) as stored:
        picture = ImageOps.exif_transpose(stored)
        if picture.mode.startswith("I"):
            array = np.asarray(picture).astype(np.float32) / 65535
        else:
            mode = "RGBA" if picture.has_transparency_data else "L" if picture.mode == "L" else "RGB"
            array = np.array(picture if picture.mode == mode else picture.convert(mode))
    values = torch.from_numpy(array if array.ndim == 3 else array[..., None]).permute(2, 0, 1)
    return values.clamp(0, 1) if values.is_floating_point() else values.float() / 255


def open_own(data: bytes) -> Image.Image:
    """A picture file that this process encoded, of any size: Pillow's limit guards against files from elsewhere."""
    # There is no way to ask for this but that limit, which all threads share: the second of two would take None for the usual one.
    with _unlimited:
        usual, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(data))
        finally:
            Image.MAX_IMAGE_PIXELS = usual


def write_new(path: Path, data: bytes) -> None:
    """Write a file that must not exist yet. Raises FileExistsError when it does."""
    with path.open("xb") as file:
        file.write(data)
