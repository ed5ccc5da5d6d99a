"""Measures inside ComfyUI: on its device, without gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import comfy.model_management
import torch
from torch import Tensor

from ....engine.metrics.visibility import LPIPS_LONGEST, NotMeasured, Visibility, copy_visibility, visibility
from ....engine.surrogates.perceptual import PerceptualNetwork
from ..surrogates.perceptual import perceptual_view
from ..surrogates.run_surrogates import Surrogates


@torch.no_grad()
def measure_visibility(pairs: Iterable[tuple[Tensor, Tensor]], *, lpips_backbone: Path | None) -> list[Visibility | NotMeasured]:
    """Of each pair, a clean picture [1,C,H,W] and its copy [1,C,h,w]; LPIPS with the given VGG16 file, or left out."""
    with _network(lpips_backbone) as (device, network):
        return [copy_visibility(clean.to(device), copy.to(device), lpips=network) for clean, copy in pairs]


@torch.no_grad()
def measure_change(clean: Tensor, protected: Tensor, *, lpips_backbone: Path | None) -> list[Visibility]:
    """Of pictures [B,C,H,W] that are known to lie on each other, however much was changed; LPIPS as above."""
    with _network(lpips_backbone) as (device, network):
        return visibility(clean.to(device), protected.to(device), lpips=network)


@contextmanager
def _network(backbone: Path | None) -> Iterator[tuple[torch.device, PerceptualNetwork | None]]:
    surrogates = Surrogates()
    network = None if backbone is None else perceptual_view(surrogates, backbone, measuring=True)
    with surrogates.on_device(height=LPIPS_LONGEST, width=LPIPS_LONGEST, low_memory=False):
        yield comfy.model_management.get_torch_device(), network
