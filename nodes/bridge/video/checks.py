"""Which family a MODEL is of, and what does not fit together, in one sentence each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..surrogates.checks import check_vae
from .families import FAMILIES, Family

if TYPE_CHECKING:
    import comfy.sd
    from comfy.model_patcher import ModelPatcher

    from .conditioner import VideoSize

AUTO = "auto"


def names() -> list[str]:
    return [AUTO, *(family.name for family in FAMILIES)]


def family_of(model: ModelPatcher, wanted: str = AUTO) -> Family:
    """Raises ValueError where the model is not of the wanted family, of none, or makes videos from text alone."""
    # The very class: many models of core derive from one another and are conditioned otherwise.
    kind = type(model.model).__name__
    found = [family for family in FAMILIES if kind in family.models]
    if not found:
        known = ", ".join(dict.fromkeys(family.name.split(" (")[0] for family in FAMILIES))
        raise ValueError(f"The model is {_title(kind)}, of which no picture's video is known here: connect a model of {known}.")
    chosen = [family for family in found if wanted in (AUTO, family.name)]
    if not chosen:
        raise ValueError(f"The model is {_title(kind)} and cannot be prepared as {wanted}: choose {AUTO}, or {found[0].name}.")
    if _from_text_alone(model.model):
        raise ValueError("The model makes videos from text alone: load its image-to-video version.")
    return chosen[0]


def _title(name: str) -> str:
    return "an unknown one" if name == "BaseModel" else name


def _from_text_alone(base: Any) -> bool:
    """Models that would get the picture as further channels, and have none."""
    network = base.diffusion_model
    if type(base).__name__ == "CogVideoX":
        return int(network.in_channels) == int(base.latent_format.latent_channels)
    if type(base).__name__ == "WAN21":
        return not base.image_to_video
    return False


def check_sockets(model: ModelPatcher, family: Family, vae: comfy.sd.VAE, *, clip: bool, text: bool) -> None:
    """Raises ValueError for a VAE of another family, and for what the family needs and is not connected."""
    check_vae(model, vae, family.name)
    reads_clip = family.clip == "needed" or (
        family.clip == "optional" and getattr(model.model.diffusion_model, "img_emb", None) is not None
    )
    if reads_clip and not clip:
        raise ValueError(f"{family.name} looks at the picture through an image encoder too: connect clip_vision.")
    if family.text and not text:
        raise ValueError(f"{family.name} reads a prompt: connect positive, from CLIP Text Encode (its text may be empty).")


def check_size(family: Family, size: VideoSize) -> None:
    """Raises ValueError for a length or sides that the family cannot have."""
    if size.length < 2:
        raise ValueError(
            f"A video of {size.length} frame has no motion to disturb: choose a length of {1 + max(family.stride, 1)} or more."
        )
    if (size.length - 1) % family.stride:
        below = size.length - 1 - (size.length - 1) % family.stride
        lengths = f"{max(below, family.stride) + 1} or {below + family.stride + 1}"
        raise ValueError(
            f"{family.name} makes videos of 1 frame and a multiple of {family.stride}, and not of {size.length}: choose {lengths}."
        )
    for side in (size.width, size.height):
        if side % family.multiple:
            raise ValueError(f"{family.name} needs sides that are multiples of {family.multiple}, and {side} is not: choose another, or 0.")
