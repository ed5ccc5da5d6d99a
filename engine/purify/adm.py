"""ADM, the diffusion model in pixel space of Dhariwal and Nichol 2021, from the file that OpenAI publishes.

DiffPure, DDSPure and GrIDPure purify with its unconditional model of 256 pixels, `256x256_diffusion_uncond.pt`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ..packages import needed
from ..weights.filling import State, on_meta
from ..weights.reading import WeightsError, read_weights

if TYPE_CHECKING:
    from diffusers import UNet2DModel

HEAD_CHANNELS = 64
"""Channels of an attention head in the published models; the shapes in a file do not tell them."""

_PUBLISHED = "choose OpenAI's 256x256_diffusion_uncond.pt"

# What parts of a block are called by diffusers, and what by OpenAI.
_RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_ATTENTION = {"group_norm": "norm", "to_q": "qkv", "to_k": "qkv", "to_v": "qkv", "to_out.0": "proj_out"}
_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


class ADM(nn.Module):
    """Noise and variance that the network predicts, on the linear schedule of 1000 steps (betas 1e-4 to 0.02)."""

    def __init__(self, unet: UNet2DModel) -> None:
        super().__init__()
        self.unet = unet

    @property
    def multiple(self) -> int:
        """Height and width must be multiples of this."""
        return int(2 ** (len(self.unet.config["block_out_channels"]) - 1))

    def forward(self, image: Tensor, timestep: Tensor) -> Tensor:
        """[B,3,H,W] in [-1,1] with noise, and its step in 0..999 [B] -> [B,6,H,W] in fp32, the original's output.

        Its first three channels are the noise epsilon, the last three v in [-1,1], which stands for the log variance
        (v + 1)/2 log(beta) + (1 - v)/2 log(posterior variance) (Nichol and Dhariwal 2021, equation 15).
        """
        (output,) = self.unet(image.to(self.unet.dtype), timestep, return_dict=False)
        return cast(Tensor, output).float()

    def eps_and_variance(self, image: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """The two halves of `forward`'s output, each [B,3,H,W]."""
        eps, variance = self(image, timestep).chunk(2, dim=1)
        return eps, variance


def load_adm(path: Path, *, dtype: torch.dtype = torch.float32, head_channels: int = HEAD_CHANNELS) -> ADM:
    """Read an unconditional ADM with learned variance of any size, frozen, in eval mode, on the CPU.

    Raises WeightsError, one sentence, for other files, naming the tensors that are missing, unknown or of other shapes.
    """
    return adm(read_weights(path), path.name, dtype=dtype, head_channels=head_channels)


def adm(state: State, name: str, *, dtype: torch.dtype = torch.float32, head_channels: int = HEAD_CHANNELS) -> ADM:
    """ADM from the tensors of a file of this name; see `load_adm`."""
    layout = _layout(state, name)
    attending = [width for width, attends in zip(layout.widths, (*layout.attends[:-1], True), strict=True) if attends]
    if any(width % 32 for width in layout.widths) or any(width % head_channels for width in attending):
        raise WeightsError(
            f"{name} has levels {', '.join(map(str, layout.widths))} channels wide, which groups of 32 and attention heads of "
            f"{head_channels} channels do not divide: {_PUBLISHED}."
        )
    with needed("diffusers"):
        from diffusers import UNet2DModel
    unet = cast(UNet2DModel, on_meta(lambda: UNet2DModel(**layout.config(head_channels))))
    original = {key: layout.original_name(key) for key in unet.state_dict()}
    _account_for(state, {original[key]: _original_shape(key, value) for key, value in unet.state_dict().items()}, name)
    # Copied even where the dtype is right: read_weights maps the file, which may change or vanish, and whose tensors may lie unaligned.
    given = {
        key: _part(key, state[original[key]], head_channels).reshape(value.shape).to(dtype, copy=True)
        for key, value in unet.state_dict().items()
    }
    unet.load_state_dict(given, assign=True)
    return ADM(unet).eval().requires_grad_(False)


