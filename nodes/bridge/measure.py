"""Measures inside ComfyUI: on its device, without gradients."""

from __future__ import annotations

from pathlib import Path

import comfy.model_management
import torch
from torch import Tensor

from ...engine.metrics.visibility import LPIPS_LONGEST, Visibility, visibility
from .surrogates import Surrogates


@torch.no_grad()
def measure_visibility(clean: Tensor, protected: Tensor, *, lpips_backbone: Path | None) -> list[Visibility]:
    """Visibility of [B,C,H,W] pictures; LPIPS with the given VGG16 file, or left out."""
    surrogates, network = Surrogates(), None
    if lpips_backbone is not None:
        network = surrogates.perceptual(lpips_backbone)
        surrogates.load(height=LPIPS_LONGEST, width=LPIPS_LONGEST)
    device = comfy.model_management.get_torch_device()
    return visibility(clean.to(device), protected.to(device), lpips=network)
