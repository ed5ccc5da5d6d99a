"""Disobedience and Tear on a small stand-in for the animator, whose answers are known in closed form."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import pytest
import torch
from stillguard.engine.animators.face.animator import FACE, Stages
from stillguard.engine.animators.face.framing import Framing, Reframing, whole
from stillguard.engine.animators.face.networks import Face, Rotation
from stillguard.engine.attack import protect
from stillguard.engine.draws import SeededDraws
from stillguard.engine.losses.face import Disobedience, FaceSetup, Tear
from stillguard.engine.objective import Objective, Term
from stillguard.engine.observation import Observation
from stillguard.engine.spaces.rgb import RGB
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Obeying:
    """Moves the face's brightness by its pose times a gain that the picture's own brightness decides, and the field likewise."""

    obeys: float = 1.0

    def stages(self, portrait: Tensor, poses: Tensor, /) -> Stages:
        face = portrait[:, :, *FACE].expand(len(poses), -1, -1, -1)
        gain = self.obeys * face[:, :3].mean((1, 2, 3), keepdim=True).square()
        drive = poses.abs().mean(1).view(-1, 1, 1, 1)
        moved = face + gain * drive
        small = F.interpolate(portrait, size=(256, 256)).expand(len(poses), -1, -1, -1)
        field = (gain * drive).expand(-1, 2, 256, 256) * torch.linspace(-1, 1, 256)
        return Stages(face, Face(moved, (gain * drive).expand(-1, 2, 192, 192)), portrait, Rotation(small, small + gain, field))


def _setup(animator: Obeying, **draws: float) -> FaceSetup:
    return FaceSetup(animator, _framing(), **draws)  # type: ignore[arg-type]


def _framing() -> Framing:
    return whole(torch.ones(1, 1, 64, 64), (64, 64))


def _photo() -> Tensor:
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 0.4 + 0.5


def test_the_clean_picture_obeys_about_as_the_clean_poses_do() -> None:
    photo, setup = _photo(), _setup(Obeying())
    clean = Observation(photo)
    values = [float(Disobedience(setup, turn=0.0)(clean, Observation(photo, draws=SeededDraws(seed)))) for seed in range(40)]
    assert sum(values) / len(values) == pytest.approx(1, abs=0.3)


def test_a_picture_that_stays_the_still_has_no_obedience_left() -> None:
    photo = _photo()
    setup = _setup(Obeying())
    # Half of all light, which is 0 in the network's range: there this animator's gain is 0.
    still = torch.full_like(photo, 1.055 * 0.5 ** (1 / 2.4) - 0.055)
    value = Disobedience(setup)(Observation(photo), Observation(still))
    assert float(value) < 0.1 * float(Disobedience(setup)(Observation(photo), Observation(photo)))


def test_about_half_of_the_looks_are_through_our_own_square_and_the_others_within_reach() -> None:
    moved = [_setup(Obeying(), scale=0.2, shift=0.05)._moved(SeededDraws(seed)) for seed in range(400)]
    elsewhere = [m for m in moved if m != Reframing()]
    assert len(elsewhere) == pytest.approx(200, abs=50)
    for name, low, high in (("scale", 0.8, 1.1), ("right", -0.05, 0.05), ("down", -0.05, 0.05)):
        drawn = [getattr(m, name) for m in elsewhere]
        # All of the range, and nothing beside it.
        assert low <= min(drawn) < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < max(drawn) <= high
    assert {_setup(Obeying())._moved(SeededDraws(seed)) for seed in range(20)} == {Reframing()}


def test_tear_counts_from_the_clean_picture_at_the_same_pose_and_framing() -> None:
    photo, setup = _photo(), _setup(Obeying(), scale=0.1, shift=0.05)
    bare = Tear(setup, away=0.0, variation=0.0)
    assert float(bare(Observation(photo), Observation(photo, draws=SeededDraws(3)))) == pytest.approx(0, abs=1e-6)
    assert float(bare(Observation(photo), Observation(photo * 0.9, draws=SeededDraws(3)))) > 0


@pytest.mark.parametrize("low_memory", [False, True])
@pytest.mark.parametrize(("kind", "sign"), [(Disobedience, -1.0), (Tear, 1.0)])
def test_protect_moves_each_the_way_it_is_meant(kind: type, sign: float, low_memory: bool) -> None:
    photo = _photo()
    loss = kind(_setup(Obeying(), scale=0.05, shift=0.02))
    objective = Objective((Term("face", sign, loss),))
    with contextlib.closing(protect(photo, objective, space=RGB(8), steps=6, seed=4, low_memory=low_memory)) as run:
        *_, last = run
    # On a pose that no step drew.
    before, after = (float(loss(Observation(photo), Observation(p, draws=SeededDraws(99)))) for p in (photo, last.image))
    assert sign * (after - before) > 0


def test_both_losses_share_one_pass_of_the_animator() -> None:
    asked = []

    class Counting(Obeying):
        def stages(self, portrait: Tensor, poses: Tensor, /) -> Stages:
            asked.append((portrait.requires_grad, len(poses)))
            return super().stages(portrait, poses)

    photo, setup = _photo(), _setup(Counting(), poses=2)
    clean = Observation(photo)
    both = Objective((Term("a", -1.0, Disobedience(setup)), Term("b", 1.0, Tear(setup))))
    seen = Observation((photo * 0.95).requires_grad_(), draws=SeededDraws(0))
    both.backward(clean, seen)
    seen.discard()
    assert sorted(asked) == [(False, 1)] * 4 + [(False, 2), (True, 2)]
