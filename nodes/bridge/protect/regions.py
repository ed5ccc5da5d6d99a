"""Masks that say where, beside that of a protection."""

from __future__ import annotations

from torch import Tensor


def check_region(region: Tensor, images: Tensor, name: str) -> None:
    """Raises ValueError for a mask [B,H,W] that is not one of these photos [B,H,W,C]. name: such as "freeze mask"."""
    if region.shape[-2:] != images.shape[1:3]:
        raise ValueError(
            f"The {name} is {region.shape[-1]}x{region.shape[-2]} but the picture is {images.shape[2]}x{images.shape[1]}: "
            "resize the mask to the picture."
        )
    if region.shape[0] not in (1, images.shape[0]):
        raise ValueError(f"There are {region.shape[0]} {name}s for {images.shape[0]} pictures: give one for all, or one for each.")
