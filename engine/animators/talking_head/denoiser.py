"""Hallo's denoiser: the order in which spatial attention, audio and motion follow each other, and the two networks that one file makes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from ...weights.filling import State
from ..motion_unet import Bank, diffusers_names, motion_unet, read_bank
from .audio import AudioModule

if TYPE_CHECKING:
    from diffusers import UNetMotionModel

Mode = Literal["reference", "faithful"]
"""Which of two networks the same weights make.

"faithful" is the one that Hallo generates with: in the blocks with attention the motion frames stand before the current ones, and the
blocks without attention have no motion. "reference" is the one that Silencer's code differentiates: motion frames count in the middle
block alone, and the blocks without attention have motion too.
"""

Masks = tuple[Tensor, ...]
"""For each level of the UNet [3,1 or N,h,w] in [0,1]: where the frame is background, face and lips."""

Scale = tuple[float, float, float]


@dataclass(frozen=True)
class _Pass:
    """What every layer of one pass is told; rows are frames, N = batch * frames."""

    frames: int
    time: Tensor
    context: Tensor
    audio: Tensor
    masks: Masks
    bank: Bank
    motion: Bank
    scale: Scale
    mode: Mode


class TalkingDenoiser(nn.Module):
    """The UNet of diffusers with Hallo's audio modules in it, run in Hallo's order."""

    def __init__(self, unet: UNetMotionModel) -> None:
        """unet: as `talking_unet` makes it."""
        super().__init__()
        self.unet = unet
        read_bank(unet)

    def forward(
        self,
        noisy: Tensor,
        timestep: Tensor,
        context: Tensor,
        face: Tensor,
        audio: Tensor,
        masks: Masks,
        bank: Bank,
        motion: Bank,
        *,
        mode: Mode,
        scale: Scale = (1, 1, 1),
    ) -> Tensor:
        """See TalkingHead.denoise; everything in the network's dtype."""
        unet: Any = self.unet
        batch, _, frames = noisy.shape[:3]
        time = unet.time_embedding(unet.time_proj(timestep.expand(batch)).to(noisy.dtype)).repeat_interleave(frames, dim=0)
        told = _Pass(
            frames,
            time,
            context.repeat_interleave(frames, dim=0),
            audio.flatten(0, 1),
            tuple(_rows(level, batch * frames, axis=1) for level in masks),
            bank,
            motion,
            scale,
            mode,
        )
        hidden = unet.conv_in(rearrange(noisy, "b c f h w -> (b f) c h w"))
        hidden = hidden + _rows(face, batch * frames)
        hidden = self._up(*self._down(hidden, told), told)
        out: Tensor = unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden)))
        return rearrange(out, "(b f) c h w -> b c f h w", f=frames)

    def _down(self, hidden: Tensor, told: _Pass) -> tuple[Tensor, list[Tensor]]:
        """Down and through the middle: what comes out, and what the way up is given beside."""
        unet: Any = self.unet
        skips = [hidden]
        for level, block in enumerate(unet.down_blocks):
            for index in range(len(block.resnets)):
                hidden = self._layer(block, f"down_blocks.{level}", index, level, hidden, told)
                skips.append(hidden)
            for downsampler in block.downsamplers or ():
                hidden = downsampler(hidden)
                skips.append(hidden)
        middle = unet.mid_block
        hidden = _resnet(middle, 0, hidden, told)
        for index in range(len(middle.attentions)):
            hidden = self._attended(middle, "mid_block", index, len(unet.down_blocks) - 1, hidden, told)
            hidden = _moved(middle.motion_modules[index], hidden, told.motion.get(f"mid_block.attentions.{index}"), told)
            hidden = _resnet(middle, index + 1, hidden, told)
        return hidden, skips

    def _up(self, hidden: Tensor, skips: list[Tensor], told: _Pass) -> Tensor:
        blocks: Any = self.unet.up_blocks
        for number, block in enumerate(blocks):
            for index in range(len(block.resnets)):
                hidden = torch.cat([hidden, skips.pop()], dim=1)
                hidden = self._layer(block, f"up_blocks.{number}", index, len(blocks) - 1 - number, hidden, told)
            for upsampler in block.upsamplers or ():
                # Where a side is odd, as large as what comes from beside.
                hidden = upsampler(hidden, skips[-1].shape[2:])
        return hidden

    def _layer(self, block: Any, name: str, index: int, level: int, hidden: Tensor, told: _Pass) -> Tensor:
        hidden = _resnet(block, index, hidden, told)
        faithful = told.mode == "faithful"
        if not hasattr(block, "attentions"):
            return hidden if faithful else _moved(block.motion_modules[index], hidden, None, told)
        hidden = self._attended(block, name, index, level, hidden, told)
        before = told.motion.get(f"{name}.attentions.{index}") if faithful else None
        return _moved(block.motion_modules[index], hidden, before, told)

    def _attended(self, block: Any, name: str, index: int, level: int, hidden: Tensor, told: _Pass) -> Tensor:
        """Spatial attention, with the reference, then the audio."""
        attend = block.attentions[index]
        hidden = attend(hidden, told.context, cross_attention_kwargs={"bank": told.bank}, return_dict=False)[0]
        # Scales reach the middle block alone in the other network, as motion frames do.
        scale = told.scale if told.mode == "faithful" or name == "mid_block" else (1.0, 1.0, 1.0)
        heard: Tensor = block.audio_modules[index](hidden, told.audio, told.masks[level], scale)
        return heard


