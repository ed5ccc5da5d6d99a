"""Diffusion Surrogates that learn: adapters on core's networks, whatever the loss, undone to the bit, never on the user's model."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from gpu_cases import execute
from image_models import image_model, image_prompt
from stillguard.engine import Observation
from stillguard.engine.draws import SeededDraws, stream
from stillguard.engine.losses.baselines import DenoisingError, training_loss
from stillguard.engine.losses.learning import ASPL, CoTraining
from stillguard.engine.spaces import RGB
from stillguard.engine.surrogates.lora import Adapters
from stillguard.engine.surrogates.picture_setup import Look
from stillguard.engine.surrogates.tiny_autoencoder import SHIPPED
from stillguard.engine.update import Sign
from torch import Tensor
from video_models import load_vae, randn

if TYPE_CHECKING:
    from stillguard.nodes.bridge.surrogates.diffusion import DiffusionSurrogate

SIDE = 128
CO = {"method": "co-training", "every": 2, "training_steps": 2}
BY_ASPL = {**CO, "method": "ASPL"}
pytestmark = pytest.mark.usefixtures("comfy")


def prompt(seed: int) -> Any:
    return [[randn(1, 7, 16, seed=seed), {}]]


@pytest.fixture(scope="module")
def frozen(comfy: None) -> DiffusionSurrogate:
    from stillguard.nodes.surrogates.diffusion_models import DiffusionSurrogateNode
    from testkit import eightfold_vae, tiny_image_model

    with torch.inference_mode():
        return DiffusionSurrogateNode.execute(tiny_image_model("sd15"), eightfold_vae(), prompt(0)).args[0]


@pytest.fixture
def photo(astronaut: Tensor) -> Tensor:
    return astronaut[..., 40 : 40 + SIDE, 60 : 60 + SIDE].movedim(1, -1)


def learning(surrogate: DiffusionSurrogate, **options: Any) -> DiffusionSurrogate:
    from stillguard.nodes.surrogates.learning import LearningSurrogate

    given = {"instance_prompt": prompt(1), "method": CO, "rank": 4, "learning_rate": 1e-2, "prior_weight": 0.1}
    return LearningSurrogate.execute(surrogate, **{**given, **options}).args[0]


def protected(surrogate: DiffusionSurrogate, photo: Tensor, *, seed: int = 1, low_memory: bool = False, steps: int = 3) -> Tensor:
    from stillguard.nodes.bridge.protect.loss_spec import LossSpec
    from stillguard.nodes.bridge.protect.run import Settings, protect_images, space_spec
    from stillguard.nodes.bridge.surrogates.diffusion import diffusion_setup

    loss = LossSpec("Denoising", 1.0, lambda surrogates: DenoisingError(diffusion_setup(surrogates, surrogate)))
    settings = Settings(space_spec(RGB(8.0)), Sign(2.0), None, SIDE, steps, seed, low_memory)
    with torch.inference_mode():
        return protect_images(photo, (loss,), settings, mask=None, node_id=None)[0]


@contextlib.contextmanager
def session(*surrogates: DiffusionSurrogate, low_memory: bool = False) -> Iterator[list[Any]]:
    """What losses read of these surrogates, ready to be asked."""
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.diffusion import diffusion_setup
    from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates

    with autograd_session():
        run = Surrogates()
        setups = [diffusion_setup(run, surrogate) for surrogate in surrogates]
        with run.on_device(height=SIDE, width=SIDE, low_memory=low_memory), run.step():
            yield setups


@pytest.mark.parametrize("method", [CO, BY_ASPL])
def test_it_learns_for_any_loss_and_all_is_undone(
    frozen: DiffusionSurrogate, photo: Tensor, method: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.model_management

    rounds: list[CoTraining] = []
    learn = CoTraining.learn
    monkeypatch.setattr(CoTraining, "learn", lambda self, *given: rounds.append(self) or learn(self, *given))
    state = copy.deepcopy(frozen.model.model.state_dict())
    before = protected(frozen, photo)
    photos = {"photos": photo.flip(2)} if method is BY_ASPL else {}
    prior = {"class_images": photo.flip(1).repeat(2, 1, 1, 1), "class_prompt": prompt(2)}
    surrogate = learning(frozen, method=method, **prior, **photos)
    learned, again = (protected(surrogate, photo) for _ in range(2))
    assert torch.equal(learned, again)
    assert not torch.equal(learned, before)
    # Of each run before step 3; and for ASPL on clean photos too, before the first as well. Two steps of two looks.
    assert len(rounds) == 2 * (3 if method is BY_ASPL else 1)
    assert {type(one) for one in rounds} == {ASPL if method is BY_ASPL else CoTraining}
    assert {len(one.losses) for one in rounds} == {2 * 2 * len(rounds) // 2}
    # The copy that was kept, and the user's own model.
    assert torch.equal(protected(frozen, photo), before)
    torch.testing.assert_close(frozen.model.model.state_dict(), state, rtol=0, atol=0)
    assert not torch.equal(protected(surrogate, photo, seed=2), learned)
    low = protected(surrogate, photo, low_memory=True)
    # Recomputed sums may round differently and flip the sign of a vanishing gradient.
    assert float((low != learned).float().mean()) < 0.01
    comfy.model_management.unload_all_models()


@pytest.mark.parametrize("method", ["Mist v2 (ACE)", "Mist v1"])
def test_a_method_learns_once_for_all_its_losses(
    frozen: DiffusionSurrogate, photo: Tensor, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As published, Mist v1 draws latents and ACE does not."""
    from stillguard.nodes.protect.baselines import DiffusionBaseline

    rounds: list[int] = []
    learn = CoTraining.learn
    monkeypatch.setattr(CoTraining, "learn", lambda self, *given: rounds.append(id(self)) or learn(self, *given))
    settings = {"settings": {"settings": "as published"}, "steps": 3, "seed": 3, "working_size": SIDE, "memory": "fast"}
    with torch.inference_mode():
        usual, learned = (
            execute(DiffusionBaseline, image=photo, diffusion_surrogate=surrogate, method=method, **settings)
            for surrogate in (frozen, learning(frozen))
        )
    assert len(rounds) == 1
    assert not torch.equal(usual, learned)


