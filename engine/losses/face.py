"""Losses on the face animator: a face that does not obey its driving, and one that tears."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..animators.face.animator import FACE, Stages
from ..animators.face.framing import Framing, Reframing
from ..animators.face.poses import drawn
from ..draws import Draws, SeededDraws, placed, uniform
from ..observation import Features, Observation

_CLEAN_POSES = 4
"""Poses over which the clean portrait's own change is averaged, once for a run."""


class Animator(Protocol):
    """See engine.animators.face.animator.FaceAnimator."""

    def stages(self, portrait: Tensor, poses: Tensor, /) -> Stages: ...


@dataclass(frozen=True)
class _Driven:
    """A portrait and what one look's poses make of it: face and opacity [B,4 or 2,192,192], field and warped picture at 256x256."""

    portrait: Tensor
    face: Tensor
    opacity: Tensor
    field: Tensor
    warped: Tensor

    @property
    def change(self) -> Tensor:
        """How the face differs from the portrait that was to be moved."""
        return self.face - self.portrait[:, :, *FACE]


@dataclass(frozen=True, eq=False)
class FaceSetup:
    """The face animator as losses ask it: through a framing, at poses that are drawn for each look.

    poses: how many. scale, shift: how far another attacker's square may lie from ours (expectation over framings): every second look, on
    average, is through one whose person is 1 - scale to 1 + scale / 2 times as large and moved by up to shift of its side, all uniform.
    With 0 and 0 a few pixels undo the effect. Smaller is the harder half, since a perturbation loses its detail there; and a square that is
    moved in every look gives up more of ours than it saves.
    """

    animator: Animator
    framing: Framing
    poses: int = 1
    scale: float = 0.0
    shift: float = 0.0

    def driven(self, seen: Observation, draws: Draws) -> _Driven:
        """Of one look's draws, which are the same for every loss and for both pictures."""
        poses, moved = self._poses(draws, self.poses), self._moved(draws)

        def compute() -> Features:
            portrait = self.framing.portrait(seen.image, moved)
            stages = self.animator.stages(portrait, placed(poses, portrait))
            return portrait, stages.face.picture, stages.face.opacity, stages.rotation.field, stages.rotation.warped

        return _Driven(*seen.features(self.animator, ("driven", id(self.framing), self.poses, moved), compute, lasting=False))

    def clean_change(self, clean: Observation) -> tuple[Tensor, Tensor]:
        """Mean squares of what poses change in the clean portrait's face, and of its field of head and body."""

        def compute() -> Features:
            portrait = self.framing.portrait(clean.image)
            poses = placed(self._poses(SeededDraws(0), _CLEAN_POSES), portrait)
            sizes = []
            for pose in poses.split(1):
                stages = self.animator.stages(portrait, pose)
                change = stages.face.picture - portrait[:, :, *FACE]
                sizes.append(torch.stack([change.square().mean(), stages.rotation.field.square().mean()]))
            face, field = torch.stack(sizes).mean(0)
            return face, field

        face, field = clean.features(self.animator, ("clean change", id(self.framing)), compute)
        return face, field

    def _poses(self, draws: Draws, count: int) -> Tensor:
        return torch.stack([drawn(numbers) for numbers in uniform(draws, "poses", (count, 16))])

    def _moved(self, draws: Draws) -> Reframing:
        elsewhere, large, right, down = uniform(draws, "framing", (4,)).tolist()
        if elsewhere < 0.5:
            return Reframing()
        return Reframing(1 + self.scale * (1.5 * large - 1), self.shift * (2 * right - 1), self.shift * (2 * down - 1))


@dataclass(frozen=True, eq=False)
class Disobedience:
    """Share of the driving's change that reaches face and head: 1 for a portrait that obeys, 0 for one that stays the still. Minimised.

    mean |face(x, p) - x|^2 and turn * mean |field(x, p)|^2, each over what the clean portrait's poses change on average. Silencer's idea,
    that the driving signal is ignored (audio nullifying), on a feed-forward animator.
    """

    setup: FaceSetup
    turn: float = 0.3

    @property
    def surrogates(self) -> tuple[object, ...]:
        return (self.setup.animator,)

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        face, field = self.setup.clean_change(clean)
        driven = self.setup.driven(adversarial, adversarial.draws)
        still = driven.change.square().mean() / face
        return still + self.turn * driven.field.square().mean() / field


@dataclass(frozen=True, eq=False)
class Tear:
    """Distance of what poses make of the picture from what they make of the clean one, where the animator paints and warps. Maximised.

    Face, opacity of what is painted anew, field of head and body, the picture warped by it, the driven face's distance from its own
    portrait, and the total variation of the field, all as mean squares, the field's over the clean portrait's.
    """

    setup: FaceSetup
    away: float = 1.0
    variation: float = 1.0

    @property
    def surrogates(self) -> tuple[object, ...]:
        return (self.setup.animator,)

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        size, field = self.setup.clean_change(clean)
        ours, theirs = self.setup.driven(adversarial, adversarial.draws), self.setup.driven(clean, adversarial.draws)
        painted = (ours.face - theirs.face).square().mean() / size + (ours.opacity - theirs.opacity).square().mean()
        moved = (ours.field - theirs.field).square().mean() / field + (ours.warped - theirs.warped).square().mean() / size
        variation = sum(ours.field.diff(dim=axis).square().mean() for axis in (-1, -2)) / field
        return painted + moved + self.away * ours.change.square().mean() / size + self.variation * variation
