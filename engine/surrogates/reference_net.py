"""ReferenceNets: the UNets that pose-driven animators read a portrait with.

Four published formats, told apart by their keys: AnimateAnyone's reference_unet (Hu et al. 2024, as released by
MooreThreads), MagicAnimate's appearance_encoder (Xu et al. 2024), MagicPose's appearance_control_model (Chang et al. 2024), and
any UNet of Stable Diffusion 1.5, from which the other three were fine-tuned and which can stand in for them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import torch
from einops import rearrange
from torch import Tensor, nn

from ..compute.half import with_scaled_gradient
from ..packages import needed
from ..weights.filling import State, fill, on_meta
from ..weights.reading import WeightsError, read_weights
from .sd_unet import GROUPS, HEADS, check_family, from_ldm, spatial_blocks, unet_config

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


@dataclass(frozen=True)
class Format:
    """How a published ReferenceNet is used.

    timestep: the one that it is always asked at; None asks it at the animator's own. context: what its cross-attention
    reads, the photo's CLIP embedding or the empty prompt. `published` is False for a stand-in.
    """

    name: str
    timestep: int | None
    context: Literal["image", "text"]
    published: bool = True


ANIMATE_ANYONE = Format("AnimateAnyone", 0, "image")
MAGIC_ANIMATE = Format("MagicAnimate", None, "text")
MAGIC_POSE = Format("MagicPose", None, "text")
HALLO = Format("Hallo", 0, "image")
SD15 = Format("SD 1.5 (transfer surrogate)", 0, "text", published=False)

_MAGIC_POSE_PREFIX = "appearance_control_model."
_CHECKPOINT_PREFIX = "model.diffusion_model."
# MagicPose's pose encoder, which its reference branch never runs; the last layers of a UNet, behind the last feature.
_UNUSED = ("input_hint_block.", "out.", "conv_norm_out.", "conv_out.")


class ReferenceNet(nn.Module):
    """A UNet up to the last self-attention input, which is all that animators and Dormant read of it."""

    def __init__(self, unet: UNet2DConditionModel, format: Format) -> None:
        """unet: as `truncated_unet` makes it."""
        super().__init__()
        self.unet, self.format = unet, format
        self.names: tuple[str, ...] = tuple(name for name, _ in spatial_blocks(unet))

    @property
    def context_dim(self) -> int:
        """Width of the embeddings that cross-attention reads."""
        return int(self.unet.config["cross_attention_dim"])

    def forward(self, latent: Tensor, timestep: int, context: Tensor) -> tuple[Tensor, ...]:
        """What enters each spatial self-attention (the output of `norm1`), one [B,tokens,C] for each of `names`.

        latent: [B,4,h,w] as UNets see it (scaled); context: [B,T,D]. Features are in the network's dtype, or in fp32
        where they keep a graph through a network in fp16.
        """
        dtype = self.unet.dtype

        def run(latent: Tensor, context: Tensor) -> tuple[Tensor, ...]:
            with self._listening() as seen:
                self.unet(latent.to(dtype), torch.full((), timestep, device=latent.device), context.to(dtype), return_dict=False)
            return tuple(seen)

        return with_scaled_gradient(run, latent, context, network=self) if dtype == torch.float16 else run(latent, context)

    @contextlib.contextmanager
    def _listening(self) -> Iterator[list[Tensor]]:
        """For one pass: hooks that stayed would form a cycle with the UNet and keep its weights in memory."""
        seen: list[Tensor] = []
        norms = [cast(nn.Module, block.norm1) for _, block in spatial_blocks(self.unet)]
        hooks = [norm.register_forward_hook(lambda module, inputs, output: seen.append(output)) for norm in norms]
        try:
            yield seen
        finally:
            for hook in hooks:
                hook.remove()


class _LastAttention(nn.Module):
    """The last spatial block up to its `norm1`, under the names that the whole block has; what follows is never used."""

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.norm, self.proj_in = whole.norm, whole.proj_in
        block = nn.Module()
        block.norm1 = whole.transformer_blocks[0].norm1  # type: ignore[index, union-attr]
        self.transformer_blocks = nn.ModuleList([block])

    def forward(self, hidden: Tensor, **_: object) -> tuple[Tensor]:
        maps = cast(nn.Module, self.proj_in)(cast(nn.Module, self.norm)(hidden))
        cast(nn.Module, self.transformer_blocks[0].norm1)(rearrange(maps, "b c h w -> b (h w) c"))
        return (hidden,)


def truncated_unet(state: State, *, heads: int, groups: int) -> UNet2DConditionModel:
    """diffusers' UNet without weights, of the layout that `state` has, cut after its last `norm1`.

    Raises KeyError or ValueError where the tensors of `state` have no such layout.
    """
    config = unet_config(state, heads=heads, groups=groups)
    # diffusers calls the number of heads attention_head_dim here, a mistake of its own that it keeps.
    config["attention_head_dim"] = config.pop("heads")
    for key in ("down_block_types", "up_block_types"):
        config[key] = tuple(f"{kind}2D" for kind in config[key])
    with needed("diffusers"):
        from diffusers import UNet2DConditionModel
    unet = cast(UNet2DConditionModel, on_meta(lambda: UNet2DConditionModel(**config)))
    attentions = cast(nn.ModuleList, unet.up_blocks[-1].attentions)
    attentions[-1] = _LastAttention(attentions[-1])
    unet.conv_norm_out, unet.conv_out = None, nn.Identity()
    return unet


def read_part(state: State, unet: UNet2DConditionModel) -> State:
    """Without the tensors that a whole UNet has behind the place where `truncated_unet` cuts it."""
    tail = f"up_blocks.{len(unet.up_blocks) - 1}.attentions.{len(unet.up_blocks[-1].attentions) - 1}."
    own = unet.state_dict().keys()
    return {key: tensor for key, tensor in state.items() if key in own or not key.startswith((*_UNUSED, tail))}


def load_reference_net(path: Path, *, dtype: torch.dtype = torch.float32, heads: int = HEADS, groups: int = GROUPS) -> ReferenceNet:
    """Read a ReferenceNet of any of the four formats, frozen, in eval mode, on the CPU.

    heads, groups: of attention and GroupNorm, which no file tells; the defaults are those of every published network.
    Raises WeightsError, one sentence, for a file that is none, naming the tensors that are missing or unknown.
    """
    return reference_net(read_weights(path), path.name, dtype=dtype, heads=heads, groups=groups)


def reference_net(state: State, name: str, *, dtype: torch.dtype = torch.float32, heads: int = HEADS, groups: int = GROUPS) -> ReferenceNet:
    """As `load_reference_net`, from tensors that were read from a file called `name`."""
    state, format, unknown = _recognise(state, name)
    check_family(state, name)
    try:
        unet = truncated_unet(state, heads=heads, groups=groups)
    except (KeyError, ValueError) as error:
        raise _no_reference_net(name) from error
    fill(unet, read_part(state, unet), dtype, name=name, what=f"a ReferenceNet in {format.name}'s format", unknown=unknown)
    return ReferenceNet(unet, format)


def _recognise(state: State, name: str) -> tuple[State, Format, set[str]]:
    """Tensors in diffusers' names, the format, and names that have no place in it."""
    for prefix, format in ((_MAGIC_POSE_PREFIX, MAGIC_POSE), (_CHECKPOINT_PREFIX, SD15), ("", SD15)):
        if f"{prefix}input_blocks.0.0.weight" in state:
            converted, unknown = from_ldm(state, prefix, name)
            return converted, format, {key for key in unknown if not key.removeprefix(prefix).startswith(_UNUSED)}
    if any(key.startswith("reference_unet.") for key in state):
        raise WeightsError(f"{name} is the whole of Hallo: use Load Talking Head, or choose a reference_unet here.")
    if any(".motion_modules." in key for key in state):
        raise WeightsError(f"{name} is an animator's denoiser or motion module: choose its reference_unet here, or use Load Pose Animator.")
    if "conv_in.weight" not in state or not any(key.startswith("down_blocks.") for key in state):
        raise _no_reference_net(name)
    if "conv_out.weight" in state:
        return state, SD15, set()
    last = max((key for key in state if key.startswith("up_blocks.") and key.endswith("transformer_blocks.0.norm1.weight")), default="")
    whole = last.replace("norm1.weight", "attn1.to_q.weight") in state
    return state, ANIMATE_ANYONE if whole else MAGIC_ANIMATE, set()


def _no_reference_net(name: str) -> WeightsError:
    return WeightsError(
        f"{name} is not a ReferenceNet: choose AnimateAnyone's reference_unet.pth, MagicAnimate's appearance_encoder, MagicPose's "
        "model_state-110000.th or a Stable Diffusion 1.5 model."
    )
