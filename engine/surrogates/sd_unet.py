"""UNets of the Stable Diffusion 1.5 family: their layout read from the names and shapes in a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from ..packages import needed
from ..weights.filling import State
from ..weights.reading import WeightsError

LATENT_SCALE = 0.18215
"""What the family's latents are multiplied with before a UNet sees them (Rombach et al. 2022)."""

# Neither can be told from the shapes in a file. All published networks of the family have these.
HEADS, GROUPS = 8, 32


def unet_config(state: State, *, heads: int = HEADS, groups: int = GROUPS) -> dict[str, Any]:
    """Arguments for diffusers' UNet classes from a state dict in diffusers' names; block types without their 2D/Motion ending.

    Raises KeyError when a tensor that tells the layout is missing.
    """
    levels = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("down_blocks."))
    layers = 1 + max(int(name.split(".")[3]) for name in state if name.startswith("down_blocks.0.resnets."))
    attends = [any(name.startswith(f"down_blocks.{i}.attentions.") for name in state) for i in range(levels)]
    return {
        "block_out_channels": tuple(state[f"down_blocks.{i}.resnets.0.conv1.weight"].shape[0] for i in range(levels)),
        "layers_per_block": layers,
        "down_block_types": tuple("CrossAttnDownBlock" if cross else "DownBlock" for cross in attends),
        "up_block_types": tuple("CrossAttnUpBlock" if cross else "UpBlock" for cross in reversed(attends)),
        "cross_attention_dim": state["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"].shape[1],
        "norm_num_groups": groups,
        "heads": heads,
    }


def check_family(state: State, name: str) -> None:
    """Raises WeightsError for a UNet of another family (SDXL, SD 2, inpainting); `state` in diffusers' names."""
    if "add_embedding.linear_1.weight" in state:
        raise WeightsError(f"{name} is an SDXL UNet, and only the Stable Diffusion 1.5 family works here: choose an SD 1.5 model.")
    projection = state.get("mid_block.attentions.0.proj_in.weight")
    if projection is not None and projection.ndim == 2:
        raise WeightsError(f"{name} is a Stable Diffusion 2 UNet, and only the 1.5 family works here: choose an SD 1.5 model.")
    first = state.get("conv_in.weight")
    if first is not None and first.shape[1] != 4:
        raise WeightsError(f"{name} takes {first.shape[1]} latent channels (an inpainting model?): choose an ordinary SD 1.5 model.")


def from_ldm(state: State, prefix: str, name: str) -> tuple[State, set[str]]:
    """Tensors below `prefix` in CompVis names -> diffusers' names, and the names (with prefix) that have no place there.

    Raises WeightsError for an SDXL UNet.
    """
    with needed("diffusers"):
        from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    inner = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if "label_emb.0.0.weight" in inner:
        raise WeightsError(f"{name} is an SDXL UNet, and only the Stable Diffusion 1.5 family works here: choose an SD 1.5 model.")
    # Three input blocks a level with two layers each, the last level without its downsampler.
    downsamplers = sum(key.endswith("0.op.weight") for key in inner)
    blocks = 1 + max(int(key.split(".")[1]) for key in inner if key.startswith("input_blocks."))
    layers = (blocks - 1 - downsamplers) // (downsamplers + 1)
    converted: State = convert_ldm_unet_checkpoint(
        {f"model.diffusion_model.{k}": v for k, v in inner.items()}, {"layers_per_block": layers}
    )
    used = {id(value) for value in converted.values()}
    return converted, {f"{prefix}{key}" for key, value in inner.items() if id(value) not in used}


def spatial_blocks(unet: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(name of the attention module, its transformer block) for every spatial block, in the order of the forward pass."""
    parts = [("down_blocks", unet.down_blocks), ("mid_block", [unet.mid_block]), ("up_blocks", unet.up_blocks)]
    for part, blocks in parts:
        for i, block in enumerate(blocks):  # type: ignore[arg-type]
            for j, attention in enumerate(getattr(block, "attentions", [])):
                where = part if part == "mid_block" else f"{part}.{i}"
                yield f"{where}.attentions.{j}", attention.transformer_blocks[0]
