"""I2VGuard's losses on a small differentiable video model, against numpy, finite differences and the plain backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from stillguard.engine import RGB, Objective, Observation, Sign, Term, protect
from stillguard.engine.draws import SeededDraws
from stillguard.engine.losses.i2vguard import ContrastiveFrames, L2Penalty, TargetLatent, TemporalAttention
from stillguard.engine.observation import Features
from stillguard.engine.surrogates.denoiser import Tap
from stillguard.engine.surrogates.video_setup import VideoSetup
from support import RandomEncoder
from torch import Tensor
from torch.nn import functional as F

VAE = RandomEncoder(0).double()
FRAMES = 4
TAPS = [Tap("attention", 0)]


class SmallVideoModel:
    """Tells every frame the latent and mixes them with softmax attention over frames: nonlinear and exact in double precision."""

    def __init__(self) -> None:
        self.conditioner, self.asked = RandomEncoder(1).double(), list[float]()
        generator = torch.Generator().manual_seed(2)
        self.q, self.k = torch.randn(2, 4, 4, generator=generator, dtype=torch.float64)

    def condition(self, image: Tensor) -> Features:
        return (self.conditioner.encode(image),)

    def prior(self, image: Tensor) -> Tensor:
        return self.still(image) * torch.linspace(0.5, 1.5, FRAMES).view(1, 1, -1, 1, 1)

    def still(self, image: Tensor) -> Tensor:
        return VAE.encode(image)[:, :, None].repeat(1, 1, FRAMES, 1, 1)

    def noised(self, latents: Tensor, noise: Tensor, level: float) -> Tensor:
        return (1 - level) * latents + level * noise

    def estimate(self, noisy: Tensor, level: float, conditioning: Features, *, taps: Sequence[Tap] = ()) -> Features:
        self.asked.append(level)
        mixed = torch.tanh(noisy + conditioning[0][:, :, None])
        tokens = mixed.mean((3, 4)).mT
        scores = (tokens @ self.q) @ (tokens @ self.k).mT
        maps = scores.softmax(dim=-1)
        return torch.einsum("bfg,bcghw->bcfhw", maps, mixed) * (1 - level), *(maps for _ in taps)

    def read(self, noisy: Tensor, level: float, conditioning: Features, *, taps: Sequence[Tap]) -> Features:
        return self.estimate(noisy, level, conditioning, taps=taps)[1:]


@pytest.fixture
def clean(astronaut: Tensor) -> Tensor:
    return astronaut[..., 64:96, 64:96].double()


@pytest.fixture
def adversarial(clean: Tensor) -> Tensor:
    noise = torch.rand(clean.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (clean + (noise - 0.5) * 0.2).clamp(0, 1)


@pytest.fixture
def setup() -> VideoSetup:
    return VideoSetup(SmallVideoModel(), seed=3)


def value(loss: object, clean: Tensor, adversarial: Tensor, draw: int = 5) -> float:
    return float(loss(Observation(clean), Observation(adversarial, draws=SeededDraws(draw))))


def test_the_equations_by_hand(setup: VideoSetup, clean: Tensor, adversarial: Tensor) -> None:
    model, index = setup.model, SeededDraws(5).integer("video", len(setup.levels))
    level, prior = setup.levels[index], model.prior(clean)
    noisy = setup.start(Observation(clean), Observation(clean), index)
    (x_src, a_src), (x_adv, a_adv) = (model.estimate(noisy, level, model.condition(image), taps=TAPS) for image in (clean, adversarial))

    def mse(a: Tensor, b: Tensor) -> float:
        return float(np.mean((a.numpy() - b.numpy()) ** 2))

    dark = torch.zeros(1, 3, 7, 9, dtype=torch.float64)  # of any size
    black = model.still(torch.zeros_like(clean))
    expected = mse(x_adv, black) + max(0.0, 2 * mse(x_src, prior) - mse(x_adv, prior))
    assert value(ContrastiveFrames(setup, dark), clean, adversarial) == pytest.approx(expected, rel=1e-5)
    assert value(TemporalAttention(setup, (0,)), clean, adversarial) == pytest.approx(mse(a_adv, a_src), rel=1e-5)
    assert value(TargetLatent(VAE, dark), clean, adversarial) == pytest.approx(
        mse(VAE.encode(adversarial), VAE.encode(torch.zeros_like(clean))), rel=1e-5
    )
    assert value(L2Penalty(), clean, adversarial) == pytest.approx(mse(adversarial, clean), rel=1e-5)


def test_the_hinge_opens_and_closes(setup: VideoSetup, clean: Tensor, adversarial: Tensor) -> None:
    black = torch.zeros_like(clean)
    without = value(ContrastiveFrames(setup, black, reach=0.0), clean, adversarial)
    assert value(ContrastiveFrames(setup, black, reach=100.0), clean, adversarial) > without + 1
    # Further away by one unit, closer to the hinge by as much.
    low, high = (value(ContrastiveFrames(setup, black, reach=r), clean, adversarial) for r in (50.0, 51.0))
    assert high > low


def losses(setup: VideoSetup, clean: Tensor) -> dict[str, object]:
    black = torch.zeros_like(clean)
    return {
        "target": TargetLatent(VAE, black),
        "contrast": ContrastiveFrames(setup, black),
        "attention": TemporalAttention(setup, (0,)),
        "penalty": L2Penalty(),
    }


@pytest.mark.parametrize("name", ["target", "contrast", "attention", "penalty"])
def test_gradients_are_finite_differences(setup: VideoSetup, clean: Tensor, adversarial: Tensor, name: str) -> None:
    loss = losses(setup, clean)[name]
    leaf = adversarial.clone().requires_grad_()
    Objective((Term(name, 1.0, loss),)).backward(Observation(clean), Observation(leaf, draws=SeededDraws(5)))
    direction = torch.randn(clean.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    step = 1e-3  # losses are fp32
    up, down = (value(loss, clean, adversarial + sign * step * direction) for sign in (1, -1))
    assert float((leaf.grad * direction).sum()) == pytest.approx((up - down) / (2 * step), rel=3e-3)


@pytest.mark.parametrize("low_memory", [False, True])
def test_staged_backward_is_the_plain_one(setup: VideoSetup, clean: Tensor, adversarial: Tensor, low_memory: bool) -> None:
    terms = tuple(Term(name, weight, loss) for weight, (name, loss) in zip((-1, -2, 3, -4), losses(setup, clean).items(), strict=True))
    staged, plain = adversarial.clone().requires_grad_(), adversarial.clone().requires_grad_()
    Objective(terms).backward(Observation(clean), Observation(staged, draws=SeededDraws(5), low_memory=low_memory))
    model, index = setup.model, SeededDraws(5).integer("video", len(setup.levels))
    noisy, level, prior = setup.start(Observation(clean), Observation(clean), index), setup.levels[index], model.prior(clean)
    with torch.no_grad():
        x_src, a_src = model.estimate(noisy, level, model.condition(clean), taps=TAPS)
        black, still = VAE.encode(torch.zeros_like(clean)), model.still(torch.zeros_like(clean))
    x_adv, a_adv = model.estimate(noisy, level, model.condition(plain), taps=TAPS)
    contrast = F.mse_loss(x_adv, still) + (2 * F.mse_loss(x_src, prior) - F.mse_loss(x_adv, prior)).clamp_min(0)
    total = -F.mse_loss(VAE.encode(plain), black) - 2 * contrast + 3 * F.mse_loss(a_adv, a_src) - 4 * F.mse_loss(plain, clean)
    total.backward()
    torch.testing.assert_close(staged.grad, plain.grad, atol=1e-6 * float(plain.grad.abs().max()), rtol=1e-5)


def test_terms_share_one_estimate_and_the_clean_one_is_kept(setup: VideoSetup, clean: Tensor, adversarial: Tensor) -> None:
    objective = Objective((Term("a", 1.0, TemporalAttention(setup, (0,))), Term("c", -1.0, ContrastiveFrames(setup, clean * 0))))
    reference = Observation(clean)
    for draw in range(40):
        objective.backward(reference, Observation(adversarial.clone().requires_grad_(), draws=SeededDraws(draw)))
    # One for each step, and one of the clean picture for each level.
    assert len(setup.model.asked) == 40 + len(setup.levels)
    assert set(setup.model.asked) == set(setup.levels)


@dataclass
class Value:
    """A loss that is the mean of the picture times `factor`."""

    factor: float
    surrogates: tuple[object, ...] = ()

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        return adversarial.image.mean() * self.factor


def test_scaled_terms_weigh_alike_from_the_first_step_on(clean: Tensor) -> None:
    """Two opposed losses, one a million times the other: scaled, the larger weight wins, whatever the losses' magnitudes."""
    for large, small in ((1.0, 2.0), (2.0, 1.0)):
        terms = (Term("large", large, Value(1e6), scaled=True), Term("small", -small, Value(1.0), scaled=True))
        *_, last = protect(clean.float(), Objective(terms), update=Sign(1.0), space=RGB(4.0, start_from="clean"), steps=1)
        assert bool((last.image - clean).mean() > 0) is (large > small)
        assert last.losses["large"] == pytest.approx(1e6 * last.losses["small"], rel=1e-4)  # reported as they are


