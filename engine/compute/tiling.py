"""Encoding in overlapping tiles, as diffusers' AutoencoderKL does after enable_tiling."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..observation import LatentEncoder


@dataclass(frozen=True, eq=False)
class Tiled:
    """A VAE whose encoder sees tiles of `tile` pixels that overlap by a quarter, blended linearly in the latent.

    The result differs from encoding the whole picture, which is what victims do: only for comparing with the official code of
    Dormant, where `tile` is the VAE's sample_size (256 for SD 1.5). factor: pixels per latent. A picture of one tile or less is
    encoded whole.
    """

    vae: LatentEncoder
    tile: int = 256
    factor: int = 8

    def encode(self, image: Tensor) -> Tensor:
        """[B,3,H,W] in [0,1] -> [B,C,H/factor,W/factor], differentiable."""
        height, width = image.shape[-2:]
        if max(height, width) <= self.tile:
            return self.vae.encode(image)
        stride = self.tile * 3 // 4
        overlap = self.tile // self.factor // 4
        kept = self.tile // self.factor - overlap
        rows: list[list[Tensor]] = []
        for top in range(0, height, stride):
            rows.append([])
            for left in range(0, width, stride):
                latent = self.vae.encode(image[:, :, top : top + self.tile, left : left + self.tile])
                # A tile blends with its neighbours as they are after their own blending.
                latent = latent if len(rows) < 2 else _blend(rows[-2][len(rows[-1])], latent, overlap, dim=-2)
                latent = latent if not rows[-1] else _blend(rows[-1][-1], latent, overlap, dim=-1)
                rows[-1].append(latent)
        return torch.cat([torch.cat([latent[..., :kept, :kept] for latent in row], dim=-1) for row in rows], dim=-2)


def _blend(before: Tensor, after: Tensor, overlap: int, *, dim: int) -> Tensor:
    """`after` with its first `overlap` entries faded in from the last ones of `before`."""
    overlap = min(before.shape[dim], after.shape[dim], overlap)
    ramp = torch.arange(overlap, device=after.device, dtype=after.dtype) / overlap
    ramp = ramp[:, None] if dim == -2 else ramp
    faded = before.narrow(dim, before.shape[dim] - overlap, overlap) * (1 - ramp) + after.narrow(dim, 0, overlap) * ramp
    return torch.cat([faded, after.narrow(dim, overlap, after.shape[dim] - overlap)], dim=dim)
