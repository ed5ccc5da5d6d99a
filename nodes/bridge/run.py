"""One protection run inside ComfyUI: sockets in, pictures out, everything restored."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import comfy.model_management
import torch
from torch import Tensor

from ...engine.attack import Step, protect
from ...engine.objective import Objective, Term
from ...engine.observation import Sight
from ...engine.picture import amplified
from ...engine.space import RGB
from ...engine.transforms import EoT
from ...engine.update import Update
from ..sockets import Losses
from .autograd import autograd_session, ordinary
from .progress import Progress
from .surrogates import Surrogates

log = logging.getLogger("stillguard")


@dataclass(frozen=True)
class Settings:
    """Everything about a run but the picture and the losses."""

    space: RGB
    update: Update
    eot: EoT | None
    longest: int
    steps: int
    seed: int
    low_memory: bool


def protect_images(
    images: Tensor, losses: Losses, settings: Settings, *, mask: Tensor | None, node_id: str | None
) -> tuple[Tensor, Tensor]:
    """IMAGE [B,H,W,C] and MASK [1 or B,H,W] -> protected IMAGE and the amplified perturbation as IMAGE.

    Each picture of a batch is a run of its own with seed + its index, so neither memory nor a picture's result depends on
    its neighbours. Raises ValueError for what the user can mend, ComfyUI's interruption when cancelled.
    """
    device = comfy.model_management.get_torch_device()
    with autograd_session(tolerate_mutation=any(spec.edits_in_place for spec in losses)):
        surrogates = Surrogates()
        objective = _objective(losses, surrogates)
        clean = ordinary(images).movedim(-1, 1).to(device=device, dtype=torch.float32)
        masks = None if mask is None else _matching(ordinary(mask).to(device), clean)
        sight = Sight(longest=settings.longest, multiple=surrogates.multiple)
        height, width = sight.size(clean.shape[-2], clean.shape[-1])
        surrogates.load(height=height, width=width)
        progress = Progress(clean.shape[0] * settings.steps, node_id=node_id)
        results = []
        for index, picture in enumerate(clean.split(1)):
            own_mask = None if masks is None else masks[index % masks.shape[0]][None]
            run, before = replace(settings, seed=settings.seed + index), index * settings.steps
            results.append(_protect_one(picture, objective, run, sight=sight, mask=own_mask, progress=progress, before=before))
        protected = torch.cat(results)
        perturbation = amplified(clean, protected, budget=settings.space.budget).expand(-1, 3, -1, -1)
    out = comfy.model_management.intermediate_device()
    return protected.movedim(1, -1).to(out), perturbation.movedim(1, -1).to(out)


def _protect_one(
    picture: Tensor, objective: Objective, settings: Settings, *, sight: Sight, mask: Tensor | None, progress: Progress, before: int
) -> Tensor:
    idle, step = 0, Step(0, {}, 0.0, 0, lambda: picture)
    for step in protect(
        picture,
        objective,
        space=settings.space,
        update=settings.update,
        eot=settings.eot,
        sight=sight,
        steps=settings.steps,
        mask=mask,
        seed=settings.seed,
        low_memory=settings.low_memory,
    ):
        progress.report(step, done=before + step.index, clean=picture, budget=settings.space.budget)
        idle += step.skipped
    if idle:
        log.warning("%d of %d steps changed nothing: their gradient was zero or not finite.", idle, settings.steps)
    if settings.steps and idle == settings.steps:
        raise ValueError(
            "No step could change the picture, because every gradient was zero or not finite: "
            "check that the models of the connected losses are complete and suit each other."
        )
    return step.image


def _objective(losses: Losses, surrogates: Surrogates) -> Objective:
    """Engine terms; a name that occurs again is numbered."""
    terms: list[Term] = []
    for spec in losses:
        again = sum(term.name.split(" #")[0] == spec.name for term in terms)
        terms.append(Term(f"{spec.name} #{again + 1}" if again else spec.name, spec.weight, spec.build(surrogates)))
    return Objective(tuple(terms))


def _matching(mask: Tensor, clean: Tensor) -> Tensor:
    """MASK [B,H,W] -> [B,1,H,W], checked against the pictures."""
    mask = mask[None] if mask.ndim == 2 else mask
    if mask.shape[-2:] != clean.shape[-2:]:
        raise ValueError(
            f"The mask is {mask.shape[-1]}x{mask.shape[-2]} but the picture is {clean.shape[-1]}x{clean.shape[-2]}: resize the mask to the "
            "picture (Load Image gives an empty 64x64 mask for a picture without transparency; disconnect it to protect the whole picture)."
        )
    if mask.shape[0] not in (1, clean.shape[0]):
        raise ValueError(f"There are {mask.shape[0]} masks for {clean.shape[0]} pictures: give one mask for all, or one for each.")
    if not bool(mask.any()):
        raise ValueError("The mask is empty, so nothing would be protected: paint the region to protect, or disconnect the mask.")
    return mask[:, None]
