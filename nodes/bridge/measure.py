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
    surrogates = Surrogates()
    network = None if lpips_backbone is None else surrogates.perceptual(lpips_backbone)
    device = comfy.model_management.get_torch_device()
    with surrogates.resident(height=LPIPS_LONGEST, width=LPIPS_LONGEST, low_memory=False):
        return visibility(clean.to(device), protected.to(device), lpips=network)
