"""Surrogates that learn the picture under attack: as in loops written by hand over changed weights, undone, seeded, once for all losses."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from stillguard.engine import RGB, Objective, Observation, Sign, Term, protect
from stillguard.engine.draws import Draws, seeded_draws, stream
from stillguard.engine.losses.baselines import DenoisingError, NoiseAlignment
from stillguard.engine.losses.learning import ASPL, CoTrained, CoTraining, Prior
from stillguard.engine.observation import Features
from stillguard.engine.surrogates.denoiser import EVERY
from stillguard.engine.surrogates.lora import Adapters, adaptable
from stillguard.engine.surrogates.picture_setup import PictureSetup
from support import RandomEncoder
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

STEPS = 6


class VAE(RandomEncoder):
    def posterior(self, image: Tensor) -> tuple[Tensor, Tensor]:
        mean = self.encode(image)
        return mean, 0.1 + mean.square()


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_v = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, prompt: Tensor) -> Tensor:
        return torch.tanh(self.to_q(x) + prompt) * self.to_v(x)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.attn, self.out = Attention(), nn.Linear(4, 4)

    def forward(self, noisy: Tensor, prompt: Tensor) -> Tensor:
        return self.out(self.attn(noisy.movedim(1, -1), prompt)).movedim(-1, 1)


class Model:
    """Which finds noise, of z_t = (1 - level) z + level n, between levels where both are something."""

    def __init__(self, network: nn.Module, prompt: float, adapters: Adapters) -> None:
        self.network, self.prompt, self.adapters = network, torch.full((4,), prompt), adapters

    def mixture(self, level: float) -> tuple[float, float]:
        return 0.9 - 0.8 * level, 0.1 + 0.8 * level

    def scaled(self, latents: Tensor) -> Tensor:
        return latents * 0.7

    def noised(self, latents: Tensor, noise: Tensor, level: float) -> Tensor:
        alpha, sigma = self.mixture(level)
        return alpha * latents + sigma * noise

    def output_scale(self, level: float) -> float:
        alpha, sigma = self.mixture(level)
        return sigma / alpha

    def estimate(self, noisy: Tensor, level: float, *, taps: Sequence[object] = (), negative: bool = False) -> Features:
        alpha, sigma = self.mixture(level)
        with self.adapters.applied():
            return ((noisy - sigma * self.network(noisy, self.prompt)) / alpha,)


class Parts:
    """A surrogate, and what a loop by hand needs of it."""

    def __init__(self) -> None:
        self.network, self.vae = Network().eval().requires_grad_(False), VAE()
        self.adapters = Adapters(adaptable(self.network), rank=2)
        self.attacked, self.instance, self.class_ = (Model(self.network, prompt, self.adapters) for prompt in (0.0, 0.5, -0.5))
        pictures = torch.rand(5, 3, 40, 48, generator=torch.Generator().manual_seed(9))
        self.class_pictures, self.photos = pictures[:3], pictures[3:]

    def lessons(self, kind: type[CoTraining] = CoTraining, **options: Any) -> CoTraining:
        setup = PictureSetup(self.instance, self.vae, "post")
        if kind is ASPL:
            options["photos"] = self.photos
        prior = Prior(PictureSetup(self.class_, self.vae, "post"), self.class_pictures, 0.3)
        given = {"owners": [self.attacked], "prior": prior, "every": 2, "steps": 3, "rate": 0.05, **options}
        return kind(adapters=self.adapters, instance=setup, **given)

    def loss(self, lessons: CoTraining) -> CoTrained:
        return CoTrained(DenoisingError(PictureSetup(self.attacked, self.vae)), lessons)


def objective(*losses: Any) -> Objective:
    return Objective(tuple(Term(f"loss {index}", 1.0, loss) for index, loss in enumerate(losses)))


@pytest.fixture
def clean() -> Tensor:
    return torch.rand(1, 3, 40, 48, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1


def run(clean: Tensor, *losses: Any, **options: Any) -> list[Any]:
    return list(protect(clean, objective(*losses), space=RGB(8), update=Sign(2.0), **{"steps": STEPS, "seed": 4, **options}))


class ByHand:
    """The same loops over weights W + U D, with no hook and no observation."""

    def __init__(self, parts: Parts, clean: Tensor) -> None:
        self.parts, self.clean = parts, clean
        self.draws = seeded_draws(int(torch.randint(2**62, (), generator=stream(4, "training loss 0"))))
        first = next(self.draws)
        self.names = list(adaptable(parts.network))
        self.matrices = [m for name in self.names for m in (first.normal(f"down {name}", (2, 4)) / 2, torch.zeros(4, 2))]
        self.training_losses: list[float] = []

    def found(self, noisy: Tensor, prompt: float) -> Tensor:
        pairs = zip(self.names, self.matrices[::2], self.matrices[1::2], strict=True)
        weights = {f"{name}.weight": self.parts.network.get_parameter(f"{name}.weight") + up @ down for name, down, up in pairs}
        return functional_call(self.parts.network, weights, (noisy, torch.full((4,), prompt)))

    def error(self, latent: Tensor, draws: Draws, prompt: float) -> Tensor:
        noise, level = draws.normal("noise", tuple(latent.shape)), EVERY[draws.integer("timestep", 1000)]
        noisy = (0.9 - 0.8 * level) * latent + (0.1 + 0.8 * level) * noise
        return F.mse_loss(self.found(noisy, prompt), noise)

    def drawn(self, picture: Tensor, draws: Draws) -> Tensor:
        mean, deviation = self.parts.vae.posterior(picture)
        return 0.7 * (mean + deviation * draws.normal("post", tuple(mean.shape)))

    def learn(self, instances: Tensor) -> None:
        self.matrices = [matrix.detach().clone().requires_grad_() for matrix in self.matrices]
        optimiser = torch.optim.AdamW(self.matrices, lr=0.05, betas=(0.9, 0.999), weight_decay=0.01, eps=1e-8)
        for _ in range(3):
            total = torch.zeros(())
            for pictures, prompt, weight in ((instances, 0.5, 1.0), (self.parts.class_pictures, -0.5, 0.3)):
                draws = next(self.draws)
                picture = pictures[draws.integer("picture", len(pictures)) if len(pictures) > 1 else 0][None]
                loss = self.error(self.drawn(picture, draws), draws, prompt)
                self.training_losses.append(loss.item())
                total = total + weight * loss
            optimiser.zero_grad()
            total.backward()
            torch.nn.utils.clip_grad_norm_(self.matrices, 1.0)
            optimiser.step()
        self.matrices = [matrix.detach() for matrix in self.matrices]

    def attack(self, before: Callable[[int, Tensor], None]) -> tuple[Tensor, list[float]]:
        looks, change, losses = seeded_draws(4), RGB(8).start(self.clean, None, stream(4, "start"))[0], []
        for index in range(1, STEPS + 1):
            before(index, self.clean + change)
            leaf = (self.clean + change).requires_grad_()
            loss = self.error(0.7 * self.parts.vae.encode(leaf), next(looks), 0.0)
            loss.backward()
            losses.append(loss.item())
            change = (change + 2 / 255 * leaf.grad.sign()).clamp(-8 / 255, 8 / 255)
            change = (self.clean + change).clamp(0, 1) - self.clean
        return change, losses


def compared(parts: Parts, lessons: CoTraining, clean: Tensor, hand: ByHand, before: Callable[[int, Tensor], None]) -> None:
    steps = protect(clean, objective(parts.loss(lessons)), space=RGB(8), update=Sign(2.0), steps=STEPS, seed=4)
    ours = [step.losses["loss 0"] for step in itertools.islice(steps, STEPS + 1) if step.index]
    learned = [matrix.clone() for matrix in parts.adapters.parameters]
    steps.close()
    _, theirs = hand.attack(before)
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert lessons.losses == pytest.approx(hand.training_losses, rel=1e-4)
    for mine, oracle in zip(learned, hand.matrices, strict=True):
        torch.testing.assert_close(mine, oracle, rtol=1e-3, atol=1e-5)


def test_co_training_is_the_loop_by_hand(clean: Tensor) -> None:
    parts = Parts()
    hand = ByHand(parts, clean)

    def before(index: int, picture: Tensor) -> None:
        if index in (3, 5):
            hand.learn(picture)

    compared(parts, parts.lessons(), clean, hand, before)


def test_aspl_is_the_loop_by_hand(clean: Tensor) -> None:
    """A surrogate that learns the attacked picture, and a copy of it that goes on with clean photos and is attacked."""
    parts = Parts()
    hand = ByHand(parts, clean)
    surrogate: list[Tensor] = []

    def before(index: int, picture: Tensor) -> None:
        nonlocal surrogate
        if index % 2:
            if index > 1:
                hand.matrices = surrogate
                hand.learn(picture)
            surrogate = copy.deepcopy(hand.matrices)
            hand.learn(parts.photos)

    compared(parts, parts.lessons(ASPL), clean, hand, before)


@pytest.mark.parametrize("kind", [CoTraining, ASPL])
@pytest.mark.parametrize("end", ["last step", "closed", "error", "interrupted", "error in training"])
def test_all_is_undone(clean: Tensor, kind: type[CoTraining], end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts()
    lessons, state = parts.lessons(kind), copy.deepcopy(parts.network.state_dict())
    noisy = torch.rand(1, 4, 5, 6)
    before = parts.attacked.estimate(noisy, 0.5)[0]
    steps = protect(clean, objective(parts.loss(lessons)), steps=STEPS)
    for _ in range(4):
        next(steps)
    assert any(up.any() for _, up in parts.adapters.matrices.values())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in parts.adapters.parameters)
    if end == "last step":
        list(steps)
    elif end == "closed":
        steps.close()
    else:
        error = KeyboardInterrupt if end == "interrupted" else ValueError

        def fail(*given: object) -> None:
            raise error

        if end == "error in training":
            next(steps)
            monkeypatch.setattr(torch.optim.AdamW, "step", fail)
        else:
            monkeypatch.setattr(parts.vae, "encode", fail)
        with pytest.raises(error):
            list(steps)
    assert not any(parameter.any() or parameter.requires_grad or parameter.grad is not None for parameter in parts.adapters.parameters)
    assert not any(part._forward_hooks for part in parts.network.modules())
    torch.testing.assert_close(parts.network.state_dict(), state, rtol=0, atol=0)
    assert torch.equal(parts.attacked.estimate(noisy, 0.5)[0], before)


@pytest.mark.parametrize("kind", [CoTraining, ASPL])
def test_one_seed_one_picture_whatever_ran_before_and_in_low_memory(clean: Tensor, kind: type[CoTraining]) -> None:
    parts = Parts()
    loss = parts.loss(parts.lessons(kind))
    first, again, low = (run(clean, loss, low_memory=low)[-1].image for low in (False, False, True))
    other = run(clean, Parts().loss(parts.lessons(kind)), seed=5)[-1].image
    assert torch.equal(first, again)
    assert torch.equal(first, low)
    assert not torch.equal(first, other)


def test_what_learns_at_rate_0_is_the_frozen_surrogate(clean: Tensor) -> None:
    parts = Parts()
    learned, still = (run(clean, parts.loss(parts.lessons(rate=rate))) for rate in (0.05, 0.0))
    frozen = run(clean, DenoisingError(PictureSetup(parts.attacked, parts.vae)))
    assert torch.equal(still[-1].image, frozen[-1].image)
    assert not torch.equal(learned[-1].image, frozen[-1].image)
    # Nothing is learned before the first round of the attack has ended.
    assert [step.losses for step in learned[1:3]] == [step.losses for step in frozen[1:3]]


def test_losses_on_one_surrogate_learn_once(clean: Tensor) -> None:
    parts = Parts()
    lessons = parts.lessons()
    alone = run(clean, parts.loss(lessons))
    count = len(lessons.losses)
    second = CoTrained(NoiseAlignment(PictureSetup(parts.attacked, parts.vae)), lessons)
    both = list(protect(clean, Objective((Term("loss 0", 1.0, parts.loss(lessons)), Term("other", 1e-30, second))), steps=STEPS))
    assert len(lessons.losses) == count == 2 * 3 * 2
    assert len(both) == len(alone)


def test_training_that_diverges_says_so(clean: Tensor) -> None:
    parts = Parts()
    with pytest.raises(ValueError, match=r"^The surrogate's training diverged, .*: set a lower learning rate"):
        run(clean, parts.loss(parts.lessons(rate=1e30)))
    parts.network.out.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"^The surrogate's loss is no number before it has learned anything: check"):
        run(clean, parts.loss(parts.lessons(ASPL)))


def test_pictures_of_another_size_are_shown_by_their_middle(clean: Tensor) -> None:
    parts, seen = Parts(), []
    whole = torch.rand(1, 3, 80, 160, generator=torch.Generator().manual_seed(3))
    prior = Prior(PictureSetup(parts.class_, parts.vae), whole)
    lessons = parts.lessons(prior=prior)
    encode = parts.vae.encode
    parts.vae.encode = lambda image: seen.append(image) or encode(image)
    lessons._running = seeded_draws(0)
    lessons.learn(clean, Observation(clean))
    (shown,) = [image for image in seen if not torch.equal(image, clean)]
    assert torch.allclose(shown, F.interpolate(whole[..., 32:128], size=(40, 48), mode="bilinear", antialias=True))
