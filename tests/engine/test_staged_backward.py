"""The staged backward pass against autograd's plain sum-then-backward, on trained networks."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from bench.memory import peak_bytes
from stillguard.engine.draws import SeededDraws
from stillguard.engine.losses.dormant import CLIPSemantic, LPIPSPenalty, VAELatent
from stillguard.engine.objective import Objective, Term
from stillguard.engine.observation import Observation, WorkingSize
from stillguard.engine.surrogates.perceptual import PerceptualNetwork
from stillguard.engine.surrogates.tiny_autoencoder import TinyAutoencoder, load_tiny_autoencoder
from stillguard.engine.transforms import JPEG
from support import RandomEncoder
from torch import Tensor

WORKING = WorkingSize(longest=96)


class PixelDistance:
    """Reads the picture and no surrogate, as an L2 penalty does."""

    surrogates = ()

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        return (adversarial.image - clean.image).square().mean()


@pytest.fixture(scope="module")
def objective(lab_vae: TinyAutoencoder, perceptual: PerceptualNetwork) -> Objective:
    """Terms that share the autoencoder's latent around others that do not, and pixels last."""
    return Objective(
        (
            Term("latent", 10.0, VAELatent(lab_vae)),
            Term("semantic", 300.0, CLIPSemantic(RandomEncoder())),
            Term("visible", -10.0, LPIPSPenalty(perceptual, threshold=0.0)),
            Term("latent again", 2.0, VAELatent(lab_vae, scale=5.0)),
            Term("pixels", 30.0, PixelDistance()),
        )
    )


