"""A talking head with random weights, and what it is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from bench import animator_files
from stillguard.engine.animators.pose_animator import noise_schedule
from stillguard.engine.animators.talking_head.head import TalkingHead, load_talking_head
from stillguard.engine.animators.talking_head.masks import Regions
from stillguard.engine.losses.silencer import REFERENCE, AudioNullifying, TalkingSetup, Window
from stillguard.engine.surrogates.reference_net import ReferenceNet
from torch import Tensor
from torch.nn import functional as F

SIGNAL = noise_schedule("scaled_linear").alphas_cumprod


def small(folder: Path, *, dtype: torch.dtype = torch.float32) -> tuple[ReferenceNet, TalkingHead]:
    return load_talking_head(animator_files.talking_head(folder, widths=(32, 32, 64, 64), context=16), dtype=dtype)


class LinearVAE:
    """Latents and pictures are linear in each other, so that its backward pass costs nothing. rows: how many pictures it was given."""

    def __init__(self) -> None:
        self.weight = torch.randn(4, 3, 1, 1, generator=torch.Generator().manual_seed(0))
        self.rows: list[int] = []

    def encode(self, image: Tensor) -> Tensor:
        self.rows.append(len(image))
        return F.conv2d(F.avg_pool2d(image * 2 - 1, 8), self.weight) * 5

    def posterior(self, image: Tensor) -> tuple[Tensor, Tensor]:
        mean = self.encode(image)
        return mean, 0.1 + mean.square()

    def decode(self, latents: Tensor) -> Tensor:
        return F.interpolate(F.conv2d(latents, self.weight.transpose(0, 1) / 50), scale_factor=8).sigmoid()


def speech(frames: int = 6, seed: int = 0) -> Tensor:
    """As many layers and channels as the small head reads."""
    return torch.randn(frames, 2, 8, generator=torch.Generator().manual_seed(seed))


def regions() -> Regions:
    return Regions(torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1)))


def nullifying(
    net: ReferenceNet,
    head: Any,
    vae: Any,
    *,
    audio: Tensor | None = None,
    windows: tuple[Window, ...] = REFERENCE,
    dropped: float = 0.05,
    **setup: Any,
) -> AudioNullifying:
    """setup: of TalkingSetup."""
    face = torch.randn(1, 16, generator=torch.Generator().manual_seed(2))
    region = torch.zeros(1, 1, 64, 64)
    region[..., 16:48, 16:48] = 1
    told = {"audio": speech() if audio is None else audio, "face": face, "region": region, "regions": regions()} | setup
    return AudioNullifying(TalkingSetup(net, head, vae, **told), SIGNAL, windows, dropped=dropped)
