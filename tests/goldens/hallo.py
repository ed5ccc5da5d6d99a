"""Silencer against its official code and Hallo: a folder of check vectors whose weights/net holds Hallo's five networks."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from . import hallo_loss, hallo_masks, hallo_networks, hallo_pipeline
from .folder import Folder, Row
from .hallo_parts import Parts


def matches(folder: Folder) -> bool:
    return folder.has("vectors/inputs", "weights/net") and (folder.path / "configs" / "audioproj.json").is_file()


def checks(folder: Folder) -> Iterator[Row]:
    """Everything that the folder's files permit."""
    parts = Parts(folder)
    with torch.no_grad():
        if folder.has("vectors/s_schedule"):
            yield from hallo_networks.schedules(folder)
        yield from hallo_networks.inputs(folder, parts)
        yield from hallo_networks.predictions(folder, parts)
        for name, compare in (
            ("f_blocks", hallo_networks.blocks),
            ("k_activations", hallo_networks.activations),
            ("j_victim_pipeline", hallo_pipeline.generation),
        ):
            if folder.has(f"vectors/{name}"):
                yield from compare(folder, parts)
    if folder.has("vectors/g_loss"):
        yield from hallo_loss.losses(folder, parts)
    if folder.has("vectors/h_pgd"):
        yield from hallo_loss.run(folder, parts)
    if folder.has("vectors/i_masks"):
        yield from hallo_masks.masks(folder)
