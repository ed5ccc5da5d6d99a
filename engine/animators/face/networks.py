"""The five networks of Talking Head(?) Anime 3 (Pramook Khungurn), variant separable_float; names of tensors as in its files.

All share one body of depthwise separable convolutions with instance normalisation, four times smaller and back, and say at each place what
colour to paint, how opaque, and from where to take what was there. Pictures are RGBA in [-1,1], linear colours, alpha from -1 to 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from einops import repeat
from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS = 4
EYEBROW_POSE, FACE_POSE, BODY_POSE = slice(0, 12), slice(12, 39), slice(39, 45)
"""Which numbers of a pose each network reads."""
POSE = BODY_POSE.stop

_BLOCKS = 6

Activation = Callable[[], nn.Module]


def _separable(n_in: int, n_out: int, *, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    across = nn.Conv2d(n_in, n_in, kernel, stride=stride, padding=(kernel - 1) // 2, groups=n_in, bias=False)
    return [across, nn.Conv2d(n_in, n_out, 1, bias=False)]


def _block(convolutions: Sequence[nn.Module], activation: Activation) -> nn.Sequential:
    width = convolutions[-1].out_channels
    assert isinstance(width, int)
    return nn.Sequential(*convolutions, nn.InstanceNorm2d(width, affine=True), activation())


class _Residual(nn.Module):
    def __init__(self, width: int, activation: Activation) -> None:
        super().__init__()
        first, second = (nn.Sequential(*_separable(width, width)) for _ in range(2))
        norms = (nn.InstanceNorm2d(width, affine=True) for _ in range(2))
        self.resnet_path = nn.Sequential(first, next(norms), activation(), second, next(norms))

    def forward(self, x: Tensor) -> Tensor:
        path: Tensor = self.resnet_path(x)
        return x + path


class _Body(nn.Module):
    """What all five begin with: [B,C,H,W] -> features [B,widths[0],H,W]."""

    def __init__(self, n_in: int, widths: Sequence[int], activation: Activation, *, kernel: int = 3) -> None:
        super().__init__()
        first = _block(_separable(n_in, widths[0], kernel=kernel), activation)
        halved = (_block(_separable(a, b, kernel=4, stride=2), activation) for a, b in pairwise(widths))
        self.downsample_blocks = nn.ModuleList([first, *halved])
        self.bottleneck_blocks = nn.ModuleList(_Residual(widths[-1], activation) for _ in range(_BLOCKS))
        self.upsample_blocks = nn.ModuleList()

    def forward(self, x: Tensor, pose: Tensor | None = None) -> Tensor:
        for block in (*self.downsample_blocks, *self.bottleneck_blocks, *self.upsample_blocks):
            x = block(x)
        return x


class _PosedBody(_Body):
    """The pose joins where the picture is smallest, and transposed convolutions lead back."""

    def __init__(self, n_in: int, widths: Sequence[int], pose: int) -> None:
        super().__init__(n_in, widths, nn.ReLU)
        self.bottleneck_blocks[0] = _block(_separable(widths[-1] + pose, widths[-1]), nn.ReLU)
        for a, b in zip(widths[:0:-1], widths[-2::-1], strict=True):
            across = nn.ConvTranspose2d(a, a, 4, stride=2, padding=1, groups=a, bias=False)
            self.upsample_blocks.append(_block([across, nn.Conv2d(a, b, 1, bias=False)], nn.ReLU))

    def forward(self, x: Tensor, pose: Tensor | None = None) -> Tensor:
        for block in self.downsample_blocks:
            x = block(x)
        if pose is not None:
            x = torch.cat([x, _everywhere(pose, x)], dim=1)
        for block in (*self.bottleneck_blocks, *self.upsample_blocks):
            x = block(x)
        return x


class _ResizingBody(_Body):
    """Nearest-neighbour enlargement leads back."""

    def __init__(self, n_in: int, widths: Sequence[int]) -> None:
        super().__init__(n_in, widths, _leaky, kernel=7)
        for a, b in zip(widths[:0:-1], widths[-2::-1], strict=True):
            self.upsample_blocks.append(nn.Sequential(nn.Upsample(scale_factor=2), _block(_separable(a, b), _leaky)))


class _SkippingBody(_Body):
    """The same, with what the way down saw at each size beside it."""

    def __init__(self, n_in: int, widths: Sequence[int]) -> None:
        super().__init__(n_in, widths, _leaky)
        for a, b in zip(widths[:0:-1], widths[-2::-1], strict=True):
            self.upsample_blocks.append(_block(_separable(a + b, b), _leaky))

    def forward(self, x: Tensor, pose: Tensor | None = None) -> Tensor:
        seen = []
        for block in self.downsample_blocks:
            x = block(x)
            seen.append(x)
        for block in self.bottleneck_blocks:
            x = block(x)
        for block, beside in zip(self.upsample_blocks, seen[-2::-1], strict=True):
            x = block(torch.cat([F.interpolate(x, scale_factor=2), beside], dim=1))
        return x


def _leaky() -> nn.Module:
    return nn.LeakyReLU(0.1)


def _everywhere(pose: Tensor, like: Tensor) -> Tensor:
    return repeat(pose, "b c -> b c h w", h=like.shape[-2], w=like.shape[-1])


def _colour(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, CHANNELS, 3, padding=1), nn.Tanh())


def _opacity(width: int, channels: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, channels, 3, padding=1), nn.Sigmoid())


def _places(width: int) -> nn.Conv2d:
    return nn.Conv2d(width, 2, 3, padding=1, bias=False)


def painted(opacity: Tensor, colour: Tensor, picture: Tensor) -> Tensor:
    """`colour` over `picture` with the opacity 0 to 1."""
    return colour * opacity + picture * (1 - opacity)


def warped(field: Tensor, picture: Tensor) -> Tensor:
    """Every pixel taken from where the field [B,2,H,W] points, in units of half the picture's side, away from its own place."""
    identity = torch.eye(2, 3, dtype=field.dtype, device=field.device).expand(len(field), 2, 3)
    grid = F.affine_grid(identity, list(picture.shape), align_corners=False) + field.movedim(1, -1)
    return F.grid_sample(picture, grid, mode="bilinear", padding_mode="border", align_corners=False)


