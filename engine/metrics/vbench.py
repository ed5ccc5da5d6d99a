"""VBench's scores (Huang et al. 2024) of one video by itself: motion smoothness, aesthetic quality, imaging quality.

Re-implemented, since its package demands CUDA and particular versions. Subject consistency is beside DINO in similarity.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from ..picture import LEVELS, to_levels
from ..weights.reading import WeightsError, read_weights
from .measure import ClipMeasure, Descriptor
from .similarity import Embed, shorter_side, torchvision_crop

Interpolate = Callable[[Tensor, Tensor], Tensor]
"""Two frames [n,3,H,W] in [0,1] -> the one halfway between them."""

_LONGER = 512


def smoothness(frames: Tensor, predicted: Tensor) -> Tensor:
    """(255 - mean |frame - predicted|) / 255 of 8-bit levels, [n,3,H,W] in [0,1] -> [n]; predictions are truncated, as in VBench."""
    levels = (predicted * LEVELS).clamp(0, LEVELS).floor()
    return 1 - (to_levels(frames) - levels).abs().flatten(1).mean(1) / LEVELS


def aesthetic_pixels(frames: Tensor) -> Tensor:
    """What VBench's CLIP sees of [n,3,H,W] in [0,1]: shorter side 224 (bicubic without antialiasing), middle 224x224, 8-bit, in [0,1]."""
    resized = F.interpolate(to_levels(frames), size=shorter_side(frames, 224), mode="bicubic")
    return torchvision_crop(resized.round().clamp(0, LEVELS), 224) / LEVELS


def imaging_pixels(frames: Tensor) -> Tensor:
    """What VBench's MUSIQ sees of [n,3,H,W] in [0,1]: longer side at most 512, without antialiasing, 8-bit, in [0,1]."""
    levels, (height, width) = to_levels(frames), frames.shape[-2:]
    if max(height, width) > _LONGER:
        scale = _LONGER / max(height, width)
        levels = F.interpolate(levels, size=(int(scale * height), int(scale * width)), mode="bilinear").round()
    return levels / LEVELS


def load_aesthetic_head(path: Path) -> nn.Linear:
    """LAION's linear head on CLIP ViT-L/14 embeddings (sa_0_4_vit_l_14_linear.pth), frozen.

    Raises WeightsError when the file holds anything else.
    """
    state = read_weights(path)
    if {name: tuple(value.shape) for name, value in state.items()} != {"weight": (1, 768), "bias": (1,)}:
        raise WeightsError(f"{path.name} is not LAION's aesthetic head for CLIP ViT-L/14 (weight [1,768] and bias): choose another file.")
    head = nn.Linear(768, 1)
    head.load_state_dict({name: value.float() for name, value in state.items()})
    return head.eval().requires_grad_(False)


def motion_smoothness_measure(interpolate: Interpolate) -> ClipMeasure:
    """How well every second frame follows from its neighbours. VBench interpolates with AMT-S; figures of other networks differ from its.

    A frozen video is perfectly smooth: read it beside the optical flow. A last frame without a successor is left out.
    """

    def describe(windows: Tensor) -> Tensor:
        return smoothness(windows[:, 1], interpolate(windows[:, 0], windows[:, 2]))[:, None]

    return ClipMeasure("motion smoothness", "of 1", "smoother", Descriptor("motion smoothness", describe, span=3, stride=2), _column)


def aesthetic_measure(embed: Embed, head: nn.Module) -> ClipMeasure:
    """VBench's aesthetic quality, tenths of LAION's 0 to 10. embed: [n,3,224,224] in [0,1] -> CLIP ViT-L/14 image embeddings [n,768]."""

    def describe(windows: Tensor) -> Tensor:
        embedding = embed(aesthetic_pixels(windows[:, 0])).float()
        value: Tensor = head(F.normalize(embedding, dim=-1)) / 10
        return value

    return ClipMeasure("aesthetic quality", "of 1", "better", Descriptor("aesthetic quality", describe), _column)


def imaging_quality_measure(network: Embed) -> ClipMeasure:
    """VBench's imaging quality. network: MUSIQ trained on SPAQ, [n,3,h,w] in [0,1] -> [n] from about 0 to 100."""
    descriptor = Descriptor("imaging quality", lambda windows: network(imaging_pixels(windows[:, 0])).view(-1, 1) / 100)
    return ClipMeasure("imaging quality", "of 1", "better", descriptor, _column)


def _column(described: Tensor) -> Tensor:
    return described[:, 0]
