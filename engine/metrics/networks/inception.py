"""The Inception-v3 of FID: Google's network of 2015-12-05, as pytorch-fid's file holds it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .frozen import FrozenNorm, load_frozen

SIDE = 299


class FIDInception(nn.Module):
    """[n,3,H,W] in [0,1] -> [n,2048], the features that FID and KID stand on (pool3).

    Names are torchvision's. It differs from torchvision's network where Google's did (pytorch-fid, which found that out): average
    poolings do not count their padding, the last block has a maximum pooling, and the stem takes any picture squashed to 299 pixels,
    bilinearly and without antialiasing, in [-1,1].
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = _Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = _Conv(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = _Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = _Conv(80, 192, 3)
        self.Mixed_5b = _A(192, 32)
        self.Mixed_5c = _A(256, 64)
        self.Mixed_5d = _A(288, 64)
        self.Mixed_6a = _B(288)
        self.Mixed_6b = _C(768, 128)
        self.Mixed_6c = _C(768, 160)
        self.Mixed_6d = _C(768, 160)
        self.Mixed_6e = _C(768, 192)
        self.Mixed_7a = _D(768)
        self.Mixed_7b = _E(1280, _average)
        self.Mixed_7c = _E(2048, _maximum)

    def forward(self, frames: Tensor) -> Tensor:
        return self.features(F.interpolate(frames, size=(SIDE, SIDE), mode="bilinear", align_corners=False) * 2 - 1)

    def features(self, maps: Tensor) -> Tensor:
        """[n,3,299,299] in [-1,1] -> [n,2048]."""
        maps = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(maps)))
        maps = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(maps, 3, stride=2)))
        maps = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(maps, 3, stride=2))))
        maps = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(maps)))))
        return self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(maps))).mean(dim=(2, 3))  # type: ignore[no-any-return]


def load_inception(path: Path) -> FIDInception:
    """Read pt_inception-2015-12-05-6726825d.pth, or its tensors as safetensors, with or without the classifier.

    Raises WeightsError, one sentence, for another file.
    """
    return load_frozen(FIDInception, path, what="FID's Inception in pytorch-fid's layout", unused=("fc.",))


class _Conv(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int | tuple[int, int], *, stride: int = 1, padding: int | str = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, bias=False)
        self.bn = FrozenNorm(outputs, 1e-3)

    def forward(self, maps: Tensor) -> Tensor:
        return self.bn(self.conv(maps)).relu()  # type: ignore[no-any-return]


def _same(inputs: int, outputs: int, *kernel: int) -> _Conv:
    return _Conv(inputs, outputs, (kernel[0], kernel[-1]), padding="same")


def _average(maps: Tensor) -> Tensor:
    return F.avg_pool2d(maps, 3, stride=1, padding=1, count_include_pad=False)


def _maximum(maps: Tensor) -> Tensor:
    return F.max_pool2d(maps, 3, stride=1, padding=1)


class _A(nn.Module):
    """35 x 35."""

    def __init__(self, inputs: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = _same(inputs, 64, 1)
        self.branch5x5_1, self.branch5x5_2 = _same(inputs, 48, 1), _same(48, 64, 5)
        self.branch3x3dbl_1, self.branch3x3dbl_2, self.branch3x3dbl_3 = _same(inputs, 64, 1), _same(64, 96, 3), _same(96, 96, 3)
        self.branch_pool = _same(inputs, pooled, 1)

    def forward(self, maps: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(maps)))
        return torch.cat([self.branch1x1(maps), self.branch5x5_2(self.branch5x5_1(maps)), double, self.branch_pool(_average(maps))], 1)


class _B(nn.Module):
    """35 -> 17."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = _Conv(inputs, 384, 3, stride=2)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = _same(inputs, 64, 1), _same(64, 96, 3)
        self.branch3x3dbl_3 = _Conv(96, 96, 3, stride=2)

    def forward(self, maps: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(maps)))
        return torch.cat([self.branch3x3(maps), double, F.max_pool2d(maps, 3, stride=2)], 1)


class _C(nn.Module):
    """17 x 17."""

    def __init__(self, inputs: int, inner: int) -> None:
        super().__init__()
        self.branch1x1 = _same(inputs, 192, 1)
        self.branch7x7_1, self.branch7x7_2 = _same(inputs, inner, 1), _same(inner, inner, 1, 7)
        self.branch7x7_3 = _same(inner, 192, 7, 1)
        self.branch7x7dbl_1, self.branch7x7dbl_2 = _same(inputs, inner, 1), _same(inner, inner, 7, 1)
        self.branch7x7dbl_3, self.branch7x7dbl_4 = _same(inner, inner, 1, 7), _same(inner, inner, 7, 1)
        self.branch7x7dbl_5 = _same(inner, 192, 1, 7)
        self.branch_pool = _same(inputs, 192, 1)

    def forward(self, maps: Tensor) -> Tensor:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(maps)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(maps)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(maps), single, double, self.branch_pool(_average(maps))], 1)


class _D(nn.Module):
    """17 -> 8."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = _same(inputs, 192, 1), _Conv(192, 320, 3, stride=2)
        self.branch7x7x3_1, self.branch7x7x3_2 = _same(inputs, 192, 1), _same(192, 192, 1, 7)
        self.branch7x7x3_3, self.branch7x7x3_4 = _same(192, 192, 7, 1), _Conv(192, 192, 3, stride=2)

    def forward(self, maps: Tensor) -> Tensor:
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(maps))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(maps)), seven, F.max_pool2d(maps, 3, stride=2)], 1)


class _E(nn.Module):
    """8 x 8."""

    def __init__(self, inputs: int, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.pool = pool
        self.branch1x1 = _same(inputs, 320, 1)
        self.branch3x3_1, self.branch3x3_2a, self.branch3x3_2b = _same(inputs, 384, 1), _same(384, 384, 1, 3), _same(384, 384, 3, 1)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = _same(inputs, 448, 1), _same(448, 384, 3)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = _same(384, 384, 1, 3), _same(384, 384, 3, 1)
        self.branch_pool = _same(inputs, 192, 1)

    def forward(self, maps: Tensor) -> Tensor:
        single = self.branch3x3_1(maps)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(maps))
        parts = [self.branch1x1(maps), self.branch3x3_2a(single), self.branch3x3_2b(single)]
        return torch.cat([*parts, self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double), self.branch_pool(self.pool(maps))], 1)