@pytest.mark.parametrize("start", ["clean", "budget"])
def test_a_scaled_distance_is_measured_inside_the_budget_wherever_the_run_starts(clean: Tensor, start: str) -> None:
    """At the clean picture it is 0, and after one step from there a millionth of what it becomes: neither tells its magnitude."""
    seen: list[float] = []

    class Distance(Value):
        def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
            distance = (adversarial.image - clean.image).square().mean()
            seen.append(float(distance.detach()))
            return distance * 1e-6

    terms = (Term("distance", 1.0, Distance(1.0), scaled=True), Term("up", 1e-3, Value(1.0)))
    *_, last = protect(clean.float(), Objective(terms), update=Sign(1.0), space=RGB(8.0, start_from=start), steps=4)
    # Looked at once to be scaled, then once a step.
    assert len(seen) == 5
    # Of uniform noise in the budget; the range of pictures cuts some of it off.
    assert 0.5 < seen[0] / ((8 / 255) ** 2 / 3) < 1.1
    assert (seen[1] == 0) is (start == "clean")
    assert (seen[1] == seen[0]) is (start == "budget")
    assert last.losses["distance"] == pytest.approx(seen[-1] * 1e-6)


def test_setups_differ_in_levels_and_noise_and_share_the_clean_video(clean: Tensor, adversarial: Tensor) -> None:
    """Fresh noise is another at each look, the same for both pictures, and nothing of it stays; fixed noise is asked for once."""
    model = SmallVideoModel()
    asked = []
    model.prior = lambda image: asked.append("prior") or SmallVideoModel.prior(model, image)
    fixed, fresh = VideoSetup(model, (0.25, 0.5), seed=3), VideoSetup(model, (0.9,), fresh=True)
    losses = {"fixed": TemporalAttention(fixed, (0,)), "fresh": TemporalAttention(fresh, (0,))}
    kept, values = Observation(clean), {name: list[float]() for name in losses}
    for draw in (1, 2, 3, 4):
        seen = Observation(adversarial.clone().requires_grad_(), draws=SeededDraws(draw))
        objective = Objective(tuple(Term(name, 1.0, loss) for name, loss in losses.items()))
        for name, loss in objective.backward(kept, seen).items():
            values[name].append(float(loss))
    assert asked == ["prior"]
    # Clean and adversarial each time for fresh noise; the clean one once for each fixed level.
    drawn = {SeededDraws(draw).integer("video", 2) for draw in (1, 2, 3, 4)}
    assert model.asked.count(0.9) == 8
    assert len(model.asked) == 8 + 4 + len(drawn)
    assert len(set(values["fresh"])) == 4
    alone = Observation(adversarial, draws=SeededDraws(4))
    assert float(losses["fresh"](Observation(clean), alone)) == pytest.approx(values["fresh"][-1], rel=1e-12)
    # At a look with one picture in the other's place, both are told the same.
    assert float(losses["fresh"](kept, Observation(clean, draws=SeededDraws(9)))) == 0


def test_a_scaled_loss_that_is_no_number_at_first_is_not_left_out_for_good(clean: Tensor) -> None:
    values = iter([float("inf"), 2.0, 4.0])

    class Late(Value):
        def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
            return adversarial.image.mean() * next(values)

    seen = Observation(clean)
    first = Objective((Term("late", 3.0, Late(1.0), scaled=True),)).balanced(seen, seen)
    assert first.unbalanced
    second = first.balanced(seen, seen)
    assert not second.unbalanced
    assert second.terms[0].weight == pytest.approx(3.0 / (2.0 * float(clean.mean())))
