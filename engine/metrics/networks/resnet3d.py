"""The 3-D ResNet-50 of FID-VID (Hara et al. 2018), in the layout of resnet-50-kinetics.pth."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from .frozen import FrozenNorm, load_frozen

SIDE = 112
"""Of the frames."""

# Width and number of the blocks of each layer.
_LAYERS = {"layer1": (64, 3), "layer2": (128, 4), "layer3": (256, 6), "layer4": (512, 3)}


class ResNet3D(nn.Module):
    """[n,3,16,112,112] in levels less Kinetics' mean colour -> [n,2048], the average of the last layer's maps (shortcut type B)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(3, 64, 7, stride=(1, 2, 2), padding=3, bias=False)
        self.bn1 = FrozenNorm(64, 1e-5)
        inputs = 64
        for name, (width, count) in _LAYERS.items():
            first = _Bottleneck(inputs, width, stride=1 if name == "layer1" else 2)
            inputs = 4 * width
            self.add_module(name, nn.Sequential(first, *(_Bottleneck(inputs, width) for _ in range(count - 1))))

    def forward(self, video: Tensor) -> Tensor:
        maps = F.max_pool3d(self.bn1(self.conv1(video)).relu(), 3, stride=2, padding=1)
        for name in _LAYERS:
            maps = self.get_submodule(name)(maps)
        return maps.mean(dim=(2, 3, 4))


def load_resnet3d(path: Path) -> ResNet3D:
    """Read resnet-50-kinetics.pth, or its tensors as safetensors; the classifier is left out, which DisCo does without.

    Raises WeightsError, one sentence, for another file.
    """
    return load_frozen(ResNet3D, path, what="a 3-D ResNet-50 in kenshohara's layout", unused=("fc.",), prefix="module.")


class _Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv3d(inputs, width, 1, bias=False), FrozenNorm(width, 1e-5)
        self.conv2, self.bn2 = nn.Conv3d(width, width, 3, stride=stride, padding=1, bias=False), FrozenNorm(width, 1e-5)
        self.conv3, self.bn3 = nn.Conv3d(width, 4 * width, 1, bias=False), FrozenNorm(4 * width, 1e-5)
        self.downsample = (
            nn.Sequential(nn.Conv3d(inputs, 4 * width, 1, stride=stride, bias=False), FrozenNorm(4 * width, 1e-5))
            if stride != 1 or inputs != 4 * width
            else None
        )

    def forward(self, maps: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(self.bn1(self.conv1(maps)).relu())).relu()
        shortcut = maps if self.downsample is None else self.downsample(maps)
        return (self.bn3(self.conv3(inner)) + shortcut).relu()  # type: ignore[no-any-return]