@pytest.mark.parametrize("step", [2, 4])
def test_cancelling_undoes_all(frozen: DiffusionSurrogate, photo: Tensor, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two attack steps, and while the surrogate is trained: core's layers ask whether to go on."""
    import comfy.model_management

    before, cancelled = protected(frozen, photo), []
    trained = torch.optim.AdamW.step
    surrogate, made = learning(frozen), []
    begin = Adapters.begin
    monkeypatch.setattr(Adapters, "begin", lambda self, draws: made.append(self) or begin(self, draws))

    def cancel(self: Any, *given: Any) -> Any:
        cancelled.append(1)
        if len(cancelled) == step:
            comfy.model_management.interrupt_current_processing()
        return trained(self, *given)

    monkeypatch.setattr(torch.optim.AdamW, "step", cancel)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        protected(surrogate, photo, steps=100)
    assert len(cancelled) == step
    (adapters,) = made
    assert not any(parameter.any() or parameter.requires_grad for parameter in adapters.parameters)
    monkeypatch.undo()
    assert torch.equal(protected(frozen, photo), before)


def gradient(surrogate: DiffusionSurrogate, photo: Tensor, *, low_memory: bool, width: float = 0.0) -> tuple[Tensor, float]:
    """Of the training loss with respect to the adapters; and its slope along that, by differences."""
    with session(surrogate, low_memory=low_memory) as (setup,):
        lessons, adapters = setup.model.lessons, setup.model.adapters
        adapters.begin(SeededDraws(0))
        with torch.no_grad():
            for _, up in adapters.matrices.values():
                up.copy_(0.1 * torch.randn(up.shape, generator=torch.Generator().manual_seed(len(up))))
        look = lessons.instance.look(Observation(photo.movedim(-1, 1).clone(), draws=SeededDraws(5)))

        def loss() -> Tensor:
            model = lessons.instance.model
            (estimate,) = model.estimate(model.noised(look.latent, look.noise, 0.4), 0.4)
            return training_loss(lessons.instance, look._replace(level=0.4), estimate)

        for parameter in adapters.parameters:
            parameter.requires_grad_(True)
        found = torch.autograd.grad(loss(), adapters.parameters)
        ends = []
        for sign in (1, -1) if width else ():
            with torch.no_grad():
                for parameter, slope in zip(adapters.parameters, found, strict=True):
                    parameter += sign * width * slope.sign()
                ends.append(float(loss()))
                for parameter, slope in zip(adapters.parameters, found, strict=True):
                    parameter -= sign * width * slope.sign()
        return torch.cat([slope.flatten() for slope in found]), (ends[0] - ends[1]) / (2 * width) if ends else 0.0


def test_the_adapters_gradient_is_finite_differences_and_the_same_in_low_memory_with_turns(
    frozen: DiffusionSurrogate, photo: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stillguard.nodes.bridge.surrogates import run_surrogates

    surrogate = learning(frozen)
    fast, difference = gradient(surrogate, photo, low_memory=False, width=1e-4)
    assert difference == pytest.approx(float(fast.abs().sum()), rel=0.02)
    monkeypatch.setattr(run_surrogates, "takes_turns", lambda: True)
    low, _ = gradient(surrogate, photo, low_memory=True)
    assert float((low - fast).norm() / fast.norm()) < 1e-5


def test_half_precision_keeps_the_adapters_gradient(frozen: DiffusionSurrogate, photo: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, its size included, which counts where gradients are clipped and added up."""
    from stillguard.nodes.bridge.memory import precision

    monkeypatch.setattr(precision, "gradient_dtype", lambda device: torch.float16)
    found = []
    for dtype in (torch.float32, torch.float16):
        surrogate = learning(replace(frozen, model=image_model("SDXL", dtype), positive=image_prompt()), instance_prompt=image_prompt(1))
        found.append(gradient(surrogate, photo, low_memory=False)[0])
    exact, half = found
    assert float((half - exact).norm() / exact.norm()) < 0.05


def test_training_makes_the_model_know_the_photo(frozen: DiffusionSurrogate, photo: Tensor) -> None:
    """At looks that it was not trained with."""
    with session(learning(frozen, rank=16, method={**CO, "training_steps": 30})) as (setup,):
        lessons, picture = setup.model.lessons, photo.movedim(-1, 1).clone()
        clean, model, seen = Observation(picture), lessons.instance.model, Observation(picture)

        def unseen(index: int) -> Look:
            seen.draws = SeededDraws(1000 + index)
            return lessons.instance.look(seen)

        looks = [unseen(index) for index in range(20)]

        @torch.no_grad()
        def error() -> float:
            return sum(
                float(training_loss(lessons.instance, look, model.estimate(model.noised(*look[:2], look.level), look.level)[0]))
                for look in looks
            )

        before = error()
        with lessons.training(stream(0, "training")):
            lessons.learn(picture, clean)
            after = error()
        assert error() == before
    assert after < 0.97 * before


def test_a_surrogate_beside_it_on_the_same_model_stays_as_it_was(frozen: DiffusionSurrogate, photo: Tensor) -> None:
    with session(learning(frozen), frozen) as (taught, other):
        assert taught.model.denoiser is other.model.denoiser
        noisy, picture = randn(1, 4, SIDE // 8, SIDE // 8, seed=3), photo.movedim(-1, 1).clone()
        asked = [setup.model.estimate(noisy, 0.5)[0] for setup in (taught, other)]
        assert torch.equal(*asked)
        with taught.model.lessons.training(stream(0, "training")):
            taught.model.lessons.learn(picture, Observation(picture))
            assert torch.equal(other.model.estimate(noisy, 0.5)[0], asked[0])
            assert not torch.equal(taught.model.estimate(noisy, 0.5)[0], asked[0])


def test_latents_of_a_vae_without_a_distribution_are_not_drawn(frozen: DiffusionSurrogate) -> None:
    for vae, purpose in ((frozen.vae, "post"), (load_vae(SHIPPED), None)):
        with session(learning(replace(frozen, vae=vae))) as (setup,):
            assert setup.posterior is None
            assert setup.model.lessons.instance.posterior == purpose


def test_a_training_step_takes_what_was_counted(frozen: DiffusionSurrogate, photo: Tensor) -> None:
    from stillguard.engine.compute.memory import LiveBytes
    from stillguard.nodes.bridge.surrogates.learning import training_pass

    surrogate = learning(frozen, rank=64, method={**CO, "training_steps": 1})
    with session(surrogate) as (setup,):
        lessons, picture = setup.model.lessons, Observation(photo.movedim(-1, 1).clone())
        counted = training_pass(setup.model, setup.vae).footprint(SIDE, SIDE, low_memory=False)
        latent = setup.vae.encode(picture.image)
        setup.vae.encode = lambda image: latent
        setup.vae.posterior = lambda image: (latent, latent * 0)
        with lessons.training(stream(0, "training")), LiveBytes() as count:
            lessons.learn(picture.image, picture)
    assert counted.peak == pytest.approx(count.peak, rel=0.15)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"instance_prompt": []}, "The surrogate has no prompt under which to learn the photo: connect CLIP Text Encode to `instance"),
        ({"instance_prompt": "two"}, "What is connected to `instance_prompt` has 2 parts"),
        ({"class_prompt": "one"}, "`class_prompt` is connected and `class_images` is not: connect both, or neither."),
        ({"class_images": torch.rand(1, 8, 8, 3)}, "`class_images` is connected and `class_prompt` is not: connect both, or neither."),
        ({"method": BY_ASPL}, "ASPL has no clean photos of the person: connect some to `photos`"),
        ({"photos": torch.rand(1, 8, 8, 3)}, "`photos` is connected, which co-training does not look at: disconnect it"),
        ({"model": "Flux"}, "This model has none of the layers that learn here"),
    ],
)
def test_mistakes(frozen: DiffusionSurrogate, change: dict[str, Any], sentence: str) -> None:
    prompts = {"one": prompt(2), "two": [*prompt(2), *prompt(3)]}
    given = {name: prompts.get(value, value) if isinstance(value, str) else value for name, value in change.items()}
    surrogate: Any = frozen
    if kind := given.pop("model", None):
        surrogate = SimpleNamespace(model=image_model(kind))
    with pytest.raises(ValueError, match="^" + re.escape(sentence)):
        learning(surrogate, **given)


def test_losses_that_would_not_see_it_learn_refuse_it(frozen: DiffusionSurrogate) -> None:
    from stillguard.nodes.bridge.surrogates.inpainting import check_inpainting

    with pytest.raises(ValueError, match=r"^A model that repaints does not learn here: connect the Diffusion Surrogate without"):
        check_inpainting(learning(frozen))
