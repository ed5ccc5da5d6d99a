"""The laboratory's victims run inside ComfyUI."""

from __future__ import annotations

import comfy.model_management
import comfy.utils
from torch import Tensor

from ....engine.animators.lab_victims.victim import LabVictim
from ....engine.conversions import in_colour
from ....engine.picture import check_finite
from ....engine.weights.catalogue import VICTIMS


def animate_with_victim(image: Tensor, pose: Tensor, victim: str, *, steps: int, seed: int, node_id: str | None) -> Tensor:
    """IMAGE of a person and IMAGE [N,H,W,C] of poses -> IMAGE [N,128,128,3].

    Raises ValueError for pixels that are not numbers and for other than 1, 3 or 4 channels, WeightsError for missing files,
    ComfyUI's interruption when cancelled.
    """
    # On the CPU: it takes seconds there, and leaves the GPU's memory to the user's own models.
    portrait, poses = (in_colour(pictures.movedim(-1, 1)).cpu() for pictures in (image[:1], pose))
    check_finite(portrait)
    check_finite(poses)
    bar = comfy.utils.ProgressBar(steps, node_id=node_id)

    def report(done: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done)

    frames = LabVictim(victim, VICTIMS).animation(portrait, poses, steps=steps, seed=seed, after_step=report)
    return frames.movedim(1, -1)
