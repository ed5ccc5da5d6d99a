"""A victim: a diffusion transformer (Peebles and Xie 2023) with the photo's tokens beside the frame's."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from .autoencoder import CHANNELS
from .rectified_flow import Flow

_PATCH, _POSE_PATCH, _SIDE = 2, 16, 8
_WIDTH, _DEPTH, _HEADS = 192, 4, 6


def embed_time(time: Tensor, width: int) -> Tensor:
    """[B] in [0,1] -> sines and cosines [B,width] (Vaswani et al. 2017), with time in thousandths."""
    frequencies = torch.exp(-math.log(10000) * torch.arange(width // 2, device=time.device) / (width // 2))
    angles = 1000 * time[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(_WIDTH, elementwise_affine=False) for _ in range(2))
        self.qkv, self.out = nn.Linear(_WIDTH, 3 * _WIDTH), nn.Linear(_WIDTH, _WIDTH)
        self.mlp = nn.Sequential(nn.Linear(_WIDTH, 4 * _WIDTH), nn.GELU(), nn.Linear(4 * _WIDTH, _WIDTH))
        # One modulation for all blocks, and an offset of each (Chen et al. 2024).
        self.offset = nn.Parameter(torch.zeros(6, _WIDTH))

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = (modulation + self.offset)[:, :, None].unbind(1)
        split = "b tokens (three heads channels) -> three b heads tokens channels"
        q, k, v = rearrange(self.qkv(self.norm1(x) * (1 + scale1) + shift1), split, three=3, heads=_HEADS)
        attended = F.scaled_dot_product_attention(q, k, v)
        x = x + gate1 * self.out(rearrange(attended, "b heads tokens channels -> b tokens (heads channels)"))
        changed: Tensor = x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)
        return changed


class VictimTransformer(Flow):
    """For one frame of 128 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(CHANNELS, _WIDTH, _PATCH, stride=_PATCH)
        self.photo_patches = nn.Conv2d(CHANNELS, _WIDTH, _PATCH, stride=_PATCH)
        self.pose_patches = nn.Conv2d(3, _WIDTH, _POSE_PATCH, stride=_POSE_PATCH)
        self.positions = nn.Parameter(torch.randn(_SIDE**2, _WIDTH) * 0.02)
        self.time = nn.Sequential(nn.Linear(_WIDTH, _WIDTH), nn.SiLU(), nn.Linear(_WIDTH, _WIDTH), nn.SiLU())
        self.modulation = nn.Linear(_WIDTH, 6 * _WIDTH)
        self.blocks = nn.ModuleList(_Block() for _ in range(_DEPTH))
        self.norm, self.head = nn.LayerNorm(_WIDTH), nn.Linear(_WIDTH, CHANNELS * _PATCH**2)
        for layer in (self.modulation, self.head):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def predict(self, noisy: Tensor, time: Tensor, photo: Tensor, pose: Tensor) -> Tensor:
        maps = (self.patches(noisy) + self.pose_patches(pose), self.photo_patches(photo))
        frame, shown = (rearrange(one, "b width rows columns -> b (rows columns) width") for one in maps)
        tokens = torch.cat([frame, shown], dim=1) + self.positions.repeat(2, 1)
        modulation = self.modulation(self.time(embed_time(time, _WIDTH))).unflatten(1, (6, _WIDTH))
        for block in self.blocks:
            tokens = block(tokens, modulation)
        patches = self.head(self.norm(tokens[:, : frame.shape[1]]))
        return F.pixel_shuffle(rearrange(patches, "b (rows columns) pixels -> b pixels rows columns", rows=_SIDE), _PATCH)
