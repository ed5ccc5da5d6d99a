"""Audio in Hallo: what its networks are told of speech, and the block in which every frame's tokens read it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...packages import needed

REGIONS = ("full", "face", "lip")
"""What the three masks are called; "full" is the background, as Hallo fills it."""


def windows(features: Tensor, context: int, frames: Sequence[int] | None = None) -> Tensor:
    """Speech features [N,layers,channels], one a frame -> [n,2*context+1,layers,channels] around these frames, or all; ends repeated."""
    at = torch.arange(len(features)) if frames is None else torch.tensor(frames)
    around = torch.arange(-context, context + 1)
    window: Tensor = features[(at[:, None] + around).clamp(0, len(features) - 1)]
    return window


class AudioProjection(nn.Module):
    """Windows of speech features become tokens. Names of tensors as in Hallo's audioproj."""

    def __init__(self, read: int, inner: int, tokens: int, width: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.proj1, self.proj2, self.proj3 = nn.Linear(read, inner), nn.Linear(inner, inner), nn.Linear(inner, tokens * width)
        self.norm = nn.LayerNorm(width)

    def forward(self, windows: Tensor) -> Tensor:
        """[N,window,layers,channels] -> [N,tokens,width]."""
        hidden = self.proj2(self.proj1(windows.flatten(1)).relu()).relu()
        tokens: Tensor = self.norm(rearrange(self.proj3(hidden), "n (t d) -> n t d", t=self.tokens))
        return tokens


class FaceProjection(nn.Module):
    """An embedding of the face becomes the tokens that stand where a prompt would. Names of tensors as in Hallo's imageproj."""

    def __init__(self, read: int, tokens: int, width: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.proj, self.norm = nn.Linear(read, tokens * width), nn.LayerNorm(width)

    def forward(self, embedding: Tensor) -> Tensor:
        """[B,D] -> [B,tokens,width]."""
        tokens: Tensor = self.norm(rearrange(self.proj(embedding), "b (t d) -> b t d", t=self.tokens))
        return tokens


class AudioBlock(nn.Module):
    """Self-attention, then three cross-attentions to the audio, each for one region of the picture, then the feed-forward part.

    h += attn1(norm1 h); n = norm2 h; h += sum over r in REGIONS of zero_conv_r(attn2_r(n, audio) * mask_r); h += ff(norm3 h).
    The mask stands before the convolution, so that a region's bias is added everywhere.
    """

    def __init__(self, width: int, audio: int, heads: int) -> None:
        super().__init__()
        with needed("diffusers"):
            from diffusers.models.attention import FeedForward
            from diffusers.models.attention_processor import Attention
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn1 = Attention(width, heads=heads, dim_head=width // heads)
        for index, region in enumerate(REGIONS):
            self.add_module(f"attn2_{index}", Attention(width, audio, heads=heads, dim_head=width // heads))
            self.add_module(f"zero_conv_{region}", nn.Conv2d(width, width, 1))
        self.ff = FeedForward(width, activation_fn="geglu")

    def forward(self, hidden: Tensor, audio: Tensor, masks: Tensor, scale: tuple[float, float, float]) -> Tensor:
        """hidden: [N,h*w,C]. audio: [N,T,D]. masks: [3,N,h,w]. scale: how much each region counts."""
        hidden = hidden + self.attn1(self.norm1(hidden))
        normed = self.norm2(hidden)
        for index, (region, mask, share) in enumerate(zip(REGIONS, masks, scale, strict=True)):
            attended = self.get_submodule(f"attn2_{index}")(normed, audio) * mask.flatten(1)[..., None]
            maps = rearrange(attended, "n (h w) c -> n c h w", h=mask.shape[1])
            moved = rearrange(self.get_submodule(f"zero_conv_{region}")(maps), "n c h w -> n (h w) c")
            hidden = hidden + (moved if share == 1 else moved * share)
        fed: Tensor = hidden + self.ff(self.norm3(hidden))
        return fed


class AudioModule(nn.Module):
    """An audio block between projections, as a residual. Names of tensors as in Hallo's audio_modules."""

    def __init__(self, width: int, inner: int, audio: int, *, heads: int, groups: int) -> None:
        """inner: the block's width, which in Hallo is what the UNet's block is given, not what it gives."""
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.proj_in, self.proj_out = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 1)
        self.transformer_blocks = nn.ModuleList([AudioBlock(inner, audio, heads)])
        # The switch that diffusers' enable_gradient_checkpointing looks for on every module.
        self.gradient_checkpointing = False

    def forward(self, maps: Tensor, audio: Tensor, masks: Tensor, scale: tuple[float, float, float] = (1, 1, 1)) -> Tensor:
        """maps: [N,C,h,w], one for each frame. audio: [N,T,D]. masks: [3,N,h,w]."""
        hidden = rearrange(self.proj_in(self.norm(maps)), "n c h w -> n (h w) c")
        for block in self.transformer_blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                hidden = checkpoint(block, hidden, audio, masks, scale, use_reentrant=False)
            else:
                hidden = block(hidden, audio, masks, scale)
        moved: Tensor = maps + self.proj_out(rearrange(hidden, "n (h w) c -> n c h w", h=maps.shape[2]))
        return moved
