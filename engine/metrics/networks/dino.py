"""DINO's vision transformers (Caron et al. 2021) from the files that Facebook Research published."""

from __future__ import annotations

from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ...weights.filling import fill
from ...weights.reading import WeightsError, read_weights

_HEAD = 64
_EPS = 1e-6


class DinoTransformer(nn.Module):
    """ViT of any size with the published tensor names: normalised pixels [n,3,H,W] of 16 px or more -> class tokens [n,width]."""

    def __init__(self, *, width: int, depth: int, patch: int, positions: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, positions, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch)})
        self.blocks = nn.ModuleList(_Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=_EPS)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embed["proj"](pixels)
        tokens = rearrange(patches, "n width rows columns -> n (rows columns) width") + self._positions(*patches.shape[-2:])
        tokens = torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(len(tokens), -1, -1), tokens], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        classes: Tensor = self.norm(tokens[:, 0])
        return classes

    def _positions(self, rows: int, columns: int) -> Tensor:
        """Of the patches, [1,rows*columns,width]. DINO enlarges by a tenth of a patch more than asked, which shifts every sample."""
        side = round((self.pos_embed.shape[1] - 1) ** 0.5)
        grid = rearrange(self.pos_embed[:, 1:], "1 (rows columns) width -> 1 width rows columns", rows=side)
        if (rows, columns) != (side, side):
            grid = F.interpolate(grid, scale_factor=((rows + 0.1) / side, (columns + 0.1) / side), mode="bicubic")
        return rearrange(grid, "1 width rows columns -> 1 (rows columns) width")


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=_EPS), nn.LayerNorm(width, eps=_EPS)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, tokens: Tensor) -> Tensor:
        split = "n tokens (three heads channels) -> three n heads tokens channels"
        query, key, value = rearrange(self.attn["qkv"](self.norm1(tokens)), split, three=3, channels=_HEAD)
        attended = F.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.attn["proj"](rearrange(attended, "n heads tokens channels -> n tokens (heads channels)"))
        changed: Tensor = tokens + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(tokens))))
        return changed


def load_dino(path: Path) -> DinoTransformer:
    """Read dino_deitsmall16_pretrain.pth, dino_vitbase16_pretrain.pth or a file in their layout; frozen, in eval mode.

    Sizes are those of its tensors. Raises WeightsError, one sentence, for anything else.
    """
    state = read_weights(path)
    if not {"patch_embed.proj.weight", "pos_embed"} <= state.keys():
        raise WeightsError(f"{path.name} is not one of DINO's published vision transformers: choose another file.")
    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    depth = sum(name.endswith(".norm1.weight") for name in state)
    with torch.device("meta"):
        network = DinoTransformer(width=width, depth=depth, patch=patch, positions=state["pos_embed"].shape[1])
    fill(network, state, torch.float32, name=path.name, what="one of DINO's published vision transformers")
    return network
