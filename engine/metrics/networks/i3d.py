"""I3D of Kinetics-400 (Carreira and Zisserman 2017): the network of FVD, in the layout of i3d_pretrained_400.pt."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .frozen import FrozenNorm, load_frozen

SIDE = 224
"""Of the frames."""

# Channels of each mixed block: 1x1; 1x1, 3x3; 1x1, 3x3; 1x1 after the pooling. A pooling stands between the groups.
_MIXED = (
    {"3b": (64, 96, 128, 16, 32, 32), "3c": (128, 128, 192, 32, 96, 64)},
    {
        "4b": (192, 96, 208, 16, 48, 64),
        "4c": (160, 112, 224, 24, 64, 64),
        "4d": (128, 128, 256, 24, 64, 64),
        "4e": (112, 144, 288, 32, 64, 64),
        "4f": (256, 160, 320, 32, 128, 128),
    },
    {"5b": (256, 160, 320, 32, 128, 128), "5c": (384, 192, 384, 48, 128, 128)},
)


class I3D(nn.Module):
    """[n,3,T,224,224] in [-1,1], T of 8 or more -> [n,400], the logits of Kinetics' classes in alphabetical order.

    Padding is TensorFlow's "same". Logits are averaged over time one by one, as DisCo does; the original averages neighbours first,
    which is the same for 16 frames.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = _Unit(3, 64, 7, stride=2)
        self.Conv3d_2b_1x1 = _Unit(64, 64, 1)
        self.Conv3d_2c_3x3 = _Unit(64, 192, 3)
        inputs = 192
        for group in _MIXED:
            for name, channels in group.items():
                self.add_module(f"Mixed_{name}", _Mixed(inputs, channels))
                inputs = channels[0] + channels[2] + channels[4] + channels[5]
        self.logits = nn.ModuleDict({"conv3d": nn.Conv3d(inputs, 400, 1)})

    def forward(self, video: Tensor) -> Tensor:
        maps = _max_pool(self.Conv3d_1a_7x7(video), (1, 3, 3), (1, 2, 2))
        maps = _max_pool(self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(maps)), (1, 3, 3), (1, 2, 2))
        maps = _max_pool(self._mixed(maps, 0), (3, 3, 3), (2, 2, 2))
        maps = _max_pool(self._mixed(maps, 1), (2, 2, 2), (2, 2, 2))
        maps = F.avg_pool3d(self._mixed(maps, 2), (1, 7, 7), stride=1)
        return self.logits["conv3d"](maps).mean(dim=(2, 3, 4))  # type: ignore[no-any-return]

    def _mixed(self, maps: Tensor, group: int) -> Tensor:
        for name in _MIXED[group]:
            maps = self.get_submodule(f"Mixed_{name}")(maps)
        return maps


def load_i3d(path: Path) -> I3D:
    """Read i3d_pretrained_400.pt, or its tensors as safetensors. Raises WeightsError, one sentence, for another file."""
    return load_frozen(I3D, path, what="I3D of Kinetics-400 in PyTorch's layout")


class _Unit(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride=stride, bias=False)
        self.bn = FrozenNorm(outputs, 1e-3)

    def forward(self, maps: Tensor) -> Tensor:
        padded = _pad_same(maps, self.conv3d.kernel_size, self.conv3d.stride)
        return self.bn(self.conv3d(padded)).relu()  # type: ignore[no-any-return]


class _Mixed(nn.Module):
    def __init__(self, inputs: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.b0 = _Unit(inputs, channels[0], 1)
        self.b1a, self.b1b = _Unit(inputs, channels[1], 1), _Unit(channels[1], channels[2], 3)
        self.b2a, self.b2b = _Unit(inputs, channels[3], 1), _Unit(channels[3], channels[4], 3)
        self.b3b = _Unit(inputs, channels[5], 1)

    def forward(self, maps: Tensor) -> Tensor:
        pooled = _max_pool(maps, (3, 3, 3), (1, 1, 1))
        return torch.cat([self.b0(maps), self.b1b(self.b1a(maps)), self.b2b(self.b2a(maps)), self.b3b(pooled)], 1)


def _max_pool(maps: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    # Padding with zeros is harmless: no map is negative here.
    return F.max_pool3d(_pad_same(maps, kernel, stride), kernel, stride)


def _pad_same(maps: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """So that ceil(length/stride) remain of each length; what cannot be halved is added at the end."""
    pads: list[int] = []
    for length, size, step in zip(reversed(maps.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        missing = max(size - (length % step or step), 0)
        pads += [missing // 2, missing - missing // 2]
    return F.pad(maps, pads)
