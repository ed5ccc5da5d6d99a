"""What a diffusion model's sockets must hold before gradients can come through them, in one sentence each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    import comfy.sd
    from comfy.model_patcher import ModelPatcher

    from .denoiser import Conditioning

# What core's sampler does for a prompt and a single pass through the model does not, by its key in the prompt's options.
_IGNORED = {
    "control": "a ControlNet",
    "hooks": "hooks (such as a LoRA that is scheduled)",
    "area": "an area",
    "mask": "a mask",
    "gligen": "places of GLIGEN",
    "start_percent": "a range of steps",
    "end_percent": "a range of steps",
}
# The whole range, as some of core's nodes write it down.
_HARMLESS = {"start_percent": 0.0, "end_percent": 1.0}


def check_weights(network: nn.Module) -> None:
    """Raises ValueError for weights that no gradient can be trusted to come through."""
    for parameter in network.parameters():
        plain = type(parameter.data) is torch.Tensor and type(parameter) in (nn.Parameter, torch.Tensor)
        if not plain or parameter.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            kind = str(parameter.dtype).removeprefix("torch.") if plain else type(parameter.data).__name__
            raise ValueError(
                f"The model's weights are quantised ({kind}), and rounding to so few values spoils gradients: load it in fp16 or bf16."
            )


def check_vae(model: ModelPatcher, vae: comfy.sd.VAE, name: str) -> None:
    """Raises ValueError for a VAE whose latents the model does not read. name: what the sentence calls the model."""
    wanted, of_video = int(model.model.latent_format.latent_channels), model.model.latent_format.latent_dimensions == 3
    if vae.latent_channels != wanted or (vae.latent_dim == 3) != of_video:
        raise ValueError(
            f"The VAE makes latents of {vae.latent_channels} channels and {name} reads {wanted}{' of a video' if of_video else ''}: "
            "load the VAE that belongs to the model."
        )


def check_conditioning(conditioning: Conditioning, socket: str) -> None:
    """Raises ValueError for a prompt of which gradients would see only a part."""
    if len(conditioning) > 1:
        raise ValueError(
            f"What is connected to `{socket}` has {len(conditioning)} parts, of which a surrogate reads one: connect one CLIP Text Encode, "
            "without Conditioning (Combine)."
        )
    for _, options in conditioning:
        found = [what for key, what in _IGNORED.items() if options.get(key) not in (None, _HARMLESS.get(key))]
        if found:
            raise ValueError(f"What is connected to `{socket}` carries {found[0]}, which a surrogate does not follow: connect it without.")


def blocks_by_hand(text: str, count: int, name: str) -> tuple[int, ...] | None:
    """Indices with commas between them, in order; None for auto. count: of the model's blocks. name: of the input, for the sentence.

    Raises ValueError for what are no indices, or none of this model's.
    """
    if text.strip().lower() in ("", "auto"):
        return None
    try:
        blocks = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise ValueError(f"{name} is '{text}': write auto, or indices with commas between them, such as 20, 21.") from None
    if blocks[0] < 0 or blocks[-1] >= count:
        raise ValueError(f"{name} is '{text}', and this model has blocks 0 to {count - 1}: choose among them, or write auto.")
    return blocks
