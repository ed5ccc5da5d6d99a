"""Hallo's masks from landmarks, made without OpenCV."""

from __future__ import annotations

from collections.abc import Iterator

from stillguard.engine.animators.talking_head.masks import face_masks, located
from torch import Tensor

from .folder import Folder, Row

BLURRED, SHRUNK = 3.0, 1.0
"""Levels of 255 that the sets' README permits before and after shrinking; boxes are exact."""
ATTENTION = {"full_mask": 0, "face_mask_attn": 1, "lip_mask_attn": 2}


def masks(folder: Folder) -> Iterator[Row]:
    official = folder.vectors("i_masks")
    for kind in sorted({name.split(".")[0] for name in official}):
        yield from _of(kind, {name.removeprefix(f"{kind}."): value for name, value in official.items() if name.startswith(f"{kind}.")})


def _of(kind: str, official: dict[str, Tensor]) -> Iterator[Row]:
    height, width = official["lip_mask"].shape
    made = face_masks([official["landmarks"]], height, width)
    yield _levels(f"{kind} face's box", made.region, official["face_mask"] / 255, 0.0)
    yield _levels(f"{kind} lips' box", made.lips.mask(height, width), official["lip_mask"] / 255, 0.0)
    for index, name in enumerate(("sep_background", "sep_face", "sep_lip")):
        yield _levels(f"{kind} {name}", made.regions.maps[index], official[name] / 255, BLURRED)
    if "face_region_u8" in official:
        region = official["face_region_u8"]
        yield _levels(f"{kind} face region", located(made.region, *region.shape), region / 255, SHRUNK)
    levels = sum(name.startswith("full_mask.") for name in official)
    side = round(official["full_mask.0"].shape[-1] ** 0.5)
    for level, maps in enumerate(made.regions.levels(side, side, levels)):
        for name, index in ATTENTION.items():
            yield _levels(f"{kind} {name}.{level}", maps[index], official[f"{name}.{level}"], SHRUNK)


def _levels(name: str, ours: Tensor, official: Tensor, tolerance: float) -> Row:
    off = float((ours.flatten() - official.flatten()).abs().max() * 255)
    return Row(name, round(off, 3), tolerance, "levels of 255")
