"""What can be done to a photo, by name. A new method joins the laboratory's table by one entry here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..engine import RGB, EoT, WorkingSize, protect
from ..engine.baselines import random_signs
from ..engine.losses.dormant import LPIPSPenalty
from ..engine.objective import Objective, Term
from ..engine.surrogates.perceptual import load_perceptual_network
from ..engine.update import MomentumSign
from .networks import Lab


@dataclass(frozen=True)
class Task:
    """One person to protect: photo and its pose picture [1,3,S,S] in [0,1]; budget in 8-bit levels."""

    photo: Tensor
    pose: Tensor
    budget: float
    steps: int
    seed: int
    lpips: Path | None = None


Preset = Callable[[Lab, Task], Tensor]
"""Gives the protected photo."""


def dormant(weights: dict[str, float], *, eot: bool = True, momentum: float = 0.5, penalty: bool = False) -> Preset:
    """Dormant's loop as the node's recommended profile runs it, with the terms of these weights."""

    def run(lab: Lab, task: Task) -> Tensor:
        objective = lab.objective(task.pose, **weights)
        if penalty:
            if task.lpips is None:
                raise SystemExit("This preset needs the VGG16 weights of LPIPS: name the file with --lpips.")
            loss = LPIPSPenalty(load_perceptual_network(task.lpips))
            objective = Objective((*objective.terms, Term("lpips", -10.0, loss)))
        *_, last = protect(
            task.photo,
            objective,
            space=RGB(task.budget),
            update=MomentumSign(1.0, momentum),
            eot=EoT() if eot else EoT.none(),
            working_size=WorkingSize(task.photo.shape[-1]),
            steps=task.steps,
            seed=task.seed,
        )
        return last.image

    return run


# The weights of Dormant's official code.
VAE, CLIP, REFERENCE, FRAMES = {"vae": 10.0}, {"clip": 10.0}, {"reference": 100.0}, {"frames": 1.0}
ALL = {**VAE, **CLIP, **REFERENCE, **FRAMES}

PRESETS: dict[str, Preset] = {
    "random noise": lambda lab, task: random_signs(task.photo, task.budget, seed=task.seed),
    "VAE term": dormant(VAE),
    "CLIP term": dormant(CLIP),
    "ReferenceNet term": dormant(REFERENCE),
    "frame term": dormant(FRAMES),
    "Dormant": dormant(ALL),
    "Dormant, no EoT": dormant(ALL, eot=False),
    "Dormant, no momentum": dormant(ALL, momentum=0.0),
    "Dormant, LPIPS penalty": dormant(ALL, penalty=True),
}
