"""What image encoders are given."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def nearest_signed(image: Tensor, size: int = 224) -> Tensor:
    """[B,3,H,W] in [0,1] -> [B,3,size,size] in [-1,1], by nearest pixel, the aspect not kept, not normalised.

    How Dormant's official code prepares pictures for CLIP. CLIP was trained otherwise, and victims prepare them otherwise.
    """
    return F.interpolate(image * 2 - 1, size=(size, size))
