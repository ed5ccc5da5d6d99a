"""Measures inside ComfyUI: on its device, without gradients."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import comfy.model_management
import torch
from torch import Tensor

from ....engine.metrics.visibility import LPIPS_LONGEST, NotMeasured, Visibility, copy_visibility
from ..surrogates.perceptual import perceptual_view
from ..surrogates.run_surrogates import Surrogates


@torch.no_grad()
def measure_visibility(pairs: Iterable[tuple[Tensor, Tensor]], *, lpips_backbone: Path | None) -> list[Visibility | NotMeasured]:
    """Of each pair, a clean picture [1,C,H,W] and its copy [1,C,h,w]; LPIPS with the given VGG16 file, or left out."""
    surrogates = Surrogates()
    network = None if lpips_backbone is None else perceptual_view(surrogates, lpips_backbone, measuring=True)
    device = comfy.model_management.get_torch_device()
    with surrogates.on_device(height=LPIPS_LONGEST, width=LPIPS_LONGEST, low_memory=False):
        return [copy_visibility(clean.to(device), copy.to(device), lpips=network) for clean, copy in pairs]