@dataclass(frozen=True)
class _Layout:
    """Widths and attention of each level from fine to coarse, and residual blocks per level on the way down."""

    widths: tuple[int, ...]
    attends: tuple[bool, ...]
    layers: int

    def config(self, head_channels: int) -> dict[str, Any]:
        """Arguments of diffusers' UNet2DModel."""
        return {
            "in_channels": 3,
            "out_channels": 6,
            "block_out_channels": self.widths,
            "layers_per_block": self.layers,
            "down_block_types": tuple("AttnDownBlock2D" if attends else "ResnetDownsampleBlock2D" for attends in self.attends),
            "up_block_types": tuple("AttnUpBlock2D" if attends else "ResnetUpsampleBlock2D" for attends in reversed(self.attends)),
            "downsample_type": "resnet",
            "upsample_type": "resnet",
            "attention_head_dim": head_channels,
            "resnet_time_scale_shift": "scale_shift",
            # Without this argument diffusers leaves out the norm before the middle block's attention, which the file has.
            "attn_norm_num_groups": 32,
        }

    def original_name(self, key: str) -> str:
        """OpenAI's name of a tensor of diffusers' network."""
        module, _, kind = key.rpartition(".")
        if module in _ENDS:
            return f"{_ENDS[module]}.{kind}"
        if module.startswith("mid_block."):
            _, part, index, inner = module.split(".", 3)
            block = "middle_block.1" if part == "attentions" else f"middle_block.{2 * int(index)}"
        else:
            side, level, part, index, inner = module.split(".", 4)
            block = self._block(side, int(level), part, int(index))
        return f"{block}.{(_ATTENTION if '.attentions.' in key else _RESIDUAL)[inner]}.{kind}"

    def _block(self, side: str, level: int, part: str, index: int) -> str:
        """The original counts blocks without levels; a level on the way up has one more."""
        if side == "down_blocks":
            number = 1 + level * (self.layers + 1) + (self.layers if part == "downsamplers" else index)
            return f"input_blocks.{number}.{1 if part == 'attentions' else 0}"
        number = level * (self.layers + 1) + (self.layers if part == "upsamplers" else index)
        after = 1 + self.attends[len(self.attends) - 1 - level]
        return f"output_blocks.{number}.{ {'resnets': 0, 'attentions': 1, 'upsamplers': after}[part] }"


def _layout(state: State, name: str) -> _Layout:
    """Raises WeightsError for files that are no ADM, or one of another kind."""
    first, last = state.get("input_blocks.0.0.weight"), state.get("out.2.weight")
    if first is None or last is None or "time_embed.0.weight" not in state:
        raise WeightsError(f"{name} is not a model in ADM's format (guided-diffusion): {_PUBLISHED}.")
    if "label_emb.weight" in state:
        raise WeightsError(f"{name} is an ADM that has to be told what a picture shows (class-conditional): {_PUBLISHED}.")
    if first.shape[1] != 3 or last.shape[0] != 6:
        raise WeightsError(
            f"{name} takes {first.shape[1]} channels and gives {last.shape[0]}, where a model of pictures with learned variance has "
            f"3 and 6: {_PUBLISHED}."
        )
    blocks = len({key.split(".")[1] for key in state if key.startswith("input_blocks.")})
    # On the way up every level but the last ends with a residual block that doubles the size.
    levels = 1 + sum(bool(re.fullmatch(r"output_blocks\.\d+\.[12]\.in_layers\.0\.weight", key)) for key in state)
    layers = blocks // levels - 1
    starts = [1 + level * (layers + 1) for level in range(levels)]
    try:
        widths = tuple(state[f"input_blocks.{start}.0.out_layers.3.weight"].shape[0] for start in starts)
    except KeyError as error:
        raise WeightsError(f"{name} has no blocks of ADM's layout at {error.args[0]}: {_PUBLISHED}.") from error
    attends = (any(f"input_blocks.{start + layer}.1.qkv.weight" in state for layer in range(layers)) for start in starts)
    return _Layout(widths, tuple(attends), layers)


def _account_for(state: State, wanted: dict[str, tuple[int, ...]], name: str) -> None:
    problems = {
        "lacks": wanted.keys() - state.keys(),
        "has unknown": state.keys() - wanted.keys(),
        "has other shapes for": {key for key in wanted.keys() & state.keys() if tuple(state[key].shape) != wanted[key]},
    }
    found = [f"{label} {', '.join(sorted(keys)[:3])} ({len(keys)} in all)" for label, keys in problems.items() if keys]
    if found:
        raise WeightsError(f"{name} is not a whole ADM, because it {' and '.join(found)}: {_PUBLISHED}.")


def _original_shape(key: str, value: Tensor) -> tuple[int, ...]:
    """Queries, keys and values are one tensor in the original, and its linear maps are convolutions over one dimension."""
    shape = tuple(value.shape)
    if ".attentions." not in key or ".group_norm." in key:
        return shape
    rows = shape[0] * (1 if ".to_out." in key else 3)
    return (rows, *shape[1:], 1) if key.endswith("weight") else (rows,)


def _part(key: str, value: Tensor, head_channels: int) -> Tensor:
    """What of an original tensor diffusers keeps under `key`: each head's queries, keys and values lie one after the other."""
    for index, part in enumerate((".to_q.", ".to_k.", ".to_v.")):
        if part in key:
            heads: Tensor = value.unflatten(0, (-1, 3, head_channels))
            return heads[:, index].flatten(0, 1)
    return value
