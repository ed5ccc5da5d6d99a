"""Scaled gradients: exact where nothing underflows, alive where fp16 alone would give zero."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from stillguard.engine import RGB, EoT, Objective, Sign, Term, WorkingSize, protect
from stillguard.engine.compute.half import HalfPrecisionError, with_scaled_gradient
from stillguard.engine.observation import Observation
from torch import Tensor


def two_layers(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    mixed = torch.tanh(first * 0.3 + second)
    return mixed, (mixed * first).cumsum(-1)


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 8, generator=generator), torch.randn(3, 8, generator=generator)


def gradients(inputs: tuple[Tensor, Tensor], weight: float, *, scaled: bool, dtype: torch.dtype) -> list[Tensor]:
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]

    def function(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return two_layers(*(tensor.to(dtype) for tensor in tensors))

    outputs = with_scaled_gradient(function, *leaves) if scaled else function(*leaves)
    sum((output.float().square() * weight).sum() for output in outputs).backward()
    return [leaf.grad for leaf in leaves]


def test_exact_in_single_precision(inputs: tuple[Tensor, Tensor]) -> None:
    """A power of two: not a bit is lost."""
    for ours, plain in zip(*(gradients(inputs, 3e-4, scaled=s, dtype=torch.float32) for s in (True, False)), strict=True):
        assert torch.equal(ours, plain)


def test_small_gradients_survive_half_precision(inputs: tuple[Tensor, Tensor]) -> None:
    exact = gradients(inputs, 1e-9, scaled=False, dtype=torch.float32)
    assert all(not gradient.any() for gradient in gradients(inputs, 1e-9, scaled=False, dtype=torch.float16))
    for ours, truth in zip(gradients(inputs, 1e-9, scaled=True, dtype=torch.float16), exact, strict=True):
        assert (ours - truth).abs().max() < 0.01 * truth.abs().max()


def test_inputs_without_gradient_and_no_grad(inputs: tuple[Tensor, Tensor]) -> None:
    first = inputs[0].clone().requires_grad_()
    outputs = with_scaled_gradient(two_layers, first, inputs[1])
    outputs[0].sum().backward()
    assert first.grad is not None
    with torch.no_grad():
        assert not with_scaled_gradient(two_layers, first, inputs[1])[0].requires_grad


class Steep:
    """An encoder of 64 px whose gradient inside is 2^`rise` times the one that comes in, and small again when it leaves."""

    def __init__(self, rise: int, *, dtype: torch.dtype = torch.float16) -> None:
        self.rise, self.dtype, self.calls = rise, dtype, 0

    def encode(self, image: Tensor) -> Tensor:
        def run(image: Tensor) -> tuple[Tensor]:
            self.calls += 1
            return (self.through(image.to(self.dtype)),)

        return with_scaled_gradient(run, image, network=self)[0]

    def through(self, image: Tensor) -> Tensor:
        ramp = torch.linspace(-1, 1, 4096).view(1, 1, 64, 64).to(image)
        # The gradient of the mean is the sum of all that come in, enlarged.
        return ((image[:, :1] * ramp).mean() * 2.0 ** (self.rise - 12)).expand(4096)


class Hopeless(Steep):
    """Its gradient is infinite at any scale."""

    def through(self, image: Tensor) -> Tensor:
        return super().through(image) + (image * 0).sqrt().mean()


class Broken(Steep):
    """Its numbers do not fit."""

    def through(self, image: Tensor) -> Tensor:
        return super().through(image * 60000) * 60000


@dataclass(frozen=True, eq=False)
class Value:
    surrogates: tuple[Steep, ...]
    weight: float = 1e-6

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        return torch.stack([adversarial.latent(network).float().sum() for network in self.surrogates]).sum() * self.weight


def protected(picture: Tensor, *networks: Steep) -> Tensor:
    objective = Objective((Term("value", 1.0, Value(networks)),))
    *steps, last = protect(picture, objective, update=Sign(1.0), space=RGB(8.0), working_size=WorkingSize(64), steps=3)
    assert all(step.skipped == 0 for step in (*steps, last))
    return last.image


@pytest.mark.parametrize("rises", [(16,), (28,), (17, 24)])
def test_a_step_whose_gradient_overflowed_is_repeated_with_a_smaller_scale(astronaut: Tensor, rises: tuple[int, ...]) -> None:
    """And the scale that worked is kept, for each network its own: later steps ask each network once."""
    picture = astronaut[..., 96:160, 96:160]
    networks = [Steep(rise) for rise in rises]
    assert torch.equal(protected(picture, *networks), protected(picture, *(Steep(rise, dtype=torch.float32) for rise in rises)))
    # With two networks the gradients of the smaller one come to nothing beside the other's, and both scales have to be found.
    backoffs = max(max(0, -(-(rise - 15) // 4)) for rise in rises)
    assert [network.calls for network in networks] == [3 + backoffs] * len(networks)


def test_a_run_of_batches_and_eot_repeats_the_same_look(astronaut: Tensor) -> None:
    picture = torch.cat([astronaut[..., 96:160, 96:160], astronaut[..., 80:144, 80:144]])
    objective = Objective((Term("value", 1.0, Value((Steep(20),))),))
    exact = Objective((Term("value", 1.0, Value((Steep(20, dtype=torch.float32),))),))
    results = []
    for chosen in (objective, exact):
        *_, last = protect(picture, chosen, update=Sign(1.0), working_size=WorkingSize(64), steps=2, eot=EoT(samples=2), seed=3)
        results.append(last.image)
    assert float((results[0] != results[1]).float().mean()) < 0.01


@pytest.mark.parametrize("kind", [Hopeless, Broken])
def test_a_network_that_cannot_be_run_in_half_is_named(astronaut: Tensor, kind: type[Steep]) -> None:
    """And not its neighbour, through which its gradient passes."""
    good, bad = Steep(4), kind(4)
    with pytest.raises(HalfPrecisionError, match="run it in fp32") as raised:
        protected(astronaut[..., 96:160, 96:160], good, bad)
    assert raised.value.network is bad
