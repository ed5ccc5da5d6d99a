"""Random noise of a budget."""

from __future__ import annotations

import pytest
import torch
from stillguard.engine.baselines import random_signs
from stillguard.engine.metrics.visibility import linf_levels
from stillguard.engine.picture import to_levels
from stillguard.engine.spaces import RGB


@pytest.mark.parametrize(("budget", "levels"), [(1.0, 1), (8.0, 8), (8.5, 8)])
def test_every_value_moves_by_whole_levels_of_the_budget(budget: float, levels: int) -> None:
    grey = torch.full((2, 3, 40, 50), 128 / 255)
    moved = (random_signs(grey, budget, seed=1) - grey) * 255
    assert torch.equal(moved.abs().round(), torch.full_like(moved, levels))
    assert abs(float(moved.mean())) < 0.05 * levels
    assert torch.equal(moved[0], moved[1])


def test_it_stays_a_picture_within_the_budget(astronaut: torch.Tensor) -> None:
    noisy = random_signs(astronaut, 16, seed=3)
    assert float(noisy.min()) >= 0
    assert float(noisy.max()) <= 1
    assert int(linf_levels(astronaut, noisy)) == 16


def test_a_picture_between_levels_differs_from_its_file_by_the_budget() -> None:
    between = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2)) * 0.8 + 0.1
    levels = [(picture * 255).round() for picture in (between, random_signs(between, 8, seed=1))]
    assert float((levels[1] - levels[0]).abs().min()) == float((levels[1] - levels[0]).abs().max()) == 8


def test_alpha_is_carried_along_and_grey_stays_grey(astronaut: torch.Tensor) -> None:
    alpha = torch.rand(1, 1, *astronaut.shape[2:], generator=torch.Generator().manual_seed(0))
    noisy = random_signs(torch.cat([astronaut, alpha], dim=1), 8, seed=1)
    assert torch.equal(noisy[:, 3:], alpha)
    assert torch.equal(noisy[:, :3], random_signs(astronaut, 8, seed=1))
    assert random_signs(astronaut[:, :1], 8, seed=1).shape == astronaut[:, :1].shape


def test_pixels_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="pixels that are not numbers"):
        random_signs(torch.full((1, 3, 8, 8), float("nan")), 8, seed=1)


def test_it_follows_the_seed(astronaut: torch.Tensor) -> None:
    assert torch.equal(random_signs(astronaut, 8, seed=1), random_signs(astronaut, 8, seed=1))
    assert not torch.equal(random_signs(astronaut, 8, seed=1), random_signs(astronaut, 8, seed=2))


def test_less_than_a_level_is_refused() -> None:
    with pytest.raises(ValueError, match="choose at least 1, since files hold whole levels"):
        random_signs(torch.zeros(1, 3, 8, 8), 0.5, seed=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_pictures_in_half_precision_keep_the_budget(dtype: torch.dtype) -> None:
    given = torch.rand(1, 4, 64, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    noisy = random_signs(given, 8, seed=1)
    assert torch.equal(noisy, random_signs(given.float(), 8, seed=1))
    assert int(linf_levels(given[:, :3], noisy[:, :3])) == int(linf_levels(given[:, :3].float(), noisy[:, :3])) == 8


@pytest.mark.parametrize(("value", "levels"), [(1.0, 8), (0.5, 4), (0.3, 2), (0.1, 0), (0.0, 0)])
def test_a_mask_scales_the_budget_as_in_a_protection(value: float, levels: int) -> None:
    clean = torch.rand(2, 3, 20, 20, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    mask = torch.zeros(1, 1, 20, 20)
    mask[..., 10:] = value
    noisy = random_signs(clean, 8, seed=1, mask=mask)
    assert torch.equal(noisy[..., :10], clean[..., :10])
    moved = (to_levels(noisy) - to_levels(clean))[..., 10:].abs()
    assert torch.equal(moved, torch.full_like(moved, levels))
    if levels == 8:
        assert torch.equal(noisy[..., 10:], random_signs(clean, 8, seed=1)[..., 10:])
    if levels == 0:
        assert torch.equal(noisy, clean)
    # The engine's own budget under this mask is the same.
    bound = RGB(8.0).result(clean, mask, (torch.full_like(clean, 0.08),))
    assert int((to_levels(bound) - to_levels(clean)).abs().max()) == levels
