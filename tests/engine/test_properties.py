"""What every result keeps, whatever the picture and the settings."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from stillguard.engine import RGB, Adam, Alternating, Chroma, EoT, LowFrequency, MomentumSign, Objective, Sign, Term, WorkingSize, protect
from stillguard.engine.losses.dormant import VAELatent
from stillguard.engine.picture import to_levels
from stillguard.engine.spaces import Space
from support import RandomEncoder
from torch import Tensor

OBJECTIVE = Objective((Term("latent", 1.0, VAELatent(RandomEncoder())),))
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

sides = st.one_of(st.integers(1, 40), st.sampled_from([63, 64, 65, 127, 257]))
budgets = st.one_of(st.integers(1, 64).map(float), st.floats(1, 64, allow_nan=False))
updates = st.sampled_from([MomentumSign(2.0), Sign(3.0), Adam(1.0)])
pixels = st.builds(RGB, budgets, start_from=st.sampled_from(["budget", "clean", "anywhere"]), truncated=st.booleans())
frequencies = st.builds(LowFrequency, pixels, st.sampled_from(["triangle", "square"]), st.floats(0.1, 2))
turns = st.builds(lambda pixels: Alternating((Chroma(pixels), LowFrequency(pixels))), pixels)
spaces = st.one_of(pixels, frequencies, st.builds(Chroma, pixels), turns)


@st.composite
def pictures(draw: st.DrawFn) -> Tensor:
    """Batches of greyscale, RGB and RGBA, on the 8-bit grid or off it, flat extremes included."""
    shape = (draw(st.integers(1, 3)), draw(st.sampled_from([1, 3, 4])), draw(sides), draw(sides))
    image = torch.rand(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 9))))
    match draw(st.sampled_from(["continuous", "8 bit", "black", "white", "beyond"])):
        case "8 bit":
            return to_levels(image) / 255
        case "black":
            return torch.zeros(shape)
        case "white":
            return torch.ones(shape)
        case "beyond":
            return image * 1.2 - 0.1
    return image


def assume_colour(clean: Tensor, space: Space | Alternating) -> None:
    """A greyscale picture has none to change."""
    assume(clean.shape[1] != 1 or isinstance(space, RGB | LowFrequency))


def last(clean: Tensor, **arguments: object) -> Tensor:
    *_, step = protect(clean, OBJECTIVE, working_size=WorkingSize(longest=48), **arguments)
    return step.image


def largest_change(clean: Tensor, protected: Tensor) -> float:
    return float((to_levels(protected) - to_levels(clean)).abs().max())


@QUICK
@given(pictures(), spaces, updates, st.integers(1, 3))
def test_budget_range_shape_and_8_bit_grid(clean: Tensor, space: Space | Alternating, update: object, steps: int) -> None:
    assume_colour(clean, space)
    protected = last(clean, space=space, update=update, steps=steps)
    assert protected.shape == clean.shape
    assert protected.dtype == torch.float32
    assert largest_change(clean, protected) <= math.floor(space.budget)
    moved = protected != clean
    assert torch.equal((protected * 255).round()[moved] / 255, protected[moved])
    assert bool(((protected[moved] >= 0) & (protected[moved] <= 1)).all())
    if clean.shape[1] == 4:
        assert torch.equal(protected[:, 3], clean[:, 3])


@QUICK
@given(pictures(), spaces, updates, st.integers(0, 2**31))
def test_mask_keeps_what_is_outside_to_the_bit_and_scales_the_rest(
    clean: Tensor, space: Space | Alternating, update: object, seed: int
) -> None:
    assume_colour(clean, space)
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand((1, 1, *clean.shape[-2:]), generator=generator)
    mask = mask * (torch.rand(mask.shape, generator=generator) < 0.5)
    protected = last(clean, space=space, update=update, steps=2, mask=mask, seed=seed)
    outside = (mask == 0).expand_as(clean)
    assert torch.equal(protected[outside], clean[outside])
    allowed = (mask * space.budget + 1e-3).floor()
    assert bool(((to_levels(protected) - to_levels(clean))[:, :3].abs() <= allowed).all())


@QUICK
@given(pictures(), spaces, st.integers(0, 2**63 - 1))
def test_no_steps_returns_the_picture_bit_for_bit(clean: Tensor, space: Space | Alternating, seed: int) -> None:
    assume_colour(clean, space)
    assert torch.equal(last(clean, space=space, steps=0, seed=seed), clean)


@QUICK
@given(pictures(), updates, st.integers(0, 2**63 - 1))
def test_same_seed_same_picture(clean: Tensor, update: object, seed: int) -> None:
    assert torch.equal(*(last(clean, update=update, eot=EoT(), steps=2, seed=seed) for _ in range(2)))


def test_another_seed_gives_another_picture(astronaut: Tensor) -> None:
    assert not torch.equal(*(last(astronaut, steps=2, seed=seed) for seed in (1, 2)))


@pytest.mark.parametrize(("width", "height"), [(4000, 3000), (3999, 1), (1, 1), (1, 2999), (641, 479)])
def test_odd_and_large_sizes(width: int, height: int) -> None:
    clean = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    protected = last(clean, steps=2)
    assert protected.shape == clean.shape
    assert 1 <= largest_change(clean, protected) <= 8


def test_the_surrogates_work_does_not_grow_with_the_photo() -> None:
    """12 megapixels are seen at the same size as their half-size copy: aspect kept, sides multiples of eight."""
    assert WorkingSize(512).size(3000, 4000) == WorkingSize(512).size(1500, 2000) == (384, 512)
    assert WorkingSize(512).size(300, 200) == (304, 200)  # never enlarged, rounded to the next multiple
    assert WorkingSize(512, multiple=16).size(1, 1) == (32, 32)


@QUICK
@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([8, 16, 32]))
def test_working_size_is_a_multiple_and_keeps_the_aspect(height: int, width: int, multiple: int) -> None:
    seen = WorkingSize(512, multiple=multiple).size(height, width)
    assert all(side % multiple == 0 and 32 <= side <= 512 for side in seen)
    if min(seen) > 32:
        scale = min(1.0, 512 / max(height, width))
        assert abs(seen[0] - height * scale) <= multiple / 2 + 1e-6
        assert abs(seen[1] - width * scale) <= multiple / 2 + 1e-6
