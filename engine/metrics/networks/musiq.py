"""MUSIQ (Ke et al. 2021), the multi-scale image quality transformer, for the files published with IQA-PyTorch, as VBench uses them."""

from __future__ import annotations

from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from .frozen import load_frozen

_PATCH, _SIDES, _GRID, _HEADS, _GROUPS, _EPS = 32, (224, 384), 10, 6, 32, 1e-6


class Musiq(nn.Module):
    """Pictures [n,3,H,W] in [0,1] -> quality [n]; with the file trained on SPAQ from about 0 to 100.

    Every picture is seen in three sizes: longer side 224, 384, and as it is. Patches that the reference adds and masks are not there.
    """

    def __init__(self, *, depth: int = 14, width: int = 384, hidden: int = 1152) -> None:
        super().__init__()
        self.conv_root = _StandardizedConvolution(3, 64, 7, stride=2)
        self.gn_root = nn.GroupNorm(_GROUPS, 64, eps=_EPS)
        self.block1 = _Bottleneck(64, 256)
        self.embedding = nn.Linear(256 * (_PATCH // 4) ** 2, width)
        self.transformer_encoder = _Encoder(depth, width, hidden)
        self.head = nn.Linear(width, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        tokens, cells, scales = [], [], []
        for scale, side in enumerate((*_SIDES, None)):
            sized = pictures if side is None else _longer_side(pictures, side)
            patches, cell = _patches(sized * 2 - 1)
            tokens.append(self._tokens(patches))
            cells.append(cell)
            scales.append(torch.full_like(cell, scale))
        encoded = self.transformer_encoder(torch.cat(tokens, dim=1), torch.cat(cells), torch.cat(scales))
        value: Tensor = self.head(encoded)[:, 0]
        return value

    def _tokens(self, patches: Tensor) -> Tensor:
        """[n,P,3,32,32] -> [n,P,width]."""
        maps = F.relu(self.gn_root(self.conv_root(patches.flatten(0, 1))))
        maps = self.block1(F.max_pool2d(F.pad(maps, (0, 1, 0, 1)), 3, 2))
        # TensorFlow's order of channels, with which the weights were trained.
        tokens = self.embedding(rearrange(maps, "patches channels rows columns -> patches (rows columns channels)"))
        each: Tensor = rearrange(tokens, "(n patches) width -> n patches width", n=len(patches))
        return each


class _StandardizedConvolution(nn.Conv2d):
    """Weights of zero mean and unit variance per output (Qiao et al. 2019); padded as TensorFlow's SAME."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        centred = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = centred / (centred.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(_pad_same(maps, self.kernel_size[0], self.stride[0]), weight, stride=self.stride)


class _Bottleneck(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        shapes = {"1": (inputs, inputs, 1), "2": (inputs, inputs, 3), "3": (inputs, outputs, 1), "_proj": (inputs, outputs, 1)}
        for name, shape in shapes.items():
            self.add_module(f"conv{name}", _StandardizedConvolution(*shape))
            self.add_module(f"gn{name}", nn.GroupNorm(_GROUPS, shape[1], eps=1e-4))

    def forward(self, maps: Tensor) -> Tensor:
        inner = F.relu(self._layer("2", F.relu(self._layer("1", maps))))
        return F.relu(self._layer("3", inner) + self._layer("_proj", maps))

    def _layer(self, name: str, maps: Tensor) -> Tensor:
        normalized: Tensor = self.get_submodule(f"gn{name}")(self.get_submodule(f"conv{name}")(maps))
        return normalized


class _Encoder(nn.Module):
    def __init__(self, depth: int, width: int, hidden: int) -> None:
        super().__init__()
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.posembed_input = nn.ParameterDict({"position_emb": torch.zeros(1, _GRID**2, width)})
        self.scaleembed_input = nn.ParameterDict({"scale_emb": torch.zeros(len(_SIDES) + 1, width)})
        self.transformer = nn.ModuleDict({f"encoderblock_{i}": _Block(width, hidden) for i in range(depth)})
        self.encoder_norm = nn.LayerNorm(width, eps=_EPS)

    def forward(self, tokens: Tensor, cells: Tensor, scales: Tensor) -> Tensor:
        """tokens: [n,P,width]; cells and scales: where in the picture and of which size each is, [P]. The class token, [n,width]."""
        tokens = tokens + self.posembed_input["position_emb"][0, cells] + self.scaleembed_input["scale_emb"][scales]
        tokens = torch.cat([self.cls.expand(len(tokens), -1, -1), tokens], dim=1)
        for block in self.transformer.values():
            tokens = block(tokens)
        encoded: Tensor = self.encoder_norm(tokens[:, 0])
        return encoded


class _Block(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=_EPS), nn.LayerNorm(width, eps=_EPS)
        self.attention = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value", "out")})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden, width)})

    def forward(self, tokens: Tensor) -> Tensor:
        normed = self.norm1(tokens)
        split = "n tokens (heads channels) -> n heads tokens channels"
        query, key, value = (rearrange(self.attention[name](normed), split, heads=_HEADS) for name in ("query", "key", "value"))
        attended = F.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.attention["out"](rearrange(attended, "n heads tokens channels -> n tokens (heads channels)"))
        changed: Tensor = tokens + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(tokens))))
        return changed


def load_musiq(path: Path) -> Musiq:
    """Read musiq_spaq_ckpt-358bb6af.pth or another MUSIQ file of IQA-PyTorch with a single output, frozen, in eval mode.

    Raises WeightsError, one sentence, for anything else.
    """
    return load_frozen(Musiq, path, what="a MUSIQ file of IQA-PyTorch that gives one score", prefix="module.")


def _longer_side(pictures: Tensor, side: int) -> Tensor:
    ratio = side / max(pictures.shape[-2:])
    height, width = (max(1, round(length * ratio)) for length in pictures.shape[-2:])
    return F.interpolate(pictures, size=(height, width), mode="bicubic")


def _patches(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """[n,3,H,W] -> [n,P,3,32,32], and the cell of the 10x10 grid in which each lies, [P]."""
    padded = _pad_same(pictures, _PATCH, _PATCH)
    rows, columns = (length // _PATCH for length in padded.shape[-2:])
    down, across = (torch.arange(count, device=pictures.device) * _GRID // count for count in (rows, columns))
    blocks = rearrange(padded, "n c (rows h) (columns w) -> n (rows columns) c h w", h=_PATCH, w=_PATCH)
    return blocks, (down[:, None] * _GRID + across).flatten()


def _pad_same(maps: Tensor, kernel: int, stride: int) -> Tensor:
    """Zeros around, as TensorFlow's SAME: the larger half after."""
    missing = [max(0, (-(-length // stride) - 1) * stride + kernel - length) for length in maps.shape[-2:]]
    down, across = missing
    return F.pad(maps, (across // 2, across - across // 2, down // 2, down - down // 2))
