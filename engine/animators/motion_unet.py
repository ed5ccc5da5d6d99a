"""diffusers' UNet with motion modules, as AnimateAnyone (Hu et al. 2024) and what grew out of it have it.

Frames are normed each for itself, and spatial self-attention reads a reference's features beside the frame's own.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..compute.unpatched import unpatched
from ..packages import needed
from ..surrogates.sd_unet import spatial_blocks, unet_config
from ..weights.filling import State, on_meta

if TYPE_CHECKING:
    from diffusers import UNetMotionModel

Bank = Mapping[str, Tensor]
"""Reference features by the name of the spatial attention that reads them, each [B,tokens,C]."""

Extend = Callable[["UNetMotionModel"], None]

LONGEST_CLIP = 32
"""Frames that the motion modules' positions reach."""

# The original's names of a motion module's parts, and those of diffusers' UNetMotionModel.
_MOTION_NAMES = (
    (".temporal_transformer.", "."),
    (".attention_blocks.0.pos_encoder.pe", ".pos_embed.pe"),
    (".attention_blocks.0.", ".attn1."),
    (".attention_blocks.1.", ".attn2."),
    (".norms.0.", ".norm1."),
    (".norms.1.", ".norm2."),
    (".ff_norm.", ".norm3."),
)
# A second copy of the same sinusoid; diffusers shares the first.
_SECOND_POSITIONS = ".attention_blocks.1.pos_encoder.pe"


def read_bank(unet: nn.Module) -> None:
    """Have every spatial self-attention read the bank that cross_attention_kwargs hold, if any, by its name."""
    for name, block in spatial_blocks(unet):
        block.attn1.set_processor(_BankAttention(name))  # type: ignore[operator, union-attr]
        block.attn2.set_processor(_BankAttention(None))  # type: ignore[operator, union-attr]


class _BankAttention:
    """diffusers' own attention, over the frame's tokens and the reference's: one row of the bank for each frame or for each clip."""

    def __init__(self, name: str | None) -> None:
        with needed("diffusers"):
            from diffusers.models.attention_processor import AttnProcessor2_0
        self._name, self._attend = name, unpatched(AttnProcessor2_0())

    def __call__(
        self,
        attention: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        bank: Bank | None = None,
    ) -> Tensor:
        if self._name is not None and bank:
            reference = bank[self._name]
            frames = hidden_states.shape[0] // reference.shape[0]
            encoder_hidden_states = torch.cat([hidden_states, reference.repeat_interleave(frames, dim=0)], dim=1)
        attended: Tensor = self._attend(attention, hidden_states, encoder_hidden_states, attention_mask)
        return attended


class _PerFrameGroupNorm(nn.GroupNorm):
    """Statistics of each frame on its own, as in the original; diffusers' motion modules take them over all frames."""

    def forward(self, video: Tensor) -> Tensor:
        """[B,C,N,h,w] -> the same."""
        normed = super().forward(rearrange(video, "b c n h w -> (b n) c h w"))
        return rearrange(normed, "(b n) c h w -> b c n h w", b=len(video))


def recomputable(module: nn.Module, block: nn.Module) -> Callable[..., Tensor]:
    """The forward pass of a module's block, with gradient checkpointing when the module's switch is on: diffusers leaves these out."""
    # Weak references: the block's `forward` becomes this function, and strong ones would form a cycle that keeps the weights in memory.
    switch, forward = weakref.proxy(module), partial(type(block).forward, weakref.proxy(block))

    def run(*inputs: Any, **named: Any) -> Tensor:
        if torch.is_grad_enabled() and switch.gradient_checkpointing:
            recomputed: Tensor = checkpoint(forward, *inputs, use_reentrant=False, **named)
            return recomputed
        result: Tensor = forward(*inputs, **named)
        return result

    return run


def motion_unet(
    state: State, *, heads: int, groups: int, motion_heads: int | None = None, longest: int = LONGEST_CLIP, extend: Extend | None = None
) -> UNetMotionModel:
    """diffusers' UNetMotionModel without weights, of the layout that `state` has, normalising as the original does.

    motion_heads: of the motion modules, where they have other than the spatial attention. longest: frames that positions reach.
    extend: adds modules of its own to the UNet.
    Raises KeyError or ValueError where the tensors of `state` have no such layout.
    """
    with needed("diffusers"):
        from diffusers import UNetMotionModel
    config = unet_config(state, heads=heads, groups=groups)
    config["num_attention_heads"] = config.pop("heads")
    config["motion_num_attention_heads"] = motion_heads or heads
    for key in ("down_block_types", "up_block_types"):
        config[key] = tuple(f"{kind}Motion" for kind in config[key])
    config["motion_max_seq_length"] = longest
    config["use_motion_mid_block"] = any(name.startswith("mid_block.motion_modules.") for name in state)

    def make() -> UNetMotionModel:
        unet = unpatched(UNetMotionModel(**config))
        for name, module in list(unet.named_modules()):
            if name.split(".")[-2:-1] == ["motion_modules"]:
                # The original always has 32 groups and this epsilon here, whatever the rest of the UNet has.
                cast(Any, module).norm = _PerFrameGroupNorm(32, module.norm.num_channels, eps=1e-6)
                # The switch that enable_gradient_checkpointing looks for on every module.
                cast(Any, module).gradient_checkpointing = False
                for block in cast(nn.ModuleList, module.transformer_blocks):
                    block.forward = recomputable(module, block)
        if extend is not None:
            extend(unet)
        return unet

    return cast(UNetMotionModel, on_meta(cast(Any, make)))


def upstream_names(name: str) -> list[str]:
    """AnimateAnyone's name of a motion module's tensor in UNetMotionModel; two names for the positions, which it holds twice."""
    module, _, inner = re.fullmatch(r"(.*\.motion_modules\.\d+)(\.)(.*)", name).groups()  # type: ignore[union-attr]
    inner = f".{inner}"
    if inner.endswith(".pos_embed.pe"):
        first = inner.replace(".pos_embed.pe", ".attention_blocks.0.pos_encoder.pe")
        return [f"{module}.temporal_transformer{copy}" for copy in (first, first.replace("blocks.0.pos", "blocks.1.pos"))]
    for old, new in _MOTION_NAMES[2:]:
        inner = inner.replace(new, old)
    return [f"{module}.temporal_transformer{inner}"]


def diffusers_names(state: State) -> State:
    """The same tensors under diffusers' names; only those of motion modules differ."""
    return {_motion_name(key): tensor for key, tensor in state.items() if not key.endswith(_SECOND_POSITIONS)}


def _motion_name(name: str) -> str:
    for old, new in _MOTION_NAMES if ".motion_modules." in name else ():
        name = name.replace(old, new)
    return name
