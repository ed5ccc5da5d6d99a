"""Edits of a batch inside ComfyUI: one picture at a time, with progress and interruption."""

from __future__ import annotations

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ....engine.purify.pipelines import Pipeline


def transform_images(images: Tensor, pipeline: Pipeline, *, node_id: str | None) -> Tensor:
    """IMAGE [N,H,W,C] -> IMAGE [N,H',W',C] on the CPU. Raises what the pipeline raises, and ComfyUI's interruption when cancelled."""
    if not len(images):
        return pipeline(images.movedim(-1, 1))
    bar = comfy.utils.ProgressBar(len(images), node_id=node_id)
    edited = torch.empty(0)
    for index, picture in enumerate(images.cpu().float()):
        comfy.model_management.throw_exception_if_processing_interrupted()
        changed = pipeline.numbered(index)(picture.movedim(-1, 0)[None])[0].movedim(0, -1)
        if index == 0:
            edited = changed.new_empty((len(images), *changed.shape))
        edited[index] = changed
        bar.update_absolute(index + 1)
    return edited
