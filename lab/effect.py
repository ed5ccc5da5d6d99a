"""What a preset does to animations of one person, by the surrogate and by victims that it never saw."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ..engine.animators.lab_victims.victim import NETWORKS, LabVictim
from ..engine.conversions import middle
from ..engine.metrics.visibility import psnr
from ..engine.picture import resize
from ..engine.purify.edits import JPEGFile
from ..engine.transforms import GaussianBlur, ResizeBack
from ..engine.weights.catalogue import LAB, VICTIMS
from .networks import Lab
from .pairs import Pair
from .presets import PRESETS, Task
from .train_measure import FILE as MEASURE
from .train_measure import embed, load_measure

STEPS, GUIDANCE = 15, 1.5
Animate = Callable[[Tensor, Tensor], Tensor]
"""Photo [1,3,S,S] and a pose picture [1,3,S,S] -> the frame in that pose, [1,3,S,S]."""


def halved(picture: Tensor) -> Tensor:
    """To half of the sides and back, in fp32: RESULTS.md's figures are not of an 8-bit file."""
    return ResizeBack(0.5)(picture).clamp(0, 1)


def cropped(picture: Tensor) -> Tensor:
    """A sixteenth off each side, scaled back bilinearly, in fp32 as above."""
    height, width = picture.shape[-2:]
    inner = middle(picture, height - 2 * (height // 16), width - 2 * (width // 16))
    return resize(inner, (height, width)).clamp(0, 1)


# What an attacker's picture has gone through, by name.
COUNTERMEASURES: dict[str, Callable[[Tensor], Tensor]] = {
    "JPEG 75": JPEGFile(75),
    "blur": GaussianBlur(1.0, 5),
    "half size and back": halved,
    "crop": cropped,
}


class Laboratory:
    """All networks: those of the surrogate, by default those that ship, and the victims and the measure."""

    def __init__(self, networks: Path = LAB, victims: Path = VICTIMS) -> None:
        self.lab, self._measure = Lab(networks), load_measure(victims / MEASURE)
        self.animators: dict[str, Animate] = {"surrogate": self._surrogate}
        for name in NETWORKS:
            self.animators[name] = self._victim(LabVictim(name, victims))

    def _surrogate(self, photo: Tensor, pose: Tensor) -> Tensor:
        return self.lab.animation(photo, pose, steps=STEPS, guidance=GUIDANCE)

    @staticmethod
    def _victim(victim: LabVictim) -> Animate:
        return lambda photo, pose: victim.animation(photo, pose, steps=STEPS)

    @torch.no_grad()
    def likeness(self, frames: Tensor, photo: Tensor) -> float:
        """Cosine of the second encoder's embeddings, mean over frames: 1 is the same."""
        return float(F.cosine_similarity(embed(self._measure, frames), embed(self._measure, photo)).mean())


class Person:
    """Photo and the true other photo [1,3,S,S] in [0,1]; poses [2,3,S,S], the photo's own and the other's."""

    def __init__(self, laboratory: Laboratory, pair: Pair) -> None:
        self.photo, self.truth = pair.pictures[:, None].float() / 255
        self.poses, self.number = pair.poses(), pair.number
        self.laboratory, self._clean = laboratory, dict[tuple[str, str], Tensor]()

    def clean(self, animator: str, counter: str = "") -> Tensor:
        """The clean photo's frame in the other pose, [1,3,S,S], after a countermeasure."""
        key = (animator, counter)
        if key not in self._clean:
            self._clean[key] = self._animated(animator, counter, self.photo)
        return self._clean[key]

    def compared(self, changed: Tensor, what: str, counter: str = "") -> Iterator[Figure]:
        """Every animator's figure for a changed photo, after `counter` on both the changed and the clean one."""
        for name in self.laboratory.animators:
            clean, other = self.clean(name, counter), self._animated(name, counter, changed)
            photo, likeness = float(psnr(self.photo, changed)), self.laboratory.likeness(other, self.photo)
            yield Figure(what, name, float(psnr(clean, other)), photo, likeness)

    def _animated(self, animator: str, counter: str, photo: Tensor) -> Tensor:
        seen = COUNTERMEASURES[counter](photo) if counter else photo
        return self.laboratory.animators[animator](seen, self.poses[1:])


@dataclass(frozen=True)
class Figure:
    """One animation of one changed photo. psnr: of the animation against the clean photo's, dB; photo: of the photo itself.

    likeness: of the animation to the clean photo, see Laboratory.likeness.
    """

    what: str
    animator: str
    psnr: float
    photo: float
    likeness: float


@dataclass(frozen=True)
class Plan:
    """How presets are measured. Thorough ones also meet countermeasures, shuffling and another person; those in `budgets` other budgets."""

    budget: float = 8.0
    other_budgets: tuple[float, ...] = (4.0, 16.0)
    steps: int = 40
    lpips: Path | None = None
    thorough: tuple[str, ...] = ()
    budgets: tuple[str, ...] = ()


def figures(laboratory: Laboratory, person: Person, stranger: Person, preset: str, plan: Plan) -> Iterator[Figure]:
    """Everything about one preset and one person. What starts with the preset's name, and goes on with `, after JPEG 75` and so on."""

    def changed(budget: float) -> Tensor:
        return PRESETS[preset](laboratory.lab, Task(person.photo, person.poses[:1], budget, plan.steps, person.number, plan.lpips))

    picture = changed(plan.budget)
    yield from person.compared(picture, preset)
    for budget in plan.other_budgets if preset in plan.budgets else ():
        yield from person.compared(changed(budget), f"{preset}, budget {budget:g}")
    if preset in plan.thorough:
        for counter in COUNTERMEASURES:
            yield from person.compared(picture, f"{preset}, after {counter}", counter)
        yield from _elsewhere(person, stranger, picture, preset)


def clean_figures(person: Person) -> Iterator[Figure]:
    """The clean photo's animations against the true photo, which is how good the animators are."""
    for name in person.laboratory.animators:
        frame = person.clean(name)
        likeness = person.laboratory.likeness(frame, person.photo)
        yield Figure("clean, against the true photo", name, float(psnr(person.truth, frame)), float("inf"), likeness)


def _elsewhere(person: Person, stranger: Person, picture: Tensor, what: str) -> Iterator[Figure]:
    """The same change where it should do little: with its pixels shuffled, and on another person."""
    difference = picture - person.photo
    order = torch.randperm(difference[0, 0].numel(), generator=torch.Generator().manual_seed(person.number))
    shuffled = (person.photo + difference.flatten(2)[..., order].view_as(difference)).clamp(0, 1)
    yield from person.compared(shuffled, f"{what}, pixels shuffled")
    yield from stranger.compared((stranger.photo + difference).clamp(0, 1), f"{what}, on another person")
