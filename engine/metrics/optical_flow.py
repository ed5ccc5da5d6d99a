"""How much moves in a video: the mean length of its optical flow. A frozen video has none, however consistent it looks."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ..picture import resize
from .measure import ClipMeasure, Descriptor

Flow = Callable[[Tensor, Tensor], Tensor]
"""Two frames [n,3,H,W] in [0,1] -> where each pixel of the first went, [n,2,H,W] (x, y) in pixels."""

_LONGER, _COARSEST, _WARPS, _WINDOW = 256, 16, 4, 4
# Of squared gradients: less follows noise of a few levels, more loses the weakest texture of a face.
_RIDGE = 1e-4


def lucas_kanade(first: Tensor, second: Tensor) -> Tensor:
    """Iterative Lucas-Kanade, coarse to fine (Bouguet 2001), from two frames [n,3,H,W] in [0,1]: [n,2,h,w] (x, y).

    h and w are those of the frames reduced to a longer side of 256, the lengths are in pixels of the frames. Where a picture is flat
    the flow of the coarser level stands, and 0 wherever that explains the frames as well, so that a background does not move with what
    is before it, and equal frames give exactly 0. Motion of more than about a tenth of the picture is lost.
    """
    scale = min(1.0, _LONGER / max(first.shape[-2:]))
    height, width = (max(_COARSEST, round(length * scale)) for length in first.shape[-2:])
    factors = first.new_tensor([first.shape[-1] / width, first.shape[-2] / height]).view(2, 1, 1)
    pyramid = [(resize(_grey(first), (height, width)), resize(_grey(second), (height, width)))]
    while min(pyramid[-1][0].shape[-2:]) >= 2 * _COARSEST:
        height, width = (length // 2 for length in pyramid[-1][0].shape[-2:])
        pyramid.append((resize(pyramid[-1][0], (height, width)), resize(pyramid[-1][1], (height, width))))
    flow = first.new_zeros(len(first), 2, *pyramid[-1][0].shape[-2:])
    for before, after in reversed(pyramid):
        flow = _refined(before, after, _enlarged(flow, before.shape[-2:]))
    return flow * factors


def flow_measure(flow: Flow = lucas_kanade, *, relative: bool = False) -> ClipMeasure:
    """Mean length of the flow from each frame to the next, in pixels of the video.

    flow: a network's, where there is one. relative: in percent of the picture's diagonal, which compares videos of different sizes.
    """

    def describe(windows: Tensor) -> Tensor:
        length = flow(windows[:, 0], windows[:, 1]).norm(dim=1).mean(dim=(1, 2))
        return torch.stack([length, 100 * length / math.hypot(*windows.shape[-2:])], dim=1)

    descriptor = Descriptor("optical flow", describe, span=2)
    if relative:
        return ClipMeasure("relative optical flow", "% of diagonal", "more motion", descriptor, lambda described: described[:, 1])
    return ClipMeasure("optical flow", "px", "more motion", descriptor, lambda described: described[:, 0])


def _refined(before: Tensor, after: Tensor, start: Tensor) -> Tensor:
    """Minimise the window's mean of (after(x + flow) - before(x))^2 around each pixel + _RIDGE (flow - start)^2 by Gauss-Newton."""
    flow = start
    for _ in range(_WARPS):
        warped, inside = _warped(after, flow)
        across, down = _gradients((before + warped) / 2)
        change = warped - before
        moments = torch.cat([across * across, across * down, down * down, across * change, down * change], dim=1)
        xx, xy, yy, xt, yt = _window(moments * inside).split(1, dim=1)
        drift = _RIDGE * (flow - start)
        xx, yy, xt, yt = xx + _RIDGE, yy + _RIDGE, xt + drift[:, :1], yt + drift[:, 1:]
        step = torch.cat([xy * yt - yy * xt, xy * xt - xx * yt], dim=1) / (xx * yy - xy * xy)
        flow = flow + step.clamp(-1, 1)
    moving, still = (_window((other - before).square()) for other in (_warped(after, flow)[0], after))
    return flow * (still > moving)


def _warped(picture: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """The picture at x + flow, and 1 where that lies inside it."""
    height, width = picture.shape[-2:]
    rows, columns = (torch.arange(length, device=flow.device, dtype=flow.dtype) for length in (height, width))
    x, y = columns + flow[:, 0], rows[:, None] + flow[:, 1]
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return F.grid_sample(picture, grid, mode="bicubic", padding_mode="border", align_corners=False), inside[:, None].to(flow)


def _gradients(grey: Tensor) -> tuple[Tensor, Tensor]:
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    return (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2, (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2


def _window(maps: Tensor) -> Tensor:
    """Twice a box, nearly a triangle: nearer pixels count more."""
    for _ in range(2):
        maps = F.avg_pool2d(maps, 2 * _WINDOW + 1, 1, _WINDOW, count_include_pad=False)
    return maps


def _grey(frames: Tensor) -> Tensor:
    return (frames * frames.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)


def _enlarged(flow: Tensor, size: torch.Size) -> Tensor:
    factors = [size[1] / flow.shape[-1], size[0] / flow.shape[-2]]
    return F.interpolate(flow, size=tuple(size), mode="bilinear") * flow.new_tensor(factors).view(2, 1, 1)
