"""The latent space: DDIM's coefficients and inversion on stubs, what its form promises to the bit, and runs on the shipped autoencoder."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
import torch
from stillguard.engine import Adam, AdamW, Latent, Objective, Observation, Term, WorkingSize, protect
from stillguard.engine.losses.dormant import VAELatent
from stillguard.engine.losses.i2vguard import TargetLatent
from stillguard.engine.picture import largest_change, to_levels
from stillguard.engine.spaces.latent import AsPublished, Denoising, OneStep
from stillguard.engine.surrogates.ddim import DDIM, fitted_prompt, guided, own_prompt
from stillguard.engine.surrogates.tiny_autoencoder import TinyAutoencoder
from torch import Tensor, nn

BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
LOG_SIGMAS = ((1 - (1 - BETAS).cumprod(0)) / (1 - BETAS).cumprod(0)).sqrt().log()


@dataclass(eq=False)
class Stub:
    """A denoiser of SD's schedule that finds `found(z, prompt)` as the noise in z; mixes as core's models do, or as diffusers' do."""

    found: Callable[[Tensor, Tensor], Tensor]
    mixes: Literal["exploding", "preserving"] = "exploding"
    scale: float = 1.0
    asked: list[float] = field(default_factory=list)

    def mixture(self, level: float) -> tuple[float, float]:
        place = level * 999
        low = min(int(place), 998)
        sigma = float(torch.lerp(LOG_SIGMAS[low], LOG_SIGMAS[low + 1], place - low).exp())
        size = (1 + sigma**2) ** 0.5 if self.mixes == "preserving" else 1.0
        return 1 / size, sigma / size

    def scaled(self, latents: Tensor) -> Tensor:
        return latents * self.scale

    def unscaled(self, latents: Tensor) -> Tensor:
        return latents / self.scale

    def noised(self, latents: Tensor, noise: Tensor, level: float) -> Tensor:
        kept, added = self.mixture(level)
        return kept * latents + added * noise

    def prompt(self, noisy: Tensor, *, negative: bool = False) -> Tensor:
        return torch.full((1, 2, 3), 0.0 if negative else 0.3, dtype=noisy.dtype)

    def estimate(self, noisy: Tensor, level: float, *, taps: object = (), negative: bool = False) -> tuple[Tensor]:
        return (self.estimate_under(noisy, level, self.prompt(noisy, negative=negative)),)

    def estimate_under(self, noisy: Tensor, level: float, prompt: Tensor) -> Tensor:
        kept, added = self.mixture(level)
        self.asked.append(round(level * 999))
        return (noisy - added * self.found(noisy / (kept**2 + added**2) ** 0.5, prompt)) / kept


@dataclass(frozen=True, eq=False)
class Flat:
    """An autoencoder whose latents are pixels."""

    def encode(self, image: Tensor) -> Tensor:
        return image

    def decode(self, latent: Tensor) -> Tensor:
        return latent


@dataclass(frozen=True, eq=False)
class Energy:
    """Something that grows: the mean square of a small random network's answer."""

    network: nn.Module

    @property
    def surrogates(self) -> tuple[object, ...]:
        return (self.network,)

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        return adversarial.features(self.network, "answer", lambda: (torch.tanh(self.network(adversarial.image)),))[0].square().mean()


@pytest.fixture(scope="module")
def energy() -> Energy:
    torch.manual_seed(0)
    return Energy(nn.Conv2d(3, 8, 4, stride=2).requires_grad_(False))


@pytest.fixture
def photo() -> Tensor:
    """On the 8-bit grid, smooth, of sides that no network takes."""
    coarse = torch.rand(1, 3, 7, 6, generator=torch.Generator().manual_seed(0))
    return to_levels(nn.functional.interpolate(coarse, size=(70, 58), mode="bicubic").clamp(0.05, 0.95)) / 255


@pytest.mark.parametrize("mixes", ["exploding", "preserving"])
@pytest.mark.parametrize(("step", "kept", "added", "asked"), [(OneStep, 1.0248, -0.1867, 51), (AsPublished, 1.00043, -0.01214, 1)])
def test_the_steps_have_the_coefficients_of_stable_diffusions_schedule(
    step: type, kept: float, added: float, asked: int, mixes: Literal["exploding", "preserving"]
) -> None:
    for latents, found, expected in ((1.0, 0.0, kept), (0.0, 1.0, added)):
        model = Stub(lambda z, _, found=found: torch.full_like(z, found), mixes)
        z = torch.full((1, 4, 2, 2), latents, dtype=torch.float64)
        denoised = step(model).denoised(z, model.prompt(z))
        torch.testing.assert_close(denoised, torch.full_like(z, expected), rtol=0, atol=1e-4)
        assert set(model.asked) == {asked}


