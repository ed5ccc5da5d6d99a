"""The loop, once: projected ascent over a space, for every method."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from .compute.half import Scales
from .draws import Draws, seeded_draws, stream
from .objective import Objective
from .observation import Observation, WorkingSize
from .picture import check_finite, split_alpha, strips
from .space import RGB, Space
from .transforms import EoT, Transform
from .update import Ascent, MomentumSign, Update, Variables


@dataclass(frozen=True)
class Step:
    """State after `index` updates. Index 0 is the untouched clean picture.

    losses: unweighted, by name, of the picture that this update started from (empty at index 0); averaged over EoT samples.
    seconds: duration of this update. skipped: pictures of the batch that were left as they were because their gradient was
    zero or not finite.
    """

    index: int
    losses: dict[str, float]
    seconds: float
    skipped: int
    _render: Callable[[], Tensor] = field(repr=False)

    @cached_property
    def image(self) -> Tensor:
        """The picture at this point, shape and channels of the input, detached, on the 8-bit grid wherever it was changed."""
        return self._render()


def protect(
    clean: Tensor,
    objective: Objective,
    *,
    space: Space | None = None,
    update: Update | None = None,
    eot: EoT | None = None,
    working_size: WorkingSize | None = None,
    steps: int = 100,
    mask: Tensor | None = None,
    seed: int = 0,
    draws: Iterator[Draws] | None = None,
    low_memory: bool = False,
) -> Iterator[Step]:
    """Maximise the objective over the space, one Step after each update; the last one yielded is the result.

    clean: [B,C,H,W] in [0,1], C = 1, 3 or 4 (alpha is carried along unchanged), any H and W. mask: [B or 1,1,H,W] in [0,1],
    where 0 is left untouched to the bit and values between scale the budget. Same arguments, same machine: same picture, as far
    as the surrogates' kernels are deterministic (on the CPU they are). draws: random numbers of the losses, one for each look at
    the picture (EoT samples times steps); by default they follow from the seed.
    Defaults: RGB(), MomentumSign(), no EoT, WorkingSize(). Raises ValueError on pixels or mask values that are not finite, on a
    mask of another shape, and on a number of channels other than 1, 3 or 4; HalfPrecisionError, which is one, for a network that cannot
    be run in fp16. A step whose gradient overflowed in fp16 is repeated, see Scales.
    """
    check_finite(clean)
    colour, alpha = split_alpha(clean.detach().float())
    mask = _checked_mask(mask, colour)
    draws = seeded_draws(seed) if draws is None else draws
    run = _Run(colour, objective, space or RGB(), eot or EoT.none(), working_size or WorkingSize(), mask, low_memory, seed, draws)
    yield Step(0, {}, 0.0, 0, lambda: clean)
    if steps < 1:
        return
    variables = run.space.start(run.base, mask, stream(seed, "start"))
    ascend = (update or MomentumSign()).begin(variables, unit=run.space.unit)
    for index in range(1, steps + 1):
        began = time.perf_counter()
        variables, losses, skipped = run.update(variables, ascend)
        yield Step(index, losses, time.perf_counter() - began, skipped, run.renderer(variables, alpha))


def _checked_mask(mask: Tensor | None, colour: Tensor) -> Tensor | None:
    if mask is None:
        return None
    if mask.ndim != 4 or mask.shape[1] != 1 or mask.shape[0] not in (1, colour.shape[0]):
        raise ValueError(f"The mask has the shape {tuple(mask.shape)}: give [1 or {colour.shape[0]},1,H,W].")
    if mask.shape[-2:] != colour.shape[-2:]:
        raise ValueError(
            f"The mask is {mask.shape[-1]}x{mask.shape[-2]} but the picture is {colour.shape[-1]}x{colour.shape[-2]}: "
            "resize the mask to the picture first."
        )
    if not bool(torch.isfinite(mask).all()):
        raise ValueError("The mask has values that are not numbers (NaN or infinity): look for the node before this one that made them.")
    return mask.detach().to(colour).clamp(0, 1)


class _Run:
    """What stays the same over the steps of one run."""

    def __init__(
        self,
        colour: Tensor,
        objective: Objective,
        space: Space,
        eot: EoT,
        working_size: WorkingSize,
        mask: Tensor | None,
        low_memory: bool,
        seed: int,
        draws: Iterator[Draws],
    ) -> None:
        self.colour, self.base = colour, _in_range(colour)
        self.objective, self.space, self.eot, self.working_size = objective, space, eot, working_size
        self.mask, self.low_memory, self.seed, self.draws = mask, low_memory, seed, draws
        self.generator, self.scales = stream(seed, "eot"), Scales()
        self.reference = Observation(working_size(self.base))

    def update(self, variables: Variables, ascend: Ascent) -> tuple[Variables, dict[str, float], int]:
        if self.objective.unbalanced:
            with torch.no_grad(), self.scales.watching():
                self.objective = self.objective.balanced(self.reference, Observation(self.working_size(self._measured(variables))))
        looks = [(self.eot.draw(self.generator), next(self.draws)) for _ in range(self.eot.samples)]

        def attempt() -> tuple[tuple[Variables, Tensor, list[str]], list[Tensor]]:
            with torch.enable_grad():
                gradients, losses = self._gradients(variables, looks)
            usable = _usable(gradients)
            return (gradients, usable, list(losses)), [*losses.values(), (~usable).sum()]

        (gradients, usable, names), numbers = self.scales.repeated(attempt)
        with torch.no_grad():
            if numbers[-1]:
                gradients = tuple(torch.where(_broadcast(usable, g), g, 0) for g in gradients)
            kept = self.space.project(self.base, self.mask, ascend(variables, gradients))
            if numbers[-1]:
                kept = tuple(torch.where(_broadcast(usable, new), new, old) for new, old in zip(kept, variables, strict=True))
        return kept, dict(zip(names, numbers, strict=False)), int(numbers[-1])

    def _measured(self, variables: Variables) -> Tensor:
        """The picture at which the size of scaled losses is taken.

        Distances from the clean picture are 0, or rounding, at the clean picture itself: a run that starts there is measured elsewhere.
        """
        picture = self.space.render(self.base, variables)
        if not torch.equal(picture, self.base):
            return picture
        return self.space.render(self.base, self.space.inside(self.base, self.mask, stream(self.seed, "scales")))

    def _gradients(self, variables: Variables, looks: Sequence[tuple[Transform | None, Draws]]) -> tuple[Variables, dict[str, Tensor]]:
        leaves = tuple(variable.detach().requires_grad_() for variable in variables)
        totals: dict[str, Tensor] = {}
        for transform, draws in looks:
            picture = self.working_size(self.space.render(self.base, leaves))
            seen = Observation(picture, transform=transform, draws=draws, low_memory=self.low_memory)
            try:
                losses = self.objective.backward(self.reference, seen, scale=1 / self.eot.samples)
            finally:
                seen.discard()
            for name, loss in losses.items():
                totals[name] = totals.get(name, 0) + loss.float() / self.eot.samples
        return tuple(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves), totals

    def renderer(self, variables: Variables, alpha: Tensor | None) -> Callable[[], Tensor]:
        def render() -> Tensor:
            with torch.no_grad():
                colour = self.space.result(self.base, self.mask, variables)
                # Out-of-range input pixels that the attack left alone go back exactly as they came.
                if self.base is not self.colour:
                    colour = torch.where(colour == self.base, self.colour, colour)
            return colour if alpha is None else torch.cat([colour, alpha], dim=1)

        return render


def _in_range(colour: Tensor) -> Tensor:
    """Clamped to [0,1]: as most pictures are already, the same tensor where it can be, since it is as large as the photo."""
    # Copied all the same where the copy lies otherwise in memory, as every picture made of it will: kernels round differently for each.
    stays = torch.empty_strided(colour.shape, colour.stride(), device="meta").clamp(0, 1).stride() == colour.stride()
    return colour if stays and bool(((colour >= 0) & (colour <= 1)).all()) else colour.clamp(0, 1)


def _usable(gradients: Variables) -> Tensor:
    """[B] bool: the picture's gradient is finite everywhere and not zero everywhere."""
    parts = [gradient[..., rows, :] for gradient in gradients for rows in strips(gradient)]
    sums = torch.stack([part.abs().flatten(1).sum(1) for part in parts]).sum(0)
    return torch.isfinite(sums) & (sums > 0)


def _broadcast(per_picture: Tensor, like: Tensor) -> Tensor:
    return per_picture.view(-1, *([1] * (like.ndim - 1)))
