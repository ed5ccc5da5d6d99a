"""Spaces: those that take turns against loops written out by hand, balls against independent solvers, starts from another picture."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn
from scipy.optimize import minimize
from stillguard.engine import RGB, RGBL2, Alternating, MomentumSign, Normalised, Objective, Sign, Term, protect
from stillguard.engine.observation import Cut, Observation, uncut
from stillguard.engine.picture import amplified, largest_change, to_levels
from stillguard.engine.spaces.l2 import nearest_in_ball
from stillguard.engine.spaces.space import Space
from torch import Tensor


def matrix(length: int) -> Tensor:
    """The orthonormal DCT-II."""
    places, waves = torch.arange(length, dtype=torch.float64) + 0.5, torch.arange(length, dtype=torch.float64)
    cosines = torch.cos(torch.pi / length * waves[:, None] * places) * (2 / length) ** 0.5
    cosines[0] *= 0.5**0.5
    return cosines.float()


@dataclass(frozen=True, eq=False)
class Frequencies:
    """The DCT of the whole picture, bound by another space's ball."""

    ball: RGB = field(default_factory=RGB)
    unit: float = 2 / 255
    surrogates = ()

    @property
    def budget(self) -> float | None:
        return self.ball.budget

    def at(self, index: int) -> Frequencies:
        return self

    def variables(self, clean: Tensor, mask: Tensor | None, picture: Tensor) -> tuple[Tensor, ...]:
        return (matrix(picture.shape[-2]) @ picture @ matrix(picture.shape[-1]).T,)

    def start(self, clean: Tensor, mask: Tensor | None, generator: torch.Generator) -> tuple[Tensor, ...]:
        return self.variables(clean, mask, clean + self.ball.start(clean, mask, generator)[0])

    inside = start

    def render(self, clean: Tensor, mask: Tensor | None, variables: tuple[Tensor, ...], cut: Cut = uncut) -> Tensor:
        return matrix(clean.shape[-2]).T @ variables[0] @ matrix(clean.shape[-1])

    def project(self, clean: Tensor, mask: Tensor | None, variables: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        picture = self.render(clean, mask, variables)
        return self.variables(clean, mask, clean + self.ball.project(clean, mask, (picture - clean,))[0])

    def result(self, clean: Tensor, mask: Tensor | None, variables: tuple[Tensor, ...]) -> Tensor:
        return self.ball.result(clean, mask, (self.render(clean, mask, variables) - clean,))


class Curved:
    """A loss whose gradient changes from step to step: no network, so that it can be written out elsewhere."""

    surrogates = ()
    weights = torch.randn(1, 3, 40, 32, generator=torch.Generator().manual_seed(3))

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        return self.value(adversarial.image)

    @classmethod
    def value(cls, image: Tensor) -> Tensor:
        return torch.sin(30 * image + cls.weights).mean()


OBJECTIVE = Objective((Term("curved", 1.0, Curved()),))


@pytest.fixture
def clean() -> Tensor:
    return to_levels(torch.rand(1, 3, 40, 32, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1) / 255


def moved(first: Tensor, second: Tensor) -> float:
    """Share of values whose level differs."""
    return float((to_levels(first) != to_levels(second)).float().mean())


def by_hand(clean: Tensor, steps: int, *, shared: bool) -> Tensor:
    """Two loops, one on the pixels and one on scipy's DCT, that hand the picture to each other; with one momentum for both, or two."""

    def normal(gradient: np.ndarray) -> np.ndarray:
        return gradient / np.abs(gradient).mean()

    x = clean.double().numpy()
    start, momenta = x.copy(), [np.zeros_like(x), np.zeros_like(x)]
    for step in range(steps):
        leaf = torch.from_numpy(x).requires_grad_()
        Curved.value(leaf).backward()
        gradient, pixels = leaf.grad.numpy(), step % 2 == 0
        mine = 0 if pixels or shared else 1
        momenta[mine] = 0.5 * momenta[mine] + normal(gradient if pixels else dctn(gradient, axes=(2, 3), norm="ortho"))
        if pixels:
            x = x + np.sign(momenta[mine]) / 255
        else:
            x = idctn(dctn(x, axes=(2, 3), norm="ortho") + np.sign(momenta[mine]) * 2 / 255, axes=(2, 3), norm="ortho")
        x = np.clip(start + np.clip(x - start, -8 / 255, 8 / 255), 0, 1)
    return torch.from_numpy(x)


def test_spaces_in_turn_hand_the_picture_on_and_remember_only_their_own_turns(clean: Tensor) -> None:
    turns = Alternating((RGB(8, start_from="clean"), Frequencies()))
    *_, last = protect(clean, OBJECTIVE, space=turns, steps=7)
    assert moved(last.image, by_hand(clean, 7, shared=False)) < 0.005
    assert moved(last.image, by_hand(clean, 7, shared=True)) > 0.05
    assert largest_change(clean, last.image) == turns.budget == 8


def test_one_space_with_every_turn_is_that_space(clean: Tensor) -> None:
    space = RGB(8)
    *_, alone = protect(clean, OBJECTIVE, space=space, steps=4)
    *_, twice = protect(clean, OBJECTIVE, space=Alternating((space, space)), steps=4)
    assert torch.equal(alone.image, twice.image)


def test_step_sizes_decay_over_a_spaces_own_turns(clean: Tensor) -> None:
    """Seven steps are four of the first space's and three of the second's."""
    spaces: tuple[Space, ...] = (RGB(8), Frequencies(), RGB(4))
    turns, counted = Alternating(spaces), []

    class Counting(Sign):
        def begin(self, variables: tuple[Tensor, ...], **told: object) -> object:
            counted.append((told["steps"], told["unit"], torch.equal(told["clean"], clean)))
            return super().begin(variables, **told)

    list(protect(clean, OBJECTIVE, space=turns, update=Counting(), steps=7))
    assert counted == [(3, 1 / 255, True), (2, 2 / 255, True), (2, 1 / 255, True)]
    assert turns.budget == 8
    assert Alternating((RGB(8), RGBL2(4))).budget is None


def test_a_space_may_follow_a_schedule(clean: Tensor) -> None:
    """Its variables and its momentum go on; only what depends on the step changes."""

    @dataclass(frozen=True)
    class Fading(RGB):
        strength: float = 1.0

        def at(self, index: int) -> Fading:
            seen.append(index)
            return Fading(self.budget, self.start_from, strength=1 / index)

        def render(self, clean: Tensor, mask: Tensor | None, variables: tuple[Tensor, ...], cut: Cut = uncut) -> Tensor:
            return clean + variables[0] * self.strength

        def result(self, clean: Tensor, mask: Tensor | None, variables: tuple[Tensor, ...]) -> Tensor:
            return super().result(clean, mask, (variables[0] * self.strength,))

    class Brightness(Curved):
        @classmethod
        def value(cls, image: Tensor) -> Tensor:
            return image.mean()

    seen: list[int] = []
    objective = Objective((Term("brightness", 1.0, Brightness()),))
    steps = list(protect(clean, objective, space=Fading(8, "clean"), update=Sign(3.0), steps=3))
    assert seen == [1, 2, 3]
    # 3, 6 and 8 levels of variables, shown at once, by half and by a third.
    assert [round(float((step.image - clean).mean()) * 255) for step in steps] == [0, 3, 3, 3]
    assert largest_change(clean, steps[3].image) == 3


def test_a_run_begins_from_another_picture_and_its_budget_counts_from_the_clean_one(clean: Tensor) -> None:
    other = to_levels((clean + 0.08 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)) / 255
    *_, last = protect(clean, OBJECTIVE, space=RGB(8), update=Sign(1e-3), start=other, steps=1)
    nearest = to_levels(other).clamp(to_levels(clean) - 8, to_levels(clean) + 8)
    assert torch.equal(to_levels(last.image), nearest)
    mask = torch.zeros(1, 1, 40, 32)
    mask[..., :20, :] = 1
    *_, partly = protect(clean, OBJECTIVE, space=RGB(8), update=Sign(1e-3), start=other, steps=1, mask=mask)
    assert torch.equal(partly.image[..., 20:, :], clean[..., 20:, :])
    assert torch.equal(to_levels(partly.image)[..., :20, :], nearest[..., :20, :])


def test_refuses_to_begin_from_a_picture_of_another_shape(clean: Tensor) -> None:
    with pytest.raises(ValueError, match="give two of one shape"):
        next(protect(clean, OBJECTIVE, start=clean[..., 1:]))
    with pytest.raises(ValueError, match="No space takes a turn"):
        Alternating(())


@pytest.mark.parametrize("masked", [False, True])
def test_the_nearest_point_of_an_l2_ball_is_a_solvers(masked: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    far = torch.randn(1, 2, 2, 3, generator=generator).double()
    mask = torch.rand(1, 1, 2, 3, generator=generator).double() * 0.9 + 0.1 if masked else None
    weight = (torch.ones(1, 1, 2, 3) if mask is None else mask).expand(1, 2, -1, -1).flatten().numpy()
    found = nearest_in_ball(far, torch.full((1, 1, 1, 1), 0.7, dtype=torch.float64), mask)
    goal = far.flatten().numpy()
    constraint = {"type": "ineq", "fun": lambda p: 0.7**2 - ((p / weight) ** 2).sum()}
    solved = minimize(
        lambda p: ((p - goal) ** 2).sum(), np.zeros_like(goal), constraints=constraint, options={"ftol": 1e-14, "maxiter": 500}
    )
    np.testing.assert_allclose(found.flatten().numpy(), solved.x, atol=2e-5)
    near = far * 1e-3
    torch.testing.assert_close(nearest_in_ball(near, torch.full((1, 1, 1, 1), 0.7, dtype=torch.float64), mask), near)


@pytest.mark.parametrize(("channels", "radius"), itertools.product([1, 3], [0.6, 4.0]))
def test_an_l2_result_keeps_its_radius_and_mask_to_the_level(clean: Tensor, channels: int, radius: float) -> None:
    """On pictures off the 8-bit grid, with ends of the range, hard and soft masks."""
    generator = torch.Generator().manual_seed(5)
    pictures = torch.cat([clean, torch.rand(clean.shape, generator=generator) * 1.1 - 0.05])[:, :channels]
    soft = torch.rand(1, 1, 40, 32, generator=generator)
    for mask in (None, (soft > 0.5).float(), soft * (soft > 0.3)):
        *_, last = protect(pictures, OBJECTIVE, space=RGBL2(radius), update=Normalised(radius / 2), steps=4, mask=mask)
        change = to_levels(last.image) - to_levels(pictures)
        share = torch.ones(1, 1, 40, 32) if mask is None else mask
        inside = (share > 0).expand_as(change)
        scaled = (change / share.clamp_min(1e-9))[inside].view(2, -1)
        size = scaled.square().mean(1).sqrt()
        assert bool((size <= radius * (1 + 1e-5)).all())
        # Rounding takes most of what a soft mask leaves of half a level.
        assert mask is not None or bool((size > 0.9 * radius).all())
        assert torch.equal(last.image[~inside], pictures[~inside])
        assert torch.equal((last.image * 255).round()[change != 0] / 255, last.image[change != 0])


def test_pgd_in_an_l2_ball_finds_the_optimum_of_a_linear_loss(clean: Tensor) -> None:
    """Which is the gradient's direction at the ball's surface."""

    class Linear(Curved):
        @classmethod
        def value(cls, image: Tensor) -> Tensor:
            return (image * cls.weights).mean()

    *_, last = protect(clean, Objective((Term("linear", 1.0, Linear()),)), space=RGBL2(6), update=Normalised(2), steps=15)
    change = (last.image - clean).flatten() * 255
    optimum = Linear.weights.flatten() * 6 / Linear.weights.square().mean().sqrt()
    assert float((change - optimum).square().mean().sqrt()) < 0.4  # of which rounding is 0.29


def test_what_has_no_budget_is_shown_at_its_largest_change(clean: Tensor) -> None:
    *_, last = protect(clean, OBJECTIVE, space=RGBL2(4), update=Normalised(2), steps=3)
    shown = amplified(clean, last.image, budget=None)
    assert largest_change(clean, last.image) > 4
    assert float((shown - 0.5).abs().max()) == 0.5
    assert torch.equal(amplified(clean, clean, budget=None), torch.full_like(clean, 0.5))


def test_momentum_is_the_rules_own_state(clean: Tensor) -> None:
    """The same settings in two runs do not meet."""
    rule, turns = MomentumSign(), Alternating((RGB(8), Frequencies()))
    first, second = (list(protect(clean, OBJECTIVE, space=turns, update=rule, steps=3))[-1].image for _ in range(2))
    assert torch.equal(first, second)
