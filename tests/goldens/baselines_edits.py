"""Transformations of pictures against Pillow, OpenCV and NumPy: `b_transforms`, [H,W,3] in 8-bit levels unless said.

Not compared: OpenCV's JPEG (another build of the same encoder) and Pillow's box approximation of a Gaussian, which we do not offer.
"""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import torch
from stillguard.engine import transforms
from stillguard.engine.picture import to_levels
from stillguard.engine.purify.edits import BitSqueeze, GaussianBlur, GaussianNoise, JPEGFile, MedianBlur, Resize
from torch import Tensor

from .folder import Folder, Row, relative

METHODS = ("bilinear", "bicubic", "lanczos")


def checks(folder: Folder) -> Iterator[Row]:
    if not folder.has("vectors/b_transforms"):
        return
    official = {name: _picture(values) for name, values in folder.vectors("b_transforms").items()}
    image = official["in_u8"] / 255
    # Other versions of the encoder may round differently; both versions known here do not.
    exact = {f"jpeg_pil_q{quality}": JPEGFile(quality) for quality in (10, 30, 50, 75, 90)}
    exact |= {f"median_{maker}_k{kernel}": MedianBlur(kernel) for kernel in (3, 5, 7, 9) for maker in ("cv2", "scipy")}
    exact |= {"median_pil_k3": MedianBlur(3)}
    exact |= {f"bits{bits}_round": BitSqueeze(bits) for bits in range(3, 8)}
    exact |= {f"bits{bits}_posterize": BitSqueeze(bits, "cut") for bits in range(3, 8)}
    exact |= {f"resize_half_{method}": Resize(0.5, method, back=False) for method in METHODS}
    exact |= {f"resize_half_back_{method}": Resize(0.5, method) for method in METHODS}
    libraries = ("jpeg_", "resize_")
    for name, edit in exact.items():
        yield _levels(name, edit(image), official[name], 1.0 if name.startswith(libraries) else 0.0)
    for kernel in (3, 5, 7, 9):
        name = f"gaussian_cv2_k{kernel}_sigma_auto"
        yield _levels(name, GaussianBlur(kernel)(image), official[name], 1.0)
    blurred = transforms.GaussianBlur(1.0, 5)(image)
    yield relative("gaussian_cv2_k5_sigma1_float", blurred, official["gaussian_cv2_k5_sigma1_float"], 1e-5)
    with mock.patch.object(torch, "randn", return_value=official["noise"]):
        noisy = GaussianNoise(0.05)(image)
    yield _levels("gaussian_noise_sigma0p05", noisy, official["gaussian_noise_sigma0p05"], 0.0)


def _picture(values: Tensor) -> Tensor:
    return values.permute(2, 0, 1)[None].float()


def _levels(name: str, ours: Tensor, official: Tensor, tolerance: float) -> Row:
    return Row(name, float((to_levels(ours) - official).abs().max()), tolerance, "8-bit levels")
