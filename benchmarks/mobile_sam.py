"""MobileSAM's image encoder (Zhang et al. 2023, Apache-2.0), a really trained network to measure with: stem and three stages of TinyViT.

In timm's classes, with the weights of the published mobile_sam.pt.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

_PREFIX, _STAGES = "image_encoder.", 3
# ImageNet's, of pictures in [0,1].
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class MobileSAM(nn.Module):
    """Image [B,3,H,W] in [0,1] -> features [B,160,H/16,W/16] before the last stage, whose layout is SAM's own."""

    def __init__(self, file: Path) -> None:
        """file: mobile_sam.pt."""
        super().__init__()
        import timm

        whole = timm.create_model("tiny_vit_5m_224")
        self.patch_embed, self.stages = whole.patch_embed, whole.stages[:_STAGES]
        state = torch.load(file, map_location="cpu", weights_only=True)
        self.load_state_dict({renamed: value for key, value in state.items() if (renamed := _renamed(key)) is not None})
        self.eval().requires_grad_(False)

    def encode(self, image: Tensor) -> Tensor:
        mean, deviation = (image.new_tensor(values).view(1, 3, 1, 1) for values in (_MEAN, _DEVIATION))
        features: Tensor = self.stages(self.patch_embed((image - mean) / deviation))
        return features


def _renamed(key: str) -> str | None:
    """TinyViT's own names -> timm's; None for what is left out. What halves a stage belongs to the following one there."""
    key = key.removeprefix(_PREFIX)
    first, *rest = key.split(".")
    if first == "patch_embed":
        # seq.0 and seq.2 are convolutions, 1 the activation.
        parts = [first, {"0": "conv1", "2": "conv2"}[rest[1]], *rest[2:]]
    elif first == "layers" and rest[-1] != "attention_bias_idxs":
        stage = int(rest[0]) + (rest[1] == "downsample")
        if stage >= _STAGES:
            return None
        parts = ["stages", str(stage), *rest[1:]]
    else:
        return None
    return ".".join("conv" if part == "c" else part for part in parts)
