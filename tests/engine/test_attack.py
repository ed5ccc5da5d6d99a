"""The loop's contract: what it yields, what it refuses, what it does when gradients fail."""

from __future__ import annotations

import contextlib
import gc
import weakref

import pytest
import torch
from stillguard.engine import RGB, EoT, MomentumSign, Objective, Sign, Term, WorkingSize, protect
from stillguard.engine.losses.dormant import CLIPSemantic, VAELatent
from stillguard.engine.surrogates.tiny_autoencoder import TinyAutoencoder
from support import RandomEncoder
from torch import Tensor

VAE = RandomEncoder()
OBJECTIVE = Objective((Term("latent", 1.0, VAELatent(VAE)),))
WORKING = WorkingSize(longest=96)


def test_yields_the_clean_picture_first_then_every_step(astronaut: Tensor) -> None:
    steps = list(protect(astronaut, OBJECTIVE, working_size=WORKING, steps=5))
    assert [step.index for step in steps] == [0, 1, 2, 3, 4, 5]
    assert steps[0].image is astronaut
    assert steps[0].losses == {}
    assert all(set(step.losses) == {"latent"} and step.seconds > 0 and step.skipped == 0 for step in steps[1:])


def test_every_step_can_be_kept(astronaut: Tensor) -> None:
    """A partial result taken while the loop goes on is not changed by later steps, even when it is first looked at later."""
    loop = protect(astronaut, OBJECTIVE, working_size=WORKING, steps=4)
    steps = list(loop)
    early = list(protect(astronaut, OBJECTIVE, working_size=WORKING, steps=2))[-1]
    assert torch.equal(steps[2].image, early.image)


def test_results_carry_no_graph(astronaut: Tensor) -> None:
    *_, step = protect(astronaut, OBJECTIVE, working_size=WORKING, steps=1)
    assert not step.image.requires_grad
    assert step.image.grad_fn is None


def test_the_loss_grows_on_a_trained_network(astronaut: Tensor, lab_vae: TinyAutoencoder) -> None:
    steps = list(protect(astronaut, Objective((Term("latent", 1.0, VAELatent(lab_vae)),)), working_size=WORKING, steps=12))
    assert steps[-1].losses["latent"] > 3 * steps[1].losses["latent"]


def test_a_negative_weight_minimises(astronaut: Tensor) -> None:
    steps = list(protect(astronaut, Objective((Term("latent", -1.0, VAELatent(VAE)),)), working_size=WORKING, steps=60, update=Sign(0.05)))
    assert steps[-1].losses["latent"] < 0.5 * steps[1].losses["latent"]


def test_a_zero_weight_costs_nothing(astronaut: Tensor) -> None:
    class Untouchable(RandomEncoder):
        def embed(self, image: Tensor) -> Tensor:
            raise AssertionError("asked for a loss that has no weight")

    ablated = Objective((*OBJECTIVE.terms, Term("ablated", 0.0, CLIPSemantic(Untouchable(5)))))
    *_, with_ablated = protect(astronaut, ablated, working_size=WORKING, steps=2)
    *_, alone = protect(astronaut, OBJECTIVE, working_size=WORKING, steps=2)
    assert torch.equal(with_ablated.image, alone.image)
    assert set(with_ablated.losses) == {"latent"}


def test_pictures_of_a_batch_do_not_influence_each_other(astronaut: Tensor) -> None:
    both = torch.cat([astronaut, astronaut.flip(-1)])
    space = RGB(start_from="clean")
    objective = Objective((Term("pixels", 1.0, _Brightness()),))
    *_, together = protect(both, objective, space=space, working_size=WORKING, steps=3)
    *_, alone = protect(both[1:], objective, space=space, working_size=WORKING, steps=3)
    assert torch.equal(together.image[1:], alone.image)


def test_pictures_of_a_batch_do_not_change_each_others_scale(astronaut: Tensor) -> None:
    """The automatic latent scale and a second term: the ratio between both must not depend on the neighbour."""
    both = torch.cat([astronaut * 0.2, astronaut])
    objective = Objective((Term("latent", 1.0, VAELatent(VAE)), Term("pixels", 1.0, _Brightness())))
    *_, together = protect(both, objective, space=Fixed(), working_size=WORKING, steps=2)
    *_, alone = protect(both[1:], objective, space=Fixed(), working_size=WORKING, steps=2)
    assert (together.image[1:] != alone.image).float().mean() < 1e-3


class Fixed(RGB):
    """A start that does not depend on how many pictures there are."""

    def start(self, clean: Tensor, mask: Tensor | None, generator: torch.Generator) -> tuple[Tensor]:
        return (torch.full_like(clean, 2 / 255),)