def _resnet(block: Any, index: int, hidden: Tensor, told: _Pass) -> Tensor:
    resnet, recomputed = block.resnets[index], torch.is_grad_enabled() and block.gradient_checkpointing
    result: Tensor = block._gradient_checkpointing_func(resnet, hidden, told.time) if recomputed else resnet(hidden, told.time)
    return result


def _moved(module: Any, hidden: Tensor, before: Tensor | None, told: _Pass) -> Tensor:
    """Through a motion module, with motion frames [B,M,h*w,C] before the current ones where there are any."""
    if before is None:
        result: Tensor = module(hidden, num_frames=told.frames)
        return result
    current = rearrange(hidden, "(b f) c h w -> b f c h w", f=told.frames)
    frames = rearrange(before.to(hidden), "b m (h w) c -> b m c h w", h=hidden.shape[2]).expand(len(current), -1, -1, -1, -1)
    video = torch.cat([frames, current], dim=1)
    moved = module(video.flatten(0, 1), num_frames=video.shape[1]).view_as(video)
    return moved[:, frames.shape[1] :].flatten(0, 1)  # type: ignore[no-any-return]


def _rows(values: Tensor, rows: int, *, axis: int = 0) -> Tensor:
    """One for all frames, or one for each frame of a clip, for every row."""
    repeats = [1] * values.ndim
    repeats[axis] = rows // values.shape[axis]
    return values.repeat(repeats)


def talking_unet(state: State, *, heads: int, groups: int, motion_heads: int) -> UNetMotionModel:
    """The UNet without weights, of the layout that `state` has in Hallo's names below denoising_unet, audio modules included.

    Raises KeyError or ValueError where the tensors of `state` have no such layout.
    """
    positions = state["mid_block.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.pos_encoder.pe"].shape[1]
    audio = state["mid_block.audio_modules.0.transformer_blocks.0.attn2_0.to_k.weight"].shape[1]

    def extend(unet: UNetMotionModel) -> None:
        for name, block in _blocks(unet):
            modules = []
            for index in range(len(block.attentions)):
                inner, width = state[f"{name}.audio_modules.{index}.proj_in.weight"].shape[:2]
                modules.append(AudioModule(width, inner, audio, heads=heads, groups=groups))
            block.audio_modules = nn.ModuleList(modules)

    spatial = diffusers_names(state)
    return motion_unet(spatial, heads=heads, groups=groups, motion_heads=motion_heads, longest=positions, extend=extend)


def _blocks(unet: Any) -> Iterator[tuple[str, Any]]:
    """Those with attention, by name."""
    for name, block in (
        *((f"down_blocks.{i}", block) for i, block in enumerate(unet.down_blocks)),
        ("mid_block", unet.mid_block),
        *((f"up_blocks.{i}", block) for i, block in enumerate(unet.up_blocks)),
    ):
        if hasattr(block, "attentions"):
            yield name, block
