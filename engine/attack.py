"""The protection's loop, once: an adversarial attack on the surrogates, projected ascent over a space or several, for every method."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from .compute.half import Scales
from .draws import Draws, seeded_draws, stream
from .learning import Learns
from .objective import Objective
from .observation import Cut, Observation, WorkingSize
from .picture import check_finite, split_alpha, strips
from .spaces.rgb import RGB
from .spaces.space import Alternating, Space, alternating
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
    space: Space | Alternating | None = None,
    update: Update | None = None,
    eot: EoT | None = None,
    working_size: WorkingSize | None = None,
    steps: int = 100,
    mask: Tensor | None = None,
    start: Tensor | None = None,
    seed: int = 0,
    draws: Iterator[Draws] | None = None,
    low_memory: bool = False,
) -> Generator[Step, None, None]:
    """Maximise the objective over the space, one Step after each update; the last one yielded is the result.

    clean: [B,C,H,W] in [0,1], C = 1, 3 or 4 (alpha is carried along unchanged), any H and W. mask: [B or 1,1,H,W] in [0,1],
    where 0 is left untouched to the bit and values between scale the budget. start: another picture [B,C,H,W] to begin from instead of
    the space's own start, such as a first stage's result; budget and mask still count from the clean picture. draws: random numbers of
    the losses, one for each look at the picture (EoT samples times steps); by default they follow from the seed. Same arguments, same
    machine: same picture, as far as the surrogates' kernels are deterministic (on the CPU they are).
    Defaults: RGB(), MomentumSign(), no EoT, WorkingSize(). Raises ValueError on pixels or mask values that are not finite, on a
    mask or start of another shape, and on a number of channels other than 1, 3 or 4; HalfPrecisionError, which is one, for a network that
    cannot be run in fp16. A step whose gradient overflowed in fp16 is repeated, see Scales. Whoever stops early closes the generator
    (contextlib.closing): surrogates that learned (engine.learning) are what they were when it has ended.
    """
    check_finite(clean)
    colour, alpha = split_alpha(clean.detach().float())
    mask = _checked_mask(mask, colour)
    start = None if start is None else _checked_start(start, clean)
    draws = seeded_draws(seed) if draws is None else draws
    run = _Run(
        colour,
        objective,
        alternating(space or RGB()),
        update or MomentumSign(),
        eot or EoT.none(),
        working_size or WorkingSize(),
        steps,
        mask,
        start,
        seed,
        draws,
        low_memory,
    )
    yield Step(0, {}, 0.0, 0, lambda: clean)
    yield from run.all_steps(alpha)


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


def _checked_start(start: Tensor, clean: Tensor) -> Tensor:
    """Its colour."""
    if start.shape != clean.shape:
        raise ValueError(
            f"The picture to start from has the shape {tuple(start.shape)} and the clean one {tuple(clean.shape)}: give two of one shape."
        )
    check_finite(start)
    return split_alpha(start.detach().to(clean.device).float())[0].clamp(0, 1)


@dataclass(frozen=True)
class _State:
    """Whose turn it is, that space as it is in this step, and its variables."""

    turn: Space
    space: Space
    variables: Variables


@dataclass(eq=False)
class _Run:
    """What stays the same over the steps of one run, and what its updates remember."""

    colour: Tensor
    objective: Objective
    turns: Alternating
    rule: Update
    eot: EoT
    working_size: WorkingSize
    steps: int
    mask: Tensor | None
    start: Tensor | None
    seed: int
    draws: Iterator[Draws]
    low_memory: bool

    def __post_init__(self) -> None:
        self.base = _in_range(self.colour)
        self.reference = Observation(self.working_size(self.base))
        self.generator, self.scales = stream(self.seed, "eot"), Scales()
        self.ascents: dict[int, Ascent] = {}

    def all_steps(self, alpha: Tensor | None) -> Iterator[Step]:
        state: _State | None = None
        with self.learning() as learners:
            for index in range(1, self.steps + 1):
                began = time.perf_counter()
                state = self.turn(index, state)
                for learner in learners:
                    self.teach(learner, index, state)
                state, losses, skipped = self.update(state)
                yield Step(index, losses, time.perf_counter() - began, skipped, self.renderer(state, alpha))

    def turn(self, index: int, before: _State | None) -> _State:
        """The state in which step `index` begins, after the one that the step before left."""
        turn = self.turns.turn(index)
        space = turn.at(index)
        if before is not None and turn is before.turn:
            return _State(turn, space, before.variables)
        with torch.no_grad():
            if before is not None:
                variables = space.variables(self.base, self.mask, self._render(before))
            elif self.start is not None:
                variables = space.project(self.base, self.mask, space.variables(self.base, self.mask, self.start))
            else:
                variables = space.start(self.base, self.mask, stream(self.seed, "start"))
        return _State(turn, space, variables)

    @contextlib.contextmanager
    def learning(self) -> Iterator[list[Learns]]:
        """Those losses whose surrogates learn, asked once. What was learned is undone at the end."""
        losses = [(term.name, term.loss) for term in self.objective.terms if term.weight]
        with contextlib.ExitStack() as stack:
            learners: list[Learns] = []
            for name, loss in losses:
                if isinstance(loss, Learns):
                    stack.enter_context(loss.training(stream(self.seed, f"training {name}")))
                    learners.append(loss)
            yield learners

    def teach(self, learner: Learns, index: int, state: _State) -> None:
        with torch.no_grad():
            picture = Observation(self.working_size(self._render(state)))
        with torch.enable_grad():
            self.reference.forget(learner.between(index, self.reference, picture))

    def update(self, state: _State) -> tuple[_State, dict[str, float], int]:
        if self.objective.unbalanced:
            with torch.no_grad(), self.scales.watching():
                self.objective = self.objective.balanced(self.reference, Observation(self.working_size(self._measured(state))))
        looks = [(self.eot.draw(self.generator), next(self.draws)) for _ in range(self.eot.samples)]

        def attempt() -> tuple[tuple[Variables, Tensor, list[str]], list[Tensor]]:
            with torch.enable_grad():
                gradients, losses = self._gradients(state, looks)
            usable = _usable(gradients)
            return (gradients, usable, list(losses)), [*losses.values(), (~usable).sum()]

        (gradients, usable, names), numbers = self.scales.repeated(attempt)
        with torch.no_grad():
            if numbers[-1]:
                gradients = tuple(torch.where(_broadcast(usable, g), g, 0) for g in gradients)
            kept = state.space.project(self.base, self.mask, self._ascent(state)(state.variables, gradients))
            if numbers[-1]:
                kept = tuple(torch.where(_broadcast(usable, new), new, old) for new, old in zip(kept, state.variables, strict=True))
        return replace(state, variables=kept), dict(zip(names, numbers, strict=False)), int(numbers[-1])

    def _ascent(self, state: _State) -> Ascent:
        """Of the space whose turn it is."""
        known = self.ascents.get(id(state.turn))
        if known is None:
            turns = self.turns.count(state.turn, self.steps)
            known = self.rule.begin(state.variables, unit=state.turn.unit, steps=turns, clean=self.base)
            self.ascents[id(state.turn)] = known
        return known

    def _render(self, state: _State) -> Tensor:
        return state.space.render(self.base, self.mask, state.variables)

    def _measured(self, state: _State) -> Tensor:
        """The picture at which the size of scaled losses is taken.

        Distances from the clean picture are 0, or rounding, at the clean picture itself: a run that starts there is measured elsewhere.
        """
        picture = self._render(state)
        if not torch.equal(picture, self.base):
            return picture
        elsewhere = state.space.inside(self.base, self.mask, stream(self.seed, "scales"))
        return self._render(replace(state, variables=elsewhere))

    def _gradients(self, state: _State, looks: Sequence[tuple[Transform | None, Draws]]) -> tuple[Variables, dict[str, Tensor]]:
        leaves = tuple(variable.detach().requires_grad_() for variable in state.variables)
        networks, totals = state.space.surrogates, dict[str, Tensor]()

        def picture(cut: Cut) -> Tensor:
            return self.working_size(state.space.render(self.base, self.mask, leaves, cut))

        for transform, draws in looks:
            seen = Observation(picture, surrogates=networks, transform=transform, draws=draws, low_memory=self.low_memory)
            try:
                losses = self.objective.backward(self.reference, seen, scale=1 / self.eot.samples)
            finally:
                seen.discard()
            for name, loss in losses.items():
                totals[name] = totals.get(name, 0) + loss.float() / self.eot.samples
        return tuple(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves), totals

    def renderer(self, state: _State, alpha: Tensor | None) -> Callable[[], Tensor]:
        def render() -> Tensor:
            with torch.no_grad():
                colour = state.space.result(self.base, self.mask, state.variables)
                # Out-of-range input pixels that the attack left alone go back exactly as they came.
                if self.base is not self.colour:
                    colour = torch.where(colour == self.base, self.colour, colour)
            return colour if alpha is None else torch.cat([colour, alpha], dim=1)

        return render


def _in_range(colour: Tensor) -> Tensor:
    """Clamped to [0,1]: as most pictures are already, the same tensor where it can be, since it is as large as the photo."""
    # Copied all the same where clamping would give other strides (channels last): pictures made of it have those, and kernels round
    # differently for each layout.
    stays = torch.empty_strided(colour.shape, colour.stride(), device="meta").clamp(0, 1).stride() == colour.stride()
    return colour if stays and bool(((colour >= 0) & (colour <= 1)).all()) else colour.clamp(0, 1)


def _usable(gradients: Variables) -> Tensor:
    """[B] bool: the picture's gradient is finite everywhere and not zero everywhere."""
    parts = [gradient[..., rows, :] for gradient in gradients for rows in strips(gradient)]
    sums = torch.stack([part.abs().flatten(1).sum(1) for part in parts]).sum(0)
    return torch.isfinite(sums) & (sums > 0)


def _broadcast(per_picture: Tensor, like: Tensor) -> Tensor:
    return per_picture.view(-1, *([1] * (like.ndim - 1)))