@pytest.fixture(scope="module")
def perturbed(astronaut: Tensor) -> Tensor:
    noise = torch.rand(astronaut.shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return (astronaut + noise * 8 / 255).clamp(0, 1)


def staged_gradient(objective: Objective, clean: Tensor, perturbed: Tensor, *, low_memory: bool) -> Tensor:
    leaf = perturbed.clone().requires_grad_()
    seen = Observation(WORKING(leaf), transform=JPEG(60), low_memory=low_memory)
    objective.backward(Observation(WORKING(clean)), seen)
    assert leaf.grad is not None
    return leaf.grad


def plain_gradient(objective: Objective, clean: Tensor, perturbed: Tensor) -> Tensor:
    """The sum of all terms in one graph: each term observes the picture anew and nothing is cut."""
    leaf = perturbed.clone().requires_grad_()

    class Uncut(Observation):
        def __init__(self, picture: Tensor) -> None:
            self._known = {}
            self._tracked, self._low_memory, self._cuts = False, False, []
            self._untransformed, self._transform = picture, JPEG(60)

        def features(self, owner, key, compute):
            return compute()

    total = sum(term.weight * term.loss(Observation(WORKING(clean)), Uncut(WORKING(leaf))) for term in objective.terms)
    total.backward()
    return leaf.grad


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_staged_equals_plain_backward(objective: Objective, astronaut: Tensor, perturbed: Tensor) -> None:
    plain = plain_gradient(objective, astronaut, perturbed)
    assert relative(staged_gradient(objective, astronaut, perturbed, low_memory=False), plain) < 1e-6


def test_low_memory_equals_fast(objective: Objective, astronaut: Tensor, perturbed: Tensor) -> None:
    fast = staged_gradient(objective, astronaut, perturbed, low_memory=False)
    assert relative(staged_gradient(objective, astronaut, perturbed, low_memory=True), fast) < 1e-6


def test_every_term_takes_part(objective: Objective, astronaut: Tensor, perturbed: Tensor) -> None:
    """Guards the comparison above: leaving any one term out must change the gradient."""
    whole = staged_gradient(objective, astronaut, perturbed, low_memory=False)
    for left_out in objective.terms:
        rest = Objective(tuple(term for term in objective.terms if term is not left_out))
        assert relative(staged_gradient(rest, astronaut, perturbed, low_memory=False), whole) > 1e-3, left_out.name


@pytest.mark.parametrize("low_memory", [False, True])
def test_peak_memory_of_four_terms_is_that_of_one(astronaut: Tensor, perturbed: Tensor, low_memory: bool) -> None:
    """Four terms, each with an autoencoder of its own, so that nothing is shared."""
    terms = tuple(Term(f"latent {i}", 1.0, VAELatent(load_tiny_autoencoder())) for i in range(4))

    def peak(count: int) -> int:
        objective = Objective(terms[:count])
        with peak_bytes() as peaked:
            staged_gradient(objective, astronaut, perturbed, low_memory=low_memory)
        return peaked()

    assert peak(4) < 1.3 * peak(1)


def test_shared_latent_is_encoded_once_per_step(astronaut: Tensor, perturbed: Tensor) -> None:
    vae = Counting()
    objective = Objective(tuple(Term(str(i), 1.0, VAELatent(vae)) for i in range(5)))
    staged_gradient(objective, astronaut, perturbed, low_memory=False)
    assert vae.passes == 2  # clean once, adversarial once


class Counting(RandomEncoder):
    """Of passes, and of those that kept a graph."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.passes, self.graphs = 0, 0

    def encode(self, image: Tensor) -> Tensor:
        self.passes += 1
        self.graphs += torch.is_grad_enabled()
        return super().encode(image)


@pytest.mark.parametrize(("order", "passes"), [((0, 1), (2, 2)), ((0, 1, 0), (3, 2))])
def test_low_memory_computes_twice_only_what_had_to_make_room(
    order: tuple[int, ...], passes: tuple[int, int], astronaut: Tensor, perturbed: Tensor
) -> None:
    """Each encoder sees the clean picture once and the other once; again only where another one ran before its gradient was due."""
    encoders = [Counting(seed) for seed in range(2)]
    objective = Objective(tuple(Term(str(i), 1.0, VAELatent(encoders[which])) for i, which in enumerate(order)))
    low = staged_gradient(objective, astronaut, perturbed, low_memory=True)
    assert tuple(encoder.passes for encoder in encoders) == passes
    assert relative(low, staged_gradient(objective, astronaut, perturbed, low_memory=False)) < 1e-6


def test_what_is_computed_for_the_clean_picture_makes_room_too(astronaut: Tensor, perturbed: Tensor) -> None:
    """A graph through a network that has left the device cannot be walked back."""

    class Late:
        """Reads the changed picture first, and then another encoder's view of the clean one."""

        def __init__(self, first: Counting, second: Counting) -> None:
            self.first, self.second = first, second

        @property
        def surrogates(self) -> tuple[object, ...]:
            return (self.first, self.second)

        def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
            return (adversarial.latent(self.first) - clean.latent(self.second)).square().mean()

    first, second = Counting(0), Counting(1)
    staged_gradient(Objective((Term("late", 1.0, Late(first, second)),)), astronaut, perturbed, low_memory=True)
    assert (first.passes, first.graphs) == (2, 2)
    assert (second.passes, second.graphs) == (1, 0)


def test_features_of_one_look_do_not_stay(astronaut: Tensor, perturbed: Tensor) -> None:
    """Computed once in a look for all its terms, and made of the next look's own noise in the next, balancing included."""
    owner, draws = object(), list[Observation]()

    class Noisy:
        """Both pictures under the same fresh noise: one draw for each look, as losses have it."""

        surrogates = (owner,)

        def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
            def noised(seen: Observation) -> tuple[Tensor, ...]:
                draws.append(seen)
                return (seen.image + adversarial.draws.normal("fresh", tuple(seen.image.shape)),)

            after, before = (seen.features(owner, "noised", partial(noised, seen), lasting=False)[0] for seen in (adversarial, clean))
            return (after - before).square().mean()

    objective = Objective((Term("noisy", 1.0, Noisy(), scaled=True), Term("again", 1.0, Noisy())))
    reference, expected = Observation(WORKING(astronaut)), (WORKING(perturbed) - WORKING(astronaut)).square().mean()
    kept = len(reference._known)
    objective = objective.balanced(reference, Observation(WORKING(perturbed), draws=SeededDraws(9)))
    assert objective.terms[0].weight == pytest.approx(1 / float(expected), rel=1e-4)
    for look in range(2):
        seen = Observation(WORKING(perturbed.clone().requires_grad_()), draws=SeededDraws(look))
        losses = objective.backward(reference, seen)
        # Only where both got this look's noise does it cancel out.
        assert float(losses["noisy"]) == float(losses["again"]) == pytest.approx(float(expected), rel=1e-4)
        assert len(reference._known) == kept
    assert len(draws) == 3 * 2
