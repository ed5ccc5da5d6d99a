"""One protection run inside ComfyUI: sockets in, pictures out.

Whether it ends or is cancelled, `autograd_session` puts core's switches back, `Surrogates.on_device` the networks, and closing the loop
what surrogates have learned.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Protocol

import comfy.model_management
import torch
from torch import Tensor

from ....engine.attack import Step, protect
from ....engine.compute.half import HalfPrecisionError
from ....engine.draws import following
from ....engine.objective import Objective
from ....engine.observation import WorkingSize
from ....engine.picture import LEVELS, amplified, check_finite, largest_change, resize, split_alpha, squash
from ....engine.spaces import RGB, Alternating, Space
from ....engine.transforms import EoT
from ....engine.update import Update
from ....engine.weights.catalogue import catalogue
from ..autograd import autograd_session, ordinary
from ..evaluate.visibility import measure_change
from ..model_files import find_file
from ..progress import RUN_IN_FP32, Progress
from ..surrogates.run_surrogates import Surrogates
from .loss_spec import Losses, check_losses, objective_of, surrogates_of


@dataclass(frozen=True)
class SpaceSpec:
    """What is optimised. make: the engine's space over views of the run's sockets, where it renders pictures with networks, for the photo
    of that index in its batch; the networks are the same for all.

    budget: of what is made, in 8-bit levels; None without one.
    """

    budget: float | None
    make: Callable[[Surrogates, int], Space | Alternating]


class SpaceSetup(Protocol):
    """What a STILLGUARD_SPACE carries."""

    def spec(self, images: Tensor, *, pixels: RGB, longest: int, steps: int) -> SpaceSpec:
        """For these photos, IMAGE [B,H,W,C]. pixels: what the node would use by itself, whose budget holds in spaces that have one.

        Raises ValueError for what does not fit the photos.
        """
        ...


def space_spec(space: Space | Alternating) -> SpaceSpec:
    return SpaceSpec(space.budget, lambda surrogates, index: space)


def chosen_space(setup: SpaceSetup | None, pixels: RGB, images: Tensor, *, longest: int, steps: int) -> SpaceSpec:
    """That of the socket, if something is connected."""
    return space_spec(pixels) if setup is None else setup.spec(images, pixels=pixels, longest=longest, steps=steps)


@dataclass(frozen=True)
class Settings:
    """Everything about a run but the pictures and the losses."""

    space: SpaceSpec
    update: Update
    eot: EoT | None
    longest: int
    steps: int
    seed: int
    low_memory: bool


def protect_images(
    images: Tensor, losses: Losses, settings: Settings, *, mask: Tensor | None, node_id: str | None, start: Tensor | None = None
) -> tuple[Tensor, Tensor, float]:
    """IMAGE [B,H,W,C] and MASK [1 or B,H,W] -> protected IMAGE, the amplified perturbation as IMAGE, and the budget in 8-bit levels.

    Where the space has no budget, the largest change of the result stands for it: in that number, and as white in the perturbation.
    start: IMAGE like `images` to begin from, such as a first stage's result; the budget counts from `images` all the same.

    Each picture of a batch is a run of its own with seed + its index, so that neither the memory of the device nor a
    picture's result depends on its neighbours. Raises ValueError for what the user can mend, ComfyUI's interruption when
    cancelled.
    """
    out = comfy.model_management.intermediate_device()
    check_losses(losses, photos=images.shape[0])
    with autograd_session():
        clean = ordinary(images).movedim(-1, 1).float()
        check_finite(clean)
        # A space without a budget is bounded by the range of pictures alone.
        masks = None if mask is None else matching_mask(ordinary(mask), clean, settings.space.budget or LEVELS)
        begun = None if start is None else ordinary(start).movedim(-1, 1).float()
        pictures = _Pictures(clean, masks, begun)
        progress = Progress(clean.shape[0] * settings.steps, node_id=node_id)
        results: list[Tensor] = []
        in_fp32: set[object] = set()
        while (network := _protect_rest(pictures, losses, settings, progress, results, in_fp32)) is not None:
            in_fp32.add(network)
        protected = torch.cat(results)
        clean = clean.to(out)
        budget = largest_change(clean, protected) if settings.space.budget is None else settings.space.budget
        perturbation = amplified(clean, protected, budget=settings.space.budget).expand(-1, 3, -1, -1)
    if settings.space.budget is None:
        progress.end(_measured(clean, protected))
    return protected.movedim(1, -1), perturbation.movedim(1, -1), budget


def _measured(clean: Tensor, protected: Tensor) -> str:
    """What takes the place of a budget. LPIPS where its weights are."""
    entry = catalogue()["lpips_vgg16"]
    try:
        backbone = find_file(entry, entry.file)
    except FileNotFoundError:
        backbone = None
    rows = measure_change(clean, protected, lpips_backbone=backbone)
    lines = ["What is optimised has no budget for single values: a radius holds, and a budget of the node is ignored. Measured instead:"]
    for index, row in enumerate(rows):
        perceptual = f"not measured without {entry.file}" if row.lpips is None else f"{row.lpips:.4f}"
        lines.append(f"picture {index + 1}: L-infinity {row.linf} levels, PSNR {row.psnr:.2f} dB, LPIPS {perceptual}")
    return "\n".join(lines)


@dataclass(frozen=True)
class _Pictures:
    """clean, start: [B,C,H,W]. masks: [1 or B,1,H,W]."""

    clean: Tensor
    masks: Tensor | None
    start: Tensor | None

    def on(self, device: torch.device, index: int) -> _Pictures:
        """One of them."""
        masks = None if self.masks is None else self.masks[index % self.masks.shape[0]][None].to(device)
        start = None if self.start is None else self.start[index][None].to(device)
        return _Pictures(self.clean[index][None].to(device), masks, start)


def _protect_rest(
    pictures: _Pictures,
    losses: Losses,
    settings: Settings,
    progress: Progress,
    results: list[Tensor],
    in_fp32: Collection[object],
) -> object | None:
    """Add the results of the pictures that have none; or give the key of the network that has to be added to those in fp32 first.

    A function of its own, whose end frees its copies: after a failure in fp16 they must be gone before those in fp32 are made.
    """
    device, out = comfy.model_management.get_torch_device(), comfy.model_management.intermediate_device()
    surrogates = surrogates_of(losses, in_fp32)
    objective = objective_of(losses, surrogates)
    # Which makes known what networks it has.
    settings.space.make(surrogates, 0)
    working_size = WorkingSize(longest=settings.longest, multiple=surrogates.multiple)
    height, width = working_size.size(*pictures.clean.shape[-2:])
    try:
        with surrogates.on_device(height=height, width=width, low_memory=settings.low_memory, warn=progress.warn):
            for index in range(len(results), pictures.clean.shape[0]):
                run = replace(settings, seed=following(settings.seed, index))
                space = settings.space.make(surrogates, index)
                steps = _Steps(pictures.on(device, index), objective, space, run, working_size, surrogates)
                results.append(steps.run(progress, before=index * settings.steps).to(out))
    except HalfPrecisionError as error:
        key, name = surrogates.key_of(error.network)
        progress.warn(RUN_IN_FP32.format(name))
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
    """The run of one picture."""

    pictures: _Pictures
    objective: Objective
    space: Space | Alternating
    settings: Settings
    working_size: WorkingSize
    surrogates: Surrogates

    def run(self, progress: Progress, *, before: int) -> Tensor:
        settings = self.settings
        steps = protect(
            self.pictures.clean,
            self.objective,
            space=self.space,
            update=settings.update,
            eot=settings.eot,
            working_size=self.working_size,
            steps=settings.steps,
            mask=self.pictures.masks,
            start=self.pictures.start,
            seed=settings.seed,
            low_memory=settings.low_memory,
        )
        # Closed even when cancelled, so that surrogates that learn are as they were.
        with closing(steps):
            step, idle = next(steps), 0
            while (following := self._next(steps)) is not None:
                step = following
                progress.report(step, done=before + step.index, clean=self.pictures.clean, budget=settings.space.budget)
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
