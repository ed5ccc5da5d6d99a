"""A surrogate that trains between steps: what is stale is seen anew, nothing of it stays, and nobody else pays."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from pretend_gpu import CPU, CUDA, PretendGPU, label
from stillguard.engine import RGB, EoT, Objective, Observation, Sign, Term, protect
from stillguard.engine.draws import stream
from stillguard.engine.learning import Learns, undone
from stillguard.engine.losses.dormant import VAELatent
from stillguard.engine.residency import one_at_a_time
from support import RandomEncoder
from torch import Tensor, nn
from torch.nn import functional as F


class Counting(RandomEncoder):
    passes = 0

    def encode(self, image: Tensor) -> Tensor:
        self.passes += 1
        return super().encode(image)


class Learning:
    """Distance in an encoder that is trained, every second step, towards a random code of the picture that it sees."""

    def __init__(self, encoder: Counting, rate: float = 0.5) -> None:
        self.encoder, self.rate, self.generator = encoder, rate, torch.Generator()
        self.graphs = False

    @property
    def surrogates(self) -> tuple[object, ...]:
        return (self.encoder,)

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        return F.mse_loss(adversarial.latent(self.encoder), clean.latent(self.encoder))

    @contextlib.contextmanager
    def training(self, generator: torch.Generator) -> Iterator[None]:
        self.generator = generator
        with undone([self.encoder.first]):
            self.optimiser = torch.optim.SGD([self.encoder.first], lr=self.rate, momentum=0.5)
            yield

    def between(self, index: int, clean: Observation, picture: Observation) -> tuple[object, ...]:
        self.graphs |= picture.image.requires_grad or clean.image.requires_grad
        if index % 2 == 0:
            return ()
        train(self.encoder, self.optimiser, picture.image, self.generator)
        return (self.encoder,)


def train(encoder: RandomEncoder, optimiser: torch.optim.Optimizer, image: Tensor, generator: torch.Generator) -> None:
    encoder.first.requires_grad_(True)
    code = RandomEncoder.encode(encoder, image)
    (code - torch.randn(code.shape, generator=generator)).square().mean().backward()
    optimiser.step()
    optimiser.zero_grad()
    encoder.first.requires_grad_(False)


def objective(loss: object) -> Objective:
    return Objective((Term("distance", 1.0, loss),))


@pytest.fixture
def clean() -> Tensor:
    return torch.rand(1, 3, 40, 48, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1


def test_training_and_attack_alternate_as_in_a_loop_by_hand(clean: Tensor) -> None:
    loss = Learning(Counting())
    steps = list(protect(clean, objective(loss), space=RGB(8), update=Sign(2.0), steps=5, seed=4))

    encoder, draws = RandomEncoder(), stream(4, "training distance")
    optimiser = torch.optim.SGD([encoder.first], lr=0.5, momentum=0.5)
    change, losses = RGB(8).start(clean, None, stream(4, "start"))[0], []
    for index in range(1, 6):
        if index % 2:
            train(encoder, optimiser, clean + change, draws)
        leaf = (clean + change).requires_grad_()
        value = F.mse_loss(encoder.encode(leaf), encoder.encode(clean))
        value.backward()
        losses.append(value.item())
        change = (change + 2 / 255 * leaf.grad.sign()).clamp(-8 / 255, 8 / 255)
        change = (clean + change).clamp(0, 1) - clean
    assert [step.losses["distance"] for step in steps[1:]] == pytest.approx(losses, rel=1e-5)
    # The clean picture is seen again only after training, the other one at each step.
    assert loss.encoder.passes == 3 + 5
    assert not loss.graphs
    assert isinstance(loss, Learns)


@pytest.mark.parametrize("end", ["last step", "closed", "error", "interrupted"])
def test_what_was_learned_is_undone(clean: Tensor, end: str) -> None:
    loss = Learning(Counting())
    before = loss.encoder.first.clone()
    loop = protect(clean, objective(loss), steps=4)
    next(loop)
    next(loop)
    assert not torch.equal(loss.encoder.first, before)
    if end == "last step":
        list(loop)
    elif end == "closed":
        loop.close()
    else:
        error = KeyboardInterrupt if end == "interrupted" else ValueError
        loss.encoder.encode = lambda image: (_ for _ in ()).throw(error)
        with pytest.raises(error):
            next(loop)
    assert torch.equal(loss.encoder.first, before)
    assert not loss.encoder.first.requires_grad
    assert loss.encoder.first.grad is None


def test_a_step_makes_no_gradient_for_weights(clean: Tensor) -> None:
    loss = Learning(Counting())
    for step in protect(clean, objective(loss), steps=3):
        assert step.skipped == 0
        assert loss.encoder.first.grad is None


def test_training_draws_from_a_stream_of_its_own(clean: Tensor) -> None:
    """A run whose surrogate learns nothing (rate 0) is that of a frozen one to the bit, whatever its training drew."""

    class Fixed:
        """Without the two methods."""

        def __init__(self, encoder: RandomEncoder) -> None:
            self.encoder, self.surrogates = encoder, (encoder,)

        __call__ = Learning.__call__

    runs = [
        list(protect(clean, objective(loss), eot=EoT(), steps=4, seed=2))[-1].image
        for loss in (Learning(Counting(), rate=0.0), Fixed(RandomEncoder()))
    ]
    assert torch.equal(*runs)
    *_, learned = protect(clean, objective(Learning(Counting())), eot=EoT(), steps=4, seed=2)
    assert not torch.equal(learned.image, runs[0])


def test_the_frozen_loss_beside_a_learner_keeps_its_clean_features(clean: Tensor) -> None:
    frozen, learner = Counting(7), Learning(Counting())
    both = Objective((Term("frozen", 1.0, VAELatent(frozen)), Term("distance", 1.0, learner)))
    list(protect(clean, both, steps=4))
    assert frozen.passes == 1 + 4
    assert learner.encoder.passes == 2 + 4


def test_without_weight_nothing_learns(clean: Tensor) -> None:
    learner = Learning(Counting())
    list(protect(clean, Objective((Term("frozen", 1.0, VAELatent(RandomEncoder())), Term("distance", 0.0, learner))), steps=2))
    assert learner.encoder.passes == 0


class Adapted(nn.Module):
    """A frozen layer and a trained one."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.adapter = nn.Linear(8, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.adapter(torch.tanh(self.frozen(x)))


def test_what_trains_takes_no_turns() -> None:
    torch.manual_seed(0)
    network, other = Adapted(), nn.Linear(8, 8).requires_grad_(False)
    twin = Adapted()
    twin.load_state_dict(network.state_dict())
    trained, x = list(network.adapter.parameters()), torch.rand(2, 8)

    def learn(network: Adapted, optimiser: torch.optim.Optimizer, x: Tensor) -> None:
        network(x).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()

    with PretendGPU(), one_at_a_time([network, other], CUDA, trained=trained):
        optimiser, there = torch.optim.Adam(trained, lr=0.1, foreach=False), x.to(CUDA)
        for _ in range(3):
            learn(network, optimiser, there)
            other(there)
            assert label(network.frozen.weight) == CPU
            assert label(network.adapter.weight) == label(optimiser.state[trained[0]]["exp_avg"]) == CUDA
    oracle = torch.optim.Adam(twin.adapter.parameters(), lr=0.1, foreach=False)
    for _ in range(3):
        learn(twin, oracle, x)
    assert label(network.adapter.weight) == CPU
    torch.testing.assert_close(network.state_dict(), twin.state_dict())
