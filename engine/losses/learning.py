"""Surrogates that learn the picture that they are attacked with, by low-rank adapters: Mist v2's co-training, Anti-DreamBooth's ASPL.

An attacker trains his model on the protected picture: what fools a model as it is need not fool it afterwards.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..compute.half import Scales
from ..draws import Draws, seeded_draws
from ..learning import undone
from ..objective import Loss
from ..observation import Observation
from ..picture import resize
from ..surrogates.lora import Adapters
from ..surrogates.picture_setup import Look, PictureSetup
from .baselines import training_loss


def fresh_draws(generator: torch.Generator) -> Iterator[Draws]:
    return seeded_draws(int(torch.randint(2**62, (), generator=generator)))


@dataclass(frozen=True, eq=False)
class Prior:
    """What a surrogate is to know still: pictures [N,3,H,W] in [0,1] of the class, under the prompt of the setup's model.

    weight: of their loss beside that of the instance (DreamBooth's prior preservation, Ruiz et al. 2023).
    """

    setup: PictureSetup
    pictures: Tensor
    weight: float = 1.0


@dataclass(eq=False, kw_only=True)
class CoTraining:
    """A surrogate that goes on learning the picture as the attack has it (Mist v2, Zheng et al. 2023).

    After each `every` steps of the attack its adapters are trained for `steps` steps with the model's own training loss: AdamW, begun anew
    each time as in the published code, with gradients of norm `clip` at most. The published code trains no more after the first time, since
    it looks for layers without adapters again. All losses of a run on this surrogate share one such object.

    adapters: which the models of all setups apply. instance: a setup whose model has the prompt that stands for the picture.
    owners: what has features that are stale after training, see Learns. draws: random numbers from a generator, the first for the adapters'
    beginning, then one for each look of the training. losses: of each look of the training so far in this run, unweighted.
    """

    adapters: Adapters
    instance: PictureSetup
    owners: Collection[object]
    prior: Prior | None = None
    every: int = 30
    steps: int = 10
    rate: float = 1e-4
    clip: float = 1.0
    decay: float = 1e-2
    draws: Callable[[torch.Generator], Iterator[Draws]] = fresh_draws
    losses: list[float] = field(default_factory=list, init=False)
    _running: Iterator[Draws] | None = field(default=None, init=False)
    _index: int = field(default=0, init=False)
    _scales: Scales = field(default_factory=Scales, init=False)

    @contextlib.contextmanager
    def training(self, generator: torch.Generator) -> Iterator[None]:
        """See Learns. Entered again meanwhile, by another loss on the same surrogate, it is nothing."""
        if self._running is not None:
            yield
            return
        self._running, self._index, self._scales = self.draws(generator), 0, Scales()
        self.losses.clear()
        try:
            with undone(self.adapters.parameters):
                self.adapters.begin(next(self._running))
                yield
        finally:
            self._running = None

    def between(self, index: int, clean: Observation, picture: Observation) -> Collection[object]:
        """See Learns. Raises ValueError where training diverges, HalfPrecisionError."""
        if index == self._index or (index - 1) % self.every:
            return ()
        self._index = index
        return self.owners if self.round(clean, picture, first=index == 1) else ()

    def round(self, clean: Observation, picture: Observation, *, first: bool) -> bool:
        """Between two runs of attack steps. first: before all of them. Whether anything was learned."""
        if not first:
            self.learn(picture.image, clean)
        return not first

    def learn(self, pictures: Tensor, clean: Observation) -> None:
        """Train on pictures of the instance [N,3,H,W], one drawn for each step, and on one of the class."""
        lessons = [_Lesson(self.instance, pictures, 1.0, clean)]
        if self.prior is not None:
            lessons.append(_Lesson(self.prior.setup, self.prior.pictures, self.prior.weight, clean))
        # All before the first training step: where networks take turns, the VAE then takes one turn only.
        looks = [[lesson.look(self._draw()) for lesson in lessons] for _ in range(self.steps)]
        parameters = self.adapters.parameters
        optimiser = torch.optim.AdamW(parameters, lr=self.rate, weight_decay=self.decay)
        for parameter in parameters:
            parameter.requires_grad_(True)
        for step in looks:
            slopes = [self._slopes(lesson, look) for lesson, look in zip(lessons, step, strict=True)]
            for parameter, *parts in zip(parameters, *slopes, strict=True):
                parameter.grad = torch.stack(parts).sum(0)
            # One by one, as tensors of a GPU that the tests only pretend have to be; there are few, and small.
            torch.nn.utils.clip_grad_norm_(parameters, self.clip, foreach=False)
            optimiser.step()
        for parameter in parameters:
            parameter.grad = None
            parameter.requires_grad_(False)

    def _draw(self) -> Draws:
        assert self._running is not None  # between() comes inside of training() only
        return next(self._running)

    def _slopes(self, lesson: _Lesson, look: Look) -> Sequence[Tensor]:
        """The gradient of a lesson's weighted loss with respect to each parameter."""
        model, parameters = lesson.setup.model, self.adapters.parameters

        def attempt() -> tuple[Sequence[Tensor], list[Tensor]]:
            (estimate,) = model.estimate(model.noised(look.latent, look.noise, look.level), look.level)
            loss = training_loss(lesson.setup, look, estimate)
            return torch.autograd.grad(loss * lesson.weight, parameters, allow_unused=True, materialize_grads=True), [loss]

        slopes, (loss,) = self._scales.repeated(attempt)
        if not math.isfinite(loss):
            if not self.losses:
                raise ValueError("The surrogate's loss is no number before it has learned anything: check that its model is complete.")
            raise ValueError("The surrogate's training diverged, so that its loss is no number: set a lower learning rate.")
        self.losses.append(loss)
        return slopes


@dataclass(eq=False, kw_only=True)
class ASPL(CoTraining):
    """Alternating surrogate and perturbation learning (Anti-DreamBooth, Van Le et al. 2023).

    After each `every` steps of the attack the surrogate learns the picture as it is by then. A copy of it goes on to learn clean pictures
    of the person, also before the first step: that copy is attacked, and forgotten when the surrogate learns again. Anti-DreamBooth trains
    all weights of UNet and text encoder where this trains adapters, whose learning rate is another.

    photos: [N,3,H,W] in [0,1], clean pictures of the person.
    """

    photos: Tensor
    every: int = 6
    steps: int = 3
    _surrogate: Sequence[Tensor] = field(default=(), init=False)

    def round(self, clean: Observation, picture: Observation, *, first: bool) -> bool:
        parameters = self.adapters.parameters
        if not first:
            with torch.no_grad():
                for parameter, value in zip(parameters, self._surrogate, strict=True):
                    parameter.copy_(value)
            self.learn(picture.image, clean)
        self._surrogate = [parameter.detach().clone() for parameter in parameters]
        self.learn(self.photos, clean)
        return True


@dataclass(frozen=True, eq=False)
class CoTrained:
    """A loss whose surrogate learns between the steps of the attack: the engine's Learns."""

    loss: Loss
    lessons: CoTraining

    @property
    def surrogates(self) -> tuple[object, ...]:
        return self.loss.surrogates

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        return self.loss(clean, adversarial)

    def training(self, generator: torch.Generator) -> contextlib.AbstractContextManager[object]:
        return self.lessons.training(generator)

    def between(self, index: int, clean: Observation, picture: Observation) -> Collection[object]:
        return self.lessons.between(index, clean, picture)


@dataclass(eq=False)
class _Lesson:
    """Pictures under one prompt, in one round of training. Their posterior is computed once for each that is drawn."""

    setup: PictureSetup
    pictures: Tensor
    weight: float
    clean: Observation
    _seen: dict[int, Observation] = field(default_factory=dict)

    def look(self, draws: Draws) -> Look:
        count = len(self.pictures)
        index = draws.integer("picture", count) if count > 1 else 0
        if index not in self._seen:
            self._seen[index] = Observation(_filling(self.pictures[index][None], self.clean.image))
        seen = self._seen[index]
        seen.draws = draws
        return self.setup.look(seen)


def _filling(picture: Tensor, like: Tensor) -> Tensor:
    """The middle of a picture [1,3,H,W] with the aspect of another, at its size."""
    (height, width), (rows, columns) = picture.shape[-2:], like.shape[-2:]
    kept = (min(height, round(width * rows / columns)), min(width, round(height * columns / rows)))
    top, left = ((side - part) // 2 for side, part in zip((height, width), kept, strict=True))
    return resize(picture.to(like)[..., top : top + kept[0], left : left + kept[1]], (rows, columns))
