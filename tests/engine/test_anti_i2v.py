"""Anti-I2V's losses and Velocity-Min on small models of known blocks and velocities, against numpy, finite differences and autograd."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from stillguard.engine import RGB, Objective, Observation, Sign, Term, protect
from stillguard.engine.draws import SeededDraws
from stillguard.engine.losses.anti_i2v import Denoising, RepresentationAnchor, RepresentationCollapse, VelocityMin, landscape, layers
from stillguard.engine.observation import Features
from stillguard.engine.surrogates.denoiser import FIRST_STEPS, HIGH, TIMESTEPS, WHOLE, Tap
from stillguard.engine.surrogates.video_setup import VideoSetup
from support import RandomEncoder
from torch import Tensor
from torch.nn import functional as F

FRAMES, BLOCKS, WIDTH = 3, 6, 4
SHALLOW, DEEP = 1, (4, 5)


class Encoder(RandomEncoder):
    """Exact in double precision, whatever a run shows it."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.double()

    def encode(self, image: Tensor) -> Tensor:
        return super().encode(image.double())

    def stages(self, image: Tensor) -> Features:
        return torch.tanh(F.conv2d(image.double(), self.first, stride=8)), self.encode(image)


VAE = Encoder(3)


class SmallTransformer:
    """Residual blocks over the tokens of a video whose network gives a flow's velocity. gains: what each block adds, 0 for nothing.

    pooled: blocks whose map is half as large and, turned by a rotation, in twice as many channels.
    """

    def __init__(self, gains: Sequence[float] = (0.5,) * BLOCKS, *, sampled: Tensor | None = None, pooled: Sequence[int] = ()) -> None:
        self.conditioner, self.sampled, self.asked = Encoder(1), sampled, list[float]()
        generator = torch.Generator().manual_seed(2)
        self.weights = torch.randn(len(gains), WIDTH, WIDTH, generator=generator, dtype=torch.float64)
        self.gains, self.pooled = gains, pooled
        self.turn = torch.linalg.qr(torch.randn(2 * WIDTH, 2 * WIDTH, generator=generator, dtype=torch.float64))[0][:WIDTH]

    def condition(self, image: Tensor) -> Features:
        return (self.conditioner.encode(image),)

    def shape(self, image: Tensor) -> tuple[int, ...]:
        return (1, WIDTH, FRAMES, image.shape[-2] // 8, image.shape[-1] // 8)

    def prior(self, image: Tensor) -> Tensor:
        return self.still(image) * torch.linspace(0.5, 1.5, FRAMES, device=image.device).view(1, 1, -1, 1, 1)

    def still(self, image: Tensor) -> Tensor:
        return self.conditioner.encode(image)[:, :, None].repeat(1, 1, FRAMES, 1, 1)

    def noised(self, latents: Tensor, noise: Tensor, level: float) -> Tensor:
        return (1 - level) * latents + level * noise

    def output_scale(self, level: float) -> float:
        return level

    def velocity(self, noisy: Tensor, told: Tensor) -> tuple[Tensor, list[Tensor]]:
        """And every block's map [1,F,h,w,C]."""
        x, maps = (noisy + 3 * told[:, :, None]).movedim(1, -1), []
        for block, (gain, weight) in enumerate(zip(self.gains, self.weights, strict=True)):
            x = x + gain * torch.tanh(x @ weight)
            small = F.avg_pool2d(x[0].movedim(-1, 1), 2).movedim(1, -1)[None] @ self.turn if block in self.pooled else x
            maps.append(small)
        return x.movedim(-1, 1), maps

    def estimate(self, noisy: Tensor, level: float, conditioning: Features, *, taps: Sequence[Tap] = ()) -> Features:
        self.asked.append(level)
        velocity, maps = self.velocity(noisy, conditioning[0])
        read = [tap.read(maps[tap.block] if tap.kind == "map" else maps[tap.block].flatten(1, 3)) for tap in taps]
        return (noisy - level * velocity, *read)

    def read(self, noisy: Tensor, level: float, conditioning: Features, *, taps: Sequence[Tap]) -> Features:
        return self.estimate(noisy, level, conditioning, taps=taps)[1:]


@pytest.fixture
def clean(astronaut: Tensor) -> Tensor:
    return astronaut[..., 64:96, 64:96].double()


@pytest.fixture
def adversarial(clean: Tensor) -> Tensor:
    noise = torch.rand(clean.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (clean + (noise - 0.5) * 0.2).clamp(0, 1)


def setup_of(model: SmallTransformer | None = None, **changes: object) -> VideoSetup:
    return VideoSetup(model or SmallTransformer(), seed=3, **changes)


def losses(model: SmallTransformer | None = None) -> dict[str, object]:
    setup = setup_of(model)
    first = replace(setup, levels=FIRST_STEPS, fresh=True)
    return {
        "collapse": RepresentationCollapse(setup, SHALLOW, DEEP),
        "anchor": RepresentationAnchor(setup, tuple(range(BLOCKS)), VAE),
        "denoising": Denoising(setup),
        "velocity": VelocityMin(first),
        "drift": VelocityMin(first, "drift"),
    }


NAMES = tuple(losses())


def value(loss: object, clean: Tensor, adversarial: Tensor, draw: int = 5) -> float:
    return float(loss(Observation(clean), Observation(adversarial, draws=SeededDraws(draw))))


def start(setup: VideoSetup, clean: Tensor, draw: int = 5) -> tuple[Tensor, float]:
    """X_t and its level at that look."""
    index = SeededDraws(draw).integer("video", len(setup.levels))
    return setup.start(Observation(clean), Observation(clean, draws=SeededDraws(draw)), index), setup.levels[index]


def mse(a: Tensor, b: Tensor) -> float:
    return float(np.mean((a.numpy() - b.numpy()) ** 2))


def test_levels_are_parts_of_the_schedule() -> None:
    assert TIMESTEPS[WHOLE] == (0.125, 0.375, 0.625, 0.875)
    assert all(0.8 < level < 1 for level in TIMESTEPS[HIGH])
    assert all(0.95 < level < 1 for level in FIRST_STEPS)


def test_the_papers_layers() -> None:
    for count in (28, 30, 42):
        assert layers(count) == (3, (count - 3, count - 2, count - 1))
    assert layers(8) == (3, (5, 6, 7))
    # Of a UNet the third.
    assert layers(25, unet=True) == (2, (22, 23, 24))
    with pytest.raises(ValueError, match=r"This model has 7 blocks, and .* needs 8 or more: write the blocks in `layers` by hand"):
        layers(7)


def test_collapse_by_hand(clean: Tensor, adversarial: Tensor) -> None:
    setup = setup_of()
    loss, model = RepresentationCollapse(setup, SHALLOW, DEEP), setup.model
    noisy, _ = start(setup, clean)
    (_, before), (_, after) = (model.velocity(noisy, model.condition(image)[0]) for image in (clean, adversarial))
    units = [after[block] / float(np.sqrt(np.mean(before[block].numpy() ** 2))) for block in range(BLOCKS)]
    expected = np.mean([mse(units[block], units[SHALLOW]) for block in DEEP])
    assert value(loss, clean, adversarial) == pytest.approx(expected, rel=1e-5)


def test_collapse_is_zero_where_later_blocks_add_nothing(clean: Tensor, adversarial: Tensor) -> None:
    idle = SmallTransformer([0.5, 0.5, 0.0, 0.0, 0.0, 0.0])
    assert value(RepresentationCollapse(setup_of(idle), SHALLOW, DEEP), clean, adversarial) == 0
    assert value(RepresentationCollapse(setup_of(), SHALLOW, DEEP), clean, adversarial) > 0.01


@pytest.mark.parametrize("stop", [False, True])
def test_the_shallow_block_may_be_held(clean: Tensor, adversarial: Tensor, stop: bool) -> None:
    setup = setup_of()
    loss, model = RepresentationCollapse(setup, SHALLOW, DEEP, stop), setup.model
    leaf, plain = adversarial.clone().requires_grad_(), adversarial.clone().requires_grad_()
    Objective((Term("irc", 1.0, loss),)).backward(Observation(clean), Observation(leaf, draws=SeededDraws(5)))
    noisy, _ = start(setup, clean)
    with torch.no_grad():
        sizes = [read.square().mean().sqrt() for read in model.velocity(noisy, model.condition(clean)[0])[1]]
    units = [read / size for read, size in zip(model.velocity(noisy, model.condition(plain)[0])[1], sizes, strict=True)]
    shallow = units[SHALLOW].detach() if stop else units[SHALLOW]
    torch.stack([F.mse_loss(units[block], shallow) for block in DEEP]).mean().backward()
    torch.testing.assert_close(leaf.grad, plain.grad, atol=1e-6 * float(plain.grad.abs().max()), rtol=1e-4)


def test_blocks_of_other_sizes_are_compared_by_their_similarities(clean: Tensor, adversarial: Tensor) -> None:
    """Half as large and turned into other channels, a block that adds nothing says the same of its places."""

    def cosines(features: Tensor) -> np.ndarray:
        rows = features.flatten(1, 2).numpy()
        rows = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
        return rows @ rows.transpose(0, 2, 1)

    idle = SmallTransformer([0.5, 0.5, 0.0, 0.0, 0.0, 0.0], pooled=DEEP)
    assert value(RepresentationCollapse(setup_of(idle), SHALLOW, DEEP), clean, adversarial) < 1e-12
    setup = setup_of(SmallTransformer(pooled=DEEP))
    noisy, _ = start(setup, clean)
    _, maps = setup.model.velocity(noisy, setup.model.condition(adversarial)[0])
    shallow = maps[SHALLOW][0].unflatten(1, (2, 2)).unflatten(3, (2, 2)).mean((2, 4))
    expected = np.mean([np.mean((cosines(maps[block][0]) - cosines(shallow)) ** 2) for block in DEEP])
    assert value(RepresentationCollapse(setup, SHALLOW, DEEP), clean, adversarial) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("given", [False, True])
def test_the_anchor_is_zero_at_the_unrelated_picture_and_one_at_the_clean(clean: Tensor, adversarial: Tensor, given: bool) -> None:
    other = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(9), dtype=torch.float64) if given else None
    setup = setup_of()
    loss = RepresentationAnchor(setup, (0, 2, 5), VAE, other)
    psi = landscape(32, 32).double() if other is None else other
    assert value(loss, clean, psi) < 1e-12
    assert value(loss, clean, clean) == pytest.approx(1, rel=1e-6)
    noisy, _ = start(setup, clean)
    read = [
        [*VAE.stages(image), *(setup.model.velocity(noisy, setup.model.condition(image)[0])[1][block] for block in (0, 2, 5))]
        for image in (adversarial, psi, clean)
    ]
    expected = np.mean([mse(now, aim) / mse(before, aim) for now, aim, before in zip(*read, strict=True)])
    assert value(loss, clean, adversarial) == pytest.approx(expected, rel=1e-5)
    alone = RepresentationAnchor(setup, (0, 2, 5), picture=other)
    assert value(alone, clean, adversarial) != pytest.approx(expected, rel=1e-3)


def test_an_unrelated_picture_of_any_size_is_shown_at_the_clean_ones(clean: Tensor) -> None:
    flat = torch.full((1, 3, 7, 9), 0.25)
    assert value(RepresentationAnchor(setup_of(), (0,), picture=flat), clean, torch.full_like(clean, 0.25)) < 1e-12


def test_a_layer_that_no_picture_changes_counts_for_nothing(clean: Tensor, adversarial: Tensor) -> None:
    class Deaf(SmallTransformer):
        def velocity(self, noisy: Tensor, told: Tensor) -> tuple[Tensor, list[Tensor]]:
            return super().velocity(noisy, torch.zeros_like(told))

    assert value(RepresentationAnchor(setup_of(Deaf()), (0, 1)), clean, adversarial) == 0


def test_the_landscape_is_always_the_same_picture() -> None:
    wide = landscape(20, 50)
    assert wide.shape == (1, 3, 20, 50)
    assert float(wide.min()) >= 0
    assert float(wide.max()) <= 1
    assert torch.equal(wide, landscape(20, 50))
    # It has sky above ground, and more than one colour in each.
    assert float(wide[:, 2, :6].mean()) > float(wide[:, 2, -6:].mean()) + 0.3
    assert float(wide.std()) > 0.1


@pytest.mark.parametrize("partly", [False, True])
def test_the_denoising_loss_is_the_models_own(clean: Tensor, adversarial: Tensor, partly: bool) -> None:
    """The network's error in its velocity, where the model makes the video."""
    sampled = torch.ones(1, 1, FRAMES, 1, 1, dtype=torch.float64)
    sampled[:, :, 0] = 0
    setup = setup_of(SmallTransformer(sampled=sampled if partly else None))
    noisy, level = start(setup, clean)
    prior = setup.model.prior(clean)
    noise = (noisy - (1 - level) * prior) / level
    velocity, _ = setup.model.velocity(noisy, setup.model.condition(adversarial)[0])
    error = (velocity - (noise - prior)).numpy() ** 2
    expected = np.mean(error[:, :, 1:] if partly else error)
    assert value(Denoising(setup), clean, adversarial) == pytest.approx(expected, rel=1e-5)


def test_the_denoising_loss_rises_as_predictions_get_worse(clean: Tensor) -> None:
    class Off(SmallTransformer):
        """Knows the velocity, and is off by what the picture differs from the clean one."""

        def estimate(self, noisy: Tensor, level: float, conditioning: Features, *, taps: Sequence[Tap] = ()) -> Features:
            apart = (conditioning[0] - self.condition(clean)[0]).abs().mean()
            return (self.prior(clean) + level * apart,)

    loss = Denoising(setup_of(Off()))
    values = [value(loss, clean, (clean + step).clamp(0, 1)) for step in (0.0, 0.02, 0.04, 0.08)]
    assert values[0] == 0
    assert values == sorted(values)
    assert values[-1] > values[1]
    terms = (Term("dm", 1.0, loss),)
    steps = list(protect(clean.float(), Objective(terms), update=Sign(1.0), space=RGB(8.0, start_from="budget"), steps=8, seed=1))
    assert steps[-1].losses["dm"] > steps[1].losses["dm"]


class Plain:
    """v = A cond in every frame, with the picture itself for conditioning. It makes no video."""

    sampled = None
    conditioner = object()

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    def condition(self, image: Tensor) -> Features:
        return (image,)

    def shape(self, image: Tensor) -> tuple[int, ...]:
        return (1, 3, FRAMES, *image.shape[-2:])

    def still(self, image: Tensor) -> Tensor:
        return image[:, :, None].repeat(1, 1, FRAMES, 1, 1)

    def prior(self, image: Tensor) -> Tensor:
        raise AssertionError

    def noised(self, latents: Tensor, noise: Tensor, level: float) -> Tensor:
        return (1 - level) * latents + level * noise

    def output_scale(self, level: float) -> float:
        return level

    def estimate(self, noisy: Tensor, level: float, conditioning: Features, *, taps: Sequence[Tap] = ()) -> Features:
        velocity = torch.einsum("dc,bchw->bdhw", self.matrix, conditioning[0])[:, :, None]
        return (noisy - level * velocity,)


@pytest.mark.parametrize("fresh", [False, True])
def test_velocity_and_drift_of_a_linear_model(clean: Tensor, adversarial: Tensor, fresh: bool) -> None:
    """Their gradients are 2 A' A x / n, and 2 A' (A x - (noise - still)) / n."""
    matrix = torch.randn(3, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    setup = VideoSetup(Plain(matrix), FIRST_STEPS, fresh=fresh)
    velocity = torch.einsum("dc,bchw->bdhw", matrix, adversarial)
    noise, _ = setup.from_noise(Observation(adversarial, draws=SeededDraws(5)))
    drift = velocity - (noise - setup.model.still(clean)).mean(dim=2)
    for kind, wanted in (("velocity", velocity), ("drift", drift)):
        leaf = adversarial.clone().requires_grad_()
        loss = Objective((Term("v", 1.0, VelocityMin(setup, kind)),))
        loss.backward(Observation(clean), Observation(leaf, draws=SeededDraws(5)))
        expected = 2 * torch.einsum("dc,bdhw->bchw", matrix, wanted) / wanted.numel()
        torch.testing.assert_close(leaf.grad, expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max()))
    assert value(VelocityMin(setup), clean, adversarial) == pytest.approx(float(np.mean(velocity.numpy() ** 2)), rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_finite_differences(clean: Tensor, adversarial: Tensor, name: str) -> None:
    loss = losses()[name]
    leaf = adversarial.clone().requires_grad_()
    Objective((Term(name, 1.0, loss),)).backward(Observation(clean), Observation(leaf, draws=SeededDraws(5)))
    direction = torch.randn(clean.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    step = 1e-3  # losses are fp32
    up, down = (value(loss, clean, adversarial + sign * step * direction) for sign in (1, -1))
    assert float((leaf.grad * direction).sum()) == pytest.approx((up - down) / (2 * step), rel=5e-3)


def backward(terms: Sequence[Term], clean: Tensor, adversarial: Tensor, *, low_memory: bool) -> Tensor:
    leaf = adversarial.clone().requires_grad_()
    Objective(tuple(terms)).backward(Observation(clean), Observation(leaf, draws=SeededDraws(5), low_memory=low_memory))
    return leaf.grad


def test_all_together_are_the_sum_of_each_and_low_memory_gives_the_same(clean: Tensor, adversarial: Tensor) -> None:
    def terms() -> list[Term]:
        return [Term(name, weight, loss) for weight, (name, loss) in zip((-1, -2, 3, -4, 5), losses().items(), strict=True)]

    together = backward(terms(), clean, adversarial, low_memory=False)
    close = {"atol": 1e-6 * float(together.abs().max()), "rtol": 1e-5}
    torch.testing.assert_close(backward(terms(), clean, adversarial, low_memory=True), together, **close)
    torch.testing.assert_close(sum(backward([term], clean, adversarial, low_memory=False) for term in terms()), together, **close)


@pytest.mark.parametrize(("name", "weight"), [("collapse", -1), ("anchor", -1), ("denoising", 1), ("velocity", -1), ("drift", -1)])
def test_each_improves(clean: Tensor, name: str, weight: float) -> None:
    """Thirty steps at one noise level, so that values can be compared."""
    loss = losses()[name]
    loss = replace(loss, setup=VideoSetup(loss.setup.model, loss.setup.levels[-1:]))
    terms = (Term(name, weight, loss, scaled=True),)
    steps = list(protect(clean.float(), Objective(terms), update=Sign(1.0), space=RGB(8.0), steps=30, seed=2))
    assert (steps[-1].losses[name] - steps[1].losses[name]) * weight > 0


def test_a_model_is_asked_no_more_than_it_must(clean: Tensor, adversarial: Tensor) -> None:
    """Losses of one setup share the adversarial pass; the clean one's numbers are kept for each level, and its tensors are not."""
    model = SmallTransformer()
    setup = setup_of(model)
    chosen: dict[str, Callable[[], object]] = {
        "collapse": lambda: RepresentationCollapse(setup, SHALLOW, DEEP),
        "anchor": lambda: RepresentationAnchor(setup, (0, 1)),
        "denoising": lambda: Denoising(setup),
    }
    objective = Objective(tuple(Term(name, 1.0, make()) for name, make in chosen.items()))
    reference = Observation(clean)
    for draw in range(30):
        objective.backward(reference, Observation(adversarial.clone().requires_grad_(), draws=SeededDraws(draw)))
    # Of the adversarial and of the unrelated picture at each step; of the clean one once for each level and each loss that measures it.
    assert len(model.asked) == 30 * 2 + len(setup.levels) * 2
    assert setup.lasting_taps == ()
    kept = [tuple(feature.shape) for features in reference._known.values() for feature in features]
    assert (1, FRAMES, 4, 4, WIDTH) not in kept
    assert (1, FRAMES * 16, WIDTH) not in kept


def test_two_anchors_of_one_setup_do_not_disturb_each_other(clean: Tensor, adversarial: Tensor) -> None:
    flat, setup = torch.full((1, 3, 32, 32), 0.25), setup_of()
    both = [RepresentationAnchor(setup, (0, 2)), RepresentationAnchor(setup, (2, 5), picture=flat)]
    alone = [RepresentationAnchor(setup_of(), (0, 2)), RepresentationAnchor(setup_of(), (2, 5), picture=flat)]
    for together, single in zip(both, alone, strict=True):
        assert value(together, clean, adversarial) == pytest.approx(value(single, clean, adversarial), rel=1e-6)


def test_losses_and_their_setup_do_not_hold_each_other(clean: Tensor, adversarial: Tensor) -> None:
    """With them would stay what the model was told, on the device, until the garbage collector comes."""
    gc.collect()
    gc.disable()
    try:
        model = SmallTransformer()
        terms = [Term(name, -1.0, loss) for name, loss in losses(model).items()]
        backward(terms, clean, adversarial, low_memory=False)
        gone = weakref.ref(model)
        del model, terms
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("low_memory", [False, True])
def test_no_loss_reads_from_the_device(clean: Tensor, low_memory: bool) -> None:
    """The meta device has no numbers to be read."""
    meta = torch.device("meta")
    model, vae = SmallTransformer(), Encoder(3).to(meta)
    model.weights, model.conditioner = model.weights.to(meta), model.conditioner.to(meta)
    chosen = losses(model)
    chosen["anchor"] = replace(chosen["anchor"], vae=vae)
    leaf = clean.to(meta).requires_grad_()
    objective = Objective(tuple(Term(name, 1.0, loss) for name, loss in chosen.items()))
    told = objective.backward(Observation(clean.to(meta)), Observation(leaf, low_memory=low_memory))
    assert told.keys() == chosen.keys()
    assert leaf.grad is not None