@pytest.mark.parametrize("slope", [0.9, -0.5])
def test_a_step_leads_back_from_a_refined_inversion(slope: float) -> None:
    model = Stub(lambda z, _: slope * z)
    z, predict = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0)).double(), own_prompt(model)
    ddim, levels = DDIM(model), (1 / 999, 51 / 999)

    def back(refinements: int) -> Tensor:
        noisy = ddim.inverted(z, *levels, predict, refinements=refinements)
        return ddim.moved(noisy, ddim.noise(noisy, levels[1], predict), levels[1], levels[0])

    torch.testing.assert_close(back(12), z, rtol=0, atol=1e-5)
    assert float((back(0) - z).abs().max()) > 1e-3  # which is why there are refinements
    # What is inverted is the linear map's own: z' (1 - slope * added) / kept, from the equation of a step.
    (alpha, sigma, _), (wanted, added, _) = ddim.mixture(levels[1], z), ddim.mixture(levels[0], z)
    exact = z / (wanted / alpha * (1 - slope * sigma) + slope * added)
    torch.testing.assert_close(ddim.inverted(z, *levels, predict, refinements=12), exact, rtol=0, atol=1e-5)


def test_the_fitted_prompt_brings_a_guided_step_nearer() -> None:
    model = Stub(lambda z, prompt: 0.5 * z + prompt.mean((1, 2)).view(-1, 1, 1, 1))
    z = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0)).double()
    ddim, step = DDIM(model), (1 / 999, 1e-9)
    with torch.no_grad():
        fitted = fitted_prompt(ddim, model, z, z - 0.005, step, guidance=2.5, iterations=40)

        def distance(prompt: Tensor) -> float:
            noise = ddim.noise(z, step[0], guided(model, prompt, 2.5))
            return float((ddim.moved(z, noise, *step) - z + 0.005).square().mean())

        before = distance(model.prompt(z, negative=True))
    assert fitted.shape == (2, 2, 3)
    assert distance(fitted) < 0.75 * before


def spaces(vae: TinyAutoencoder) -> dict[str, Latent]:
    """One of each mode."""

    def denoiser() -> Stub:
        return Stub(lambda z, prompt: 0.3 * torch.tanh(z) + prompt.mean((1, 2)).view(-1, 1, 1, 1), scale=0.18215)

    ways: dict[str, Denoising | None] = {"decoder": None, "one step": OneStep(denoiser()), "as published": AsPublished(denoiser())}
    return {name: Latent(vae, way, WorkingSize(48), start_from="clean") for name, way in ways.items()}


MODES = ["decoder", "one step", "as published"]


@pytest.mark.parametrize("mode", MODES)
def test_the_difference_form_begins_at_the_photo_to_the_bit(lab_vae: TinyAutoencoder, photo: Tensor, mode: str) -> None:
    """Of colour and of grey, also where the photo is larger than what the autoencoder sees."""
    space = spaces(lab_vae)[mode]
    for clean in (photo, photo[:, :1], photo[..., :48, :40]):
        start = space.start(clean, None, torch.Generator())
        assert torch.equal(space.render(clean, None, start), clean)
        assert torch.equal(space.result(clean, None, start), clean)
        near = space.inside(clean, None, torch.Generator().manual_seed(1))
        assert largest_change(clean, space.result(clean, None, near)) > 1


