"""Protections, countermeasures and metrics against numbers of their authors' own code: what a_*, b_* and c_* of a baselines folder hold."""

from __future__ import annotations

from collections.abc import Iterator

from . import (
    baselines_edits,
    baselines_images,
    baselines_inpainting,
    baselines_lora,
    baselines_protections,
    baselines_purify,
    baselines_videos,
)
from .folder import Folder, Row

PARTS = (baselines_protections, baselines_inpainting, baselines_lora, baselines_edits, baselines_purify, baselines_images, baselines_videos)


def matches(folder: Folder) -> bool:
    return any(folder.has(f"vectors/{name}") for name in ("a_inputs", "b_transforms", "b_gridpure", "b_diffpure", "c_metrics"))


def checks(folder: Folder) -> Iterator[Row]:
    for part in PARTS:
        yield from part.checks(folder)