def test_an_interrupted_step_frees_its_graphs_at_once(astronaut: Tensor) -> None:
    """Without waiting for the garbage collector, which on a GPU would come too late for the next prompt."""

    class Cancelled(BaseException):
        pass

    class Cancelling:
        surrogates = (VAE,)

        def __call__(self, clean: object, adversarial: object) -> Tensor:
            adversarial.latent(VAE)
            alive.append(weakref.ref(adversarial))
            raise Cancelled

    alive: list[weakref.ref] = []
    gc.collect()
    gc.disable()
    try:
        loop = protect(astronaut, Objective((Term("cancelling", 1.0, Cancelling()),)), working_size=WORKING, steps=2)
        next(loop)
        with contextlib.suppress(Cancelled):
            next(loop)
        del loop
        assert alive[0]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("shape", [(1, 3, 256, 256), (2, 1, 256, 256), (256, 256)])
def test_refuses_a_mask_of_another_shape(astronaut: Tensor, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="The mask has the shape"):
        next(protect(astronaut, OBJECTIVE, mask=torch.ones(shape)))


def test_refuses_a_mask_that_is_not_numbers(astronaut: Tensor) -> None:
    with pytest.raises(ValueError, match="The mask has values that are not numbers"):
        next(protect(astronaut, OBJECTIVE, mask=torch.full((1, 1, 256, 256), float("nan"))))


def test_weights_receive_no_gradient(astronaut: Tensor, lab_vae: TinyAutoencoder) -> None:
    list(protect(astronaut, Objective((Term("latent", 1.0, VAELatent(lab_vae)),)), working_size=WORKING, steps=1))
    assert all(parameter.grad is None for parameter in lab_vae.parameters())


class _Brightness:
    """A gradient without any network: mean of the seen picture times a factor per picture."""

    surrogates = ()

    def __init__(self, *factors: float) -> None:
        self.factors = factors

    def __call__(self, clean: object, adversarial: object) -> Tensor:
        image = adversarial.image
        factors = torch.tensor(self.factors or [1.0] * image.shape[0]).view(-1, 1, 1, 1)
        return (image * factors).mean()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.0])
def test_a_useless_gradient_is_skipped_and_reported(astronaut: Tensor, bad: float) -> None:
    """Of two pictures, one has a gradient that is zero or not finite: it stays as it was, the other moves on."""
    both = torch.cat([astronaut, astronaut])
    objective = Objective((Term("brightness", 1.0, _Brightness(bad, 1.0)),))
    *_, step = protect(both, objective, space=RGB(start_from="clean"), working_size=WORKING, steps=3, update=MomentumSign(1.0))
    assert step.skipped == 1
    assert torch.equal(step.image[0], astronaut[0])
    assert bool((step.image[1] >= astronaut[0]).all())
    assert not torch.equal(step.image[1], astronaut[0])


def test_a_distance_has_no_gradient_at_the_clean_picture(astronaut: Tensor) -> None:
    """Why a random start is the default."""
    *_, step = protect(astronaut, OBJECTIVE, space=RGB(start_from="clean"), working_size=WORKING, steps=2)
    assert step.skipped == 1
    assert torch.equal(step.image, astronaut)


def test_works_when_the_caller_has_switched_gradients_off(astronaut: Tensor) -> None:
    with torch.no_grad():
        *_, step = protect(astronaut, OBJECTIVE, working_size=WORKING, steps=2)
        assert not torch.is_grad_enabled()
    assert step.skipped == 0


def test_averaging_samples_equals_the_mean_of_their_losses(astronaut: Tensor) -> None:
    """With the identity only, four samples are four equal ones."""
    one = list(protect(astronaut, OBJECTIVE, working_size=WORKING, steps=2, eot=EoT(None, None, None, None, samples=1)))[-1]
    four = list(protect(astronaut, OBJECTIVE, working_size=WORKING, steps=2, eot=EoT(None, None, None, None, samples=4)))[-1]
    assert four.losses["latent"] == pytest.approx(one.losses["latent"], rel=1e-5)
    # Signs of gradients near zero may flip with the order of a sum.
    assert (four.image != one.image).float().mean() < 1e-3


def test_refuses_pixels_that_are_not_numbers(astronaut: Tensor) -> None:
    broken = astronaut.clone()
    broken[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="not numbers"):
        next(protect(broken, OBJECTIVE))


def test_refuses_a_mask_of_another_size(astronaut: Tensor) -> None:
    with pytest.raises(ValueError, match="64x32 but the picture is 256x256"):
        next(protect(astronaut, OBJECTIVE, mask=torch.ones(1, 1, 32, 64)))


@pytest.mark.parametrize("budget", [0, 0.5, -1, 64.5, float("nan"), float("inf")])
def test_refuses_a_senseless_budget(budget: float) -> None:
    with pytest.raises(ValueError, match="choose 1 to 64"):
        RGB(budget)


def test_refuses_two_channels(astronaut: Tensor) -> None:
    with pytest.raises(ValueError, match="2 channels"):
        next(protect(astronaut[:, :2], OBJECTIVE))


def test_refuses_an_empty_objective_and_double_names() -> None:
    with pytest.raises(ValueError, match="at least one loss"):
        Objective(())
    with pytest.raises(ValueError, match="share a name"):
        Objective((OBJECTIVE.terms[0], OBJECTIVE.terms[0]))