class EyebrowDecomposer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        widths = (64, 128, 256, 512)
        self.body = _PosedBody(CHANNELS, widths, 0)
        self.background_layer_alpha, self.background_layer_color_change = _opacity(widths[0]), _colour(widths[0])
        self.eyebrow_layer_alpha, self.eyebrow_layer_color_change = _opacity(widths[0]), _colour(widths[0])

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """[B,4,128,128] -> the picture without eyebrows, and the eyebrows, of the same shape."""
        x = self.body(picture)
        background = painted(self.background_layer_alpha(x), self.background_layer_color_change(x), picture)
        eyebrows = painted(self.eyebrow_layer_alpha(x), picture, self.eyebrow_layer_color_change(x))
        return background, eyebrows


class EyebrowCombiner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        widths = (64, 128, 256, 512)
        self.body = _PosedBody(2 * CHANNELS, widths, _length(EYEBROW_POSE))
        self.morphed_eyebrow_layer_grid_change = _places(widths[0])
        self.morphed_eyebrow_layer_alpha, self.morphed_eyebrow_layer_color_change = _opacity(widths[0]), _colour(widths[0])
        # Of the variant that combines with a mask of its own; the one that the animator uses takes the eyebrows' alpha.
        self.combine_alpha = _opacity(widths[0])

    def forward(self, background: Tensor, eyebrows: Tensor, pose: Tensor) -> Tensor:
        """The two layers [B,4,128,128] and the eyebrows' pose [B,12] -> one picture [B,4,128,128]."""
        x = self.body(torch.cat([background, eyebrows], dim=1), pose)
        moved = warped(self.morphed_eyebrow_layer_grid_change(x), eyebrows)
        moved = painted(self.morphed_eyebrow_layer_alpha(x), self.morphed_eyebrow_layer_color_change(x), moved)
        colours = painted((moved[:, 3:] + 1) / 2, moved[:, :3], background[:, :3])
        return torch.cat([colours, background[:, 3:]], dim=1)


@dataclass(frozen=True)
class Face:
    """picture: [B,4,192,192]. opacity: how much of it was painted anew for iris and mouth, and for the eyes, [B,2,192,192] in [0,1]."""

    picture: Tensor
    opacity: Tensor


class FaceMorpher(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        widths = (64, 128, 256, 512)
        self.body = _PosedBody(CHANNELS, widths, _length(FACE_POSE))
        self.iris_mouth_grid_change = _places(widths[0])
        self.iris_mouth_color_change, self.iris_mouth_alpha = _colour(widths[0]), _opacity(widths[0])
        self.eye_color_change, self.eye_alpha = _colour(widths[0]), _opacity(widths[0])

    def forward(self, picture: Tensor, pose: Tensor) -> Face:
        """[B,4,192,192] and the face's pose [B,27]. The original detaches the picture before the eyes; here its gradient passes."""
        x = self.body(picture, pose)
        mouth, eyes = self.iris_mouth_alpha(x), self.eye_alpha(x)
        moved = painted(mouth, self.iris_mouth_color_change(x), warped(self.iris_mouth_grid_change(x), picture))
        return Face(painted(eyes, self.eye_color_change(x), moved), torch.cat([mouth, eyes], dim=1))


@dataclass(frozen=True)
class Rotation:
    """At 256x256: the picture painted anew, the one taken from the input, [B,4,256,256], and from where it was taken [B,2,256,256]."""

    direct: Tensor
    warped: Tensor
    field: Tensor


class Rotator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        widths = (64, 128, 256, 512)
        self.encoder_decoder = _ResizingBody(CHANNELS + _length(BODY_POSE), widths)
        self.direct_creator, self.grid_change_creator = _colour(widths[0]), _places(widths[0])

    def forward(self, picture: Tensor, pose: Tensor) -> Rotation:
        """[B,4,256,256] and the pose of head and body [B,6]."""
        x = self.encoder_decoder(torch.cat([picture, _everywhere(pose, picture)], dim=1))
        field = self.grid_change_creator(x)
        return Rotation(self.direct_creator(x), warped(field, picture), field)


class Editor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        widths = (32, 64, 128, 256)
        self.body = _SkippingBody(2 * CHANNELS + 2 + _length(BODY_POSE), widths)
        self.color_change_creator, self.alpha_creator = _colour(widths[0]), _opacity(widths[0], CHANNELS)
        self.grid_change_creator = _places(widths[0])

    def forward(self, picture: Tensor, rough: Tensor, field: Tensor, pose: Tensor) -> Tensor:
        """The picture, the rotator's warped one and its field, all at 512x512, and the pose of head and body -> the frame [B,4,512,512]."""
        x = self.body(torch.cat([picture, rough, field, _everywhere(pose, picture)], dim=1))
        moved = warped(field + self.grid_change_creator(x), picture)
        return painted(self.alpha_creator(x), self.color_change_creator(x), moved)


def _length(part: slice) -> int:
    length: int = part.stop - part.start
    return length