def test_the_decoded_form_is_what_the_autoencoder_gives_blended_by_the_mask(lab_vae: TinyAutoencoder, photo: Tensor) -> None:
    clean, mask = photo[..., :48, :40], torch.zeros(1, 1, 48, 40)
    mask[..., 10:30, :] = 0.5
    mask[..., 30:, :] = 1
    space = Latent(lab_vae, form="decoded", working_size=WorkingSize(48), start_from="clean")
    rendered = space.render(clean, mask, space.start(clean, mask, torch.Generator()))
    decoded = lab_vae.decode(lab_vae.encode(clean))
    torch.testing.assert_close(rendered, (mask * decoded + (1 - mask) * clean).clamp(0, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", ["difference", "decoded"])
def test_the_gradient_of_a_render_is_finite_differences(mode: str, form: Literal["difference", "decoded"]) -> None:
    """In float64, of latents 4x4."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 8, stride=8), nn.ConvTranspose2d(4, 3, 8, stride=8)

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = layers

        def encode(self, image: Tensor) -> Tensor:
            return torch.tanh(self.encoder(image))

        def decode(self, latent: Tensor) -> Tensor:
            return 0.5 + 0.2 * torch.tanh(self.decoder(latent))

    denoising = spaces(Small())[mode].denoising  # type: ignore[arg-type]
    vae = Small().double().requires_grad_(False)
    clean = torch.rand(1, 3, 37, 32, generator=torch.Generator().manual_seed(1)).double() * 0.4 + 0.3
    space, weights = Latent(vae, denoising, WorkingSize(32), form=form), torch.randn(1, 3, 37, 32).double()
    mask = torch.rand(1, 1, 37, 32).double()
    with torch.no_grad():
        latents, *rest = space.start(clean, mask, torch.Generator().manual_seed(0))

    def value(latents: Tensor) -> Tensor:
        return (space.render(clean, mask, (latents, *rest)) * weights).sum()

    assert latents.shape[-2:] == (4, 4)
    assert torch.autograd.gradcheck(value, latents.requires_grad_(), eps=1e-6, atol=1e-7)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_region_freezes_to_the_bit_or_goes_on_alone(lab_vae: TinyAutoencoder, energy: Energy, photo: Tensor, frozen: bool) -> None:
    region, mask = torch.zeros(1, 1, 70, 58), torch.ones(1, 1, 70, 58)
    region[..., 11:43, 9:40] = 1
    mask[..., 60:, :] = 0
    space = Latent(lab_vae, working_size=WorkingSize(48), form="difference")
    space = space.freeze(3, region) if frozen else space.composite(3, region)
    objective = Objective((Term("energy", 1.0, energy),))
    images = [step.image for step in protect(photo, objective, space=space, update=AdamW(3.0), steps=6, mask=mask, seed=1)]
    inside = region.expand_as(photo) > 0
    assert all(not torch.equal(before[inside], after[inside]) for before, after in itertools.pairwise(images[:4]))
    assert all(torch.equal(image[..., 60:, :], photo[..., 60:, :]) for image in images)
    if frozen:
        assert all(torch.equal(image[inside], images[3][inside]) for image in images[4:])
        assert all(not torch.equal(before[~inside], after[~inside]) for before, after in itertools.pairwise(images))
    else:
        assert not torch.equal(images[3][~inside], photo[~inside])
        assert all(torch.equal(image[~inside], photo[~inside]) for image in images[4:])
        assert not torch.equal(images[5][inside], images[6][inside])
    with pytest.raises(ValueError, match=r"mask of the region is 58x70 but the picture is 40x48: resize the mask"):
        list(protect(photo[..., :48, :40], objective, space=space, steps=1))


@pytest.mark.parametrize("at", [0, 1])
def test_what_freezes_at_once_is_the_clean_region_or_that_of_the_first_step(photo: Tensor, energy: Energy, at: int) -> None:
    """From the space's own start, and from another picture."""
    region, objective = torch.ones(1, 1, 70, 58), Objective((Term("energy", 1.0, energy),))
    plain = Latent(Flat(), working_size=WorkingSize(70, multiple=1))
    for start in (None, (photo + 0.1).clamp(0, 1)):
        first, second = (
            [step.image for step in protect(photo, objective, space=space, update=AdamW(), start=start, steps=3)]
            for space in (plain, plain.freeze(at, region))
        )
        if at == 1:
            assert torch.equal(second[3], first[1])
            assert not torch.equal(second[3], photo)
        else:
            assert largest_change(photo if start is None else start, second[3]) <= 1


def test_what_freezes_waits_for_a_step_that_was_not_skipped(photo: Tensor) -> None:
    """A picture whose gradient is zero in that very step keeps all of its variables, and its face goes on until the next."""
    region = torch.ones(1, 1, 70, 58)
    space = Latent(Flat(), start_from="clean").freeze(2, region)  # type: ignore[arg-type]
    start = space.start(photo, None, torch.Generator())
    moved = (start[0] + 0.2, *start[1:])
    assert not torch.equal(space.at(3).render(photo, None, moved), photo)
    kept = space.at(3).project(photo, None, moved)
    further = (kept[0] + 0.2, *kept[1:])
    assert torch.equal(space.at(4).render(photo, None, further), space.at(3).render(photo, None, moved))


def test_a_trust_region_holds_every_latent(lab_vae: TinyAutoencoder, energy: Energy, photo: Tensor) -> None:
    free = Latent(lab_vae, working_size=WorkingSize(48))
    held = Latent(lab_vae, working_size=WorkingSize(48), trust=0.05)
    objective = Objective((Term("energy", 1.0, energy),))
    near, far = (list(protect(photo, objective, space=space, update=AdamW(5.0), steps=5))[-1].image for space in (held, free))
    assert 0 < largest_change(photo, near) < largest_change(photo, far)
    begun = free.start(photo, None, torch.Generator().manual_seed(0))
    origin = free.variables(photo, None, photo)[0]
    (latents, *_) = held.project(photo, None, (begun[0] + 0.5, *begun[1:]))
    torch.testing.assert_close(latents, origin + 0.05)
    with pytest.raises(ValueError, match="The trust region is 0: choose more than 0, or none"):
        Latent(lab_vae, trust=0.0)


@pytest.mark.parametrize(("mode", "masked"), [("decoder", False), *((mode, True) for mode in MODES)])
def test_a_run_keeps_grid_range_and_mask_and_is_the_same_in_low_memory(
    lab_vae: TinyAutoencoder, photo: Tensor, mode: str, masked: bool
) -> None:
    clean = photo.clone()
    clean[..., :20, :20], clean[..., 20:30, :20] = 1, 0
    mask = None if not masked else torch.zeros(1, 1, 70, 58)
    if mask is not None:
        mask[..., 20:] = 1
        mask[..., 40:] = 0.5
    space = spaces(lab_vae)[mode]
    space = Latent(space.vae, space.denoising, space.working_size)
    objective = Objective((Term("latent", 10.0, VAELatent(lab_vae)),))

    def run(**where: bool) -> tuple[Tensor, list[float]]:
        kept: dict[str, Any] = {"working_size": WorkingSize(48), "mask": mask, "seed": 2, **where}
        steps = list(protect(clean, objective, space=space, update=AdamW(), steps=4, **kept))
        assert not any(step.skipped for step in steps)
        return steps[-1].image, [step.losses["latent"] for step in steps[1:]]

    (fast, losses), (low, _) = run(), run(low_memory=True)
    assert float((to_levels(fast) - to_levels(low)).abs().max()) <= 1
    assert losses[-1] > losses[0]
    assert 0 <= float(fast.min()) <= float(fast.max()) <= 1
    assert torch.equal(torch.where(fast == clean, clean, to_levels(fast) / 255), fast)
    assert largest_change(clean, fast) >= 1
    if masked:
        assert torch.equal(fast[..., :20], clean[..., :20])


def test_a_run_may_begin_from_another_picture(photo: Tensor, energy: Energy) -> None:
    """Where the autoencoder loses nothing, the first picture is that one."""
    other = (photo + 0.1).clamp(0, 1)
    space = Latent(Flat(), working_size=WorkingSize(70, multiple=1))  # type: ignore[arg-type]
    *_, last = protect(photo, Objective((Term("energy", 1.0, energy),)), space=space, update=Adam(1e-6), start=other, steps=1)
    assert float((to_levels(last.image) - to_levels(other)).abs().max()) <= 1


def test_the_anchor_draws_the_latents_to_those_of_the_first_stage_the_more_the_more_it_weighs(
    lab_vae: TinyAutoencoder, energy: Energy, photo: Tensor
) -> None:
    """|E(p'_0) - E(p^n)|^2 is Target Latent with the first stage's picture as the target; both terms get better than at the start."""
    clean, size = photo[..., :32, :32], WorkingSize(32)
    driven, space = Term("energy", -300.0, energy), Latent(lab_vae, working_size=size, start_from="clean")
    *_, first = protect(clean, Objective((driven,)), steps=10, working_size=size)
    anchor = TargetLatent(lab_vae, first.image)

    def ended(weight: float, steps: int = 15) -> tuple[float, float]:
        terms = (driven, Term("anchor", -weight, anchor))
        *_, last = protect(clean, Objective(terms), space=space, update=AdamW(), steps=steps, working_size=size)
        before, seen = Observation(clean), Observation(last.image)
        return float(anchor(before, seen)), float(energy(before, seen))

    begun, runs = ended(1.0, steps=0), [ended(weight) for weight in (0.0, 1.0, 10.0, 100.0)]
    distances, energies = zip(*runs, strict=True)
    assert list(distances) == sorted(distances, reverse=True)
    assert list(energies) == sorted(energies)
    assert distances[2] < begun[0]
    assert energies[2] < begun[1]
