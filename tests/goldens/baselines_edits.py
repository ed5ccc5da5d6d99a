"""Transformations of pictures against Pillow, OpenCV and NumPy: `b_transforms`, [H,W,3] in 8-bit levels unless said.

Not compared: OpenCV's JPEG (another build of the same encoder) and Pillow's box approximation of a Gaussian, which we do not offer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from unittest import mock

import torch
from stillguard.engine import transforms
from stillguard.engine.picture import to_levels
from stillguard.engine.purify.edits import BitSqueeze, JPEGFile, MedianBlur, OpenCVBlur, RoundedNoise
from stillguard.engine.purify.geometry import Resize
from stillguard.engine.transforms import Transform
from torch import Tensor

from .folder import Folder, Row, relative

EDITS: dict[str, tuple[Callable[[str], Transform], float]] = {
    # Other versions of the encoder and of the filters may round differently; both versions known here do not.
    r"jpeg_pil_q(\d+)": (lambda quality: JPEGFile(int(quality)), 1.0),
    r"median_(?:cv2|scipy|pil)_k(\d+)": (lambda kernel: MedianBlur(int(kernel)), 0.0),
    r"bits(\d)_round": (lambda bits: BitSqueeze(int(bits)), 0.0),
    r"bits(\d)_posterize": (lambda bits: BitSqueeze(int(bits), "cut"), 0.0),
    r"resize_half_(bilinear|bicubic|lanczos)": (lambda method: Resize(0.5, method, back=False), 1.0),
    r"resize_half_back_(bilinear|bicubic|lanczos)": (lambda method: Resize(0.5, method), 1.0),
    r"gaussian_cv2_k(\d+)_sigma_auto": (lambda kernel: OpenCVBlur(int(kernel)), 1.0),
}
"""Names in the set, of which one part sets the edit, and how many levels it may be off."""


def checks(folder: Folder) -> Iterator[Row]:
    if not folder.has("vectors/b_transforms"):
        return
    official = {name: _picture(values) for name, values in folder.vectors("b_transforms").items()}
    image = official["in_u8"] / 255
    for pattern, (edit, tolerance) in EDITS.items():
        for found in filter(None, (re.fullmatch(pattern, name) for name in official)):
            yield _levels(found[0], edit(found[1])(image), official[found[0]], tolerance)
    for found in filter(None, (re.fullmatch(r"gaussian_cv2_k(\d+)_sigma(\d+)_float", name) for name in official)):
        blurred = transforms.GaussianBlur(float(found[2]), int(found[1]))(image)
        yield relative(found[0], blurred, official[found[0]], 1e-5)
    for found in filter(None, (re.fullmatch(r"gaussian_noise_sigma(\d+p\d+)", name) for name in official)):
        with mock.patch.object(torch, "randn", return_value=official["noise"]):
            noisy = RoundedNoise(float(found[1].replace("p", ".")))(image)
        yield _levels(found[0], noisy, official[found[0]], 0.0)


def _picture(values: Tensor) -> Tensor:
    return values.permute(2, 0, 1)[None].float()


def _levels(name: str, ours: Tensor, official: Tensor, tolerance: float) -> Row:
    return Row(name, float((to_levels(ours) - official).abs().max()), tolerance, "8-bit levels")
