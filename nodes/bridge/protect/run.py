"""One protection run inside ComfyUI: sockets in, pictures out, everything restored."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import comfy.model_management
import torch
from torch import Tensor

from ....engine.attack import Step, protect
from ....engine.compute.half import HalfPrecisionError
from ....engine.draws import following
from ....engine.objective import Objective
from ....engine.observation import WorkingSize
from ....engine.picture import LEVELS, amplified, check_finite, resize, split_alpha, squash
from ....engine.space import RGB
from ....engine.transforms import EoT
from ....engine.update import Update
from ..autograd import autograd_session, ordinary
from ..progress import IN_SINGLE, Progress
from ..surrogates.residents import Surrogates
from .losses import Losses, check_losses, objective_of


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

    Each picture of a batch is a run of its own with seed + its index, so that neither the memory of the device nor a
    picture's result depends on its neighbours. Raises ValueError for what the user can mend, ComfyUI's interruption when
    cancelled.
    """
    out = comfy.model_management.intermediate_device()
    check_losses(losses, photos=images.shape[0])
    with autograd_session():
        clean = ordinary(images).movedim(-1, 1).float()
        check_finite(clean)
        masks = None if mask is None else matching_mask(ordinary(mask), clean, settings.space.budget)
        progress = Progress(clean.shape[0] * settings.steps, node_id=node_id)
        results: list[Tensor] = []
        in_single: set[object] = set()
        while (socket := _protect_rest(clean, masks, losses, settings, progress, results, in_single)) is not None:
            in_single.add(socket)
        protected = torch.cat(results)
        perturbation = amplified(clean.to(out), protected, budget=settings.space.budget).expand(-1, 3, -1, -1)
    return protected.movedim(1, -1), perturbation.movedim(1, -1)


def _protect_rest(
    clean: Tensor,
    masks: Tensor | None,
    losses: Losses,
    settings: Settings,
    progress: Progress,
    results: list[Tensor],
    in_single: Collection[object],
) -> object | None:
    """Add the results of the pictures that have none; or give the socket whose network has to be added to those in fp32 first.

    A function of its own, so that copies of models that are not to be kept are gone when it ends.
    """
    device, out = comfy.model_management.get_torch_device(), comfy.model_management.intermediate_device()
    surrogates = Surrogates(in_single)
    objective = objective_of(losses, surrogates)
    working_size = WorkingSize(longest=settings.longest, multiple=surrogates.multiple)
    height, width = working_size.size(clean.shape[-2], clean.shape[-1])
    try:
        with surrogates.resident(height=height, width=width, low_memory=settings.low_memory, warn=progress.warn):
            for index in range(len(results), clean.shape[0]):
                run = replace(settings, seed=following(settings.seed, index))
                own_mask = None if masks is None else masks[index % masks.shape[0]][None].to(device)
                steps = _Steps(clean[index][None].to(device), objective, run, working_size, own_mask, surrogates)
                results.append(steps.run(progress, before=index * settings.steps).to(out))
    except HalfPrecisionError as error:
        key, name = surrogates.key_of(error.network)
        progress.warn(IN_SINGLE.format(name))
        return key
    surrogates.keep_copies()
    return None


def squashed(images: Tensor, mask: Tensor | None, side: int) -> tuple[Tensor, Tensor | None]:
    """IMAGE and MASK at side x side with another aspect, colour only, as Dormant's official code begins.

    Raises ValueError as `protect_images` does.
    """
    pictures = images.movedim(-1, 1)
    check_finite(pictures)
    colour = squash(split_alpha(pictures)[0], side).movedim(1, -1)
    return colour, None if mask is None else resize(matching_mask(mask, pictures, LEVELS), (side, side))[:, 0]


@dataclass(frozen=True)
class _Steps:
    """The run of one picture [1,C,H,W]."""

    picture: Tensor
    objective: Objective
    settings: Settings
    working_size: WorkingSize
    mask: Tensor | None
    surrogates: Surrogates

    def run(self, progress: Progress, *, before: int) -> Tensor:
        settings = self.settings
        steps = protect(
            self.picture,
            self.objective,
            space=settings.space,
            update=settings.update,
            eot=settings.eot,
            working_size=self.working_size,
            steps=settings.steps,
            mask=self.mask,
            seed=settings.seed,
            low_memory=settings.low_memory,
        )
        step, idle = next(steps), 0
        while (following := self._next(steps)) is not None:
            step = following
            progress.report(step, done=before + step.index, clean=self.picture, budget=settings.space.budget)
            idle += step.skipped
        self._check(step, idle, progress)
        return step.image

    def _next(self, steps: Iterator[Step]) -> Step | None:
        with self.surrogates.step():
            return next(steps, None)

    def _check(self, last: Step, idle: int, progress: Progress) -> None:
        if idle:
            progress.warn(f"{idle} of {last.index} steps changed nothing: their gradient was zero or not finite.")
        if idle and idle == last.index:
            raise ValueError(
                "No step could change the picture, because every gradient was zero or not finite: "
                "check that the models of the connected losses are complete and that one of them has a weight above 0."
            )


def matching_mask(mask: Tensor, clean: Tensor, budget: float) -> Tensor:
    """MASK [B,H,W] -> [B,1,H,W]. Raises ValueError where it does not fit the pictures, or leaves no level of the budget."""
    if mask.shape[-2:] != clean.shape[-2:]:
        raise ValueError(
            f"The mask is {mask.shape[-1]}x{mask.shape[-2]} but the picture is {clean.shape[-1]}x{clean.shape[-2]}: resize the mask to the "
            "picture (Load Image gives an empty 64x64 mask for a picture without transparency; disconnect it to protect the whole picture)."
        )
    if mask.shape[0] not in (1, clean.shape[0]):
        raise ValueError(f"There are {mask.shape[0]} masks for {clean.shape[0]} pictures: give one mask for all, or one for each.")
    if float(mask.flatten(1).amax(1).min()) * budget < 1:
        raise ValueError(
            "A mask is empty or leaves less than one level of the budget everywhere, so nothing would be protected: "
            "paint the region to protect, or disconnect the mask."
        )
    return mask[:, None]
