"""Seeds: all that ComfyUI's own nodes take, each with numbers of its own."""

from __future__ import annotations

import zlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stillguard.engine.baselines import random_signs
from stillguard.engine.draws import SEEDS, SeededDraws, following, stream
from stillguard.engine.purify.edits import Erase, RoundedNoise, SaltAndPepper
from stillguard.engine.purify.pipelines import Pipeline
from torch import Tensor


@given(st.integers(0, 2**63 - 1), st.text())
def test_numbers_of_seeds_below_two_to_63_are_those_of_all_times(seed: int, purpose: str) -> None:
    assert stream(seed, purpose).initial_seed() == seed ^ (zlib.crc32(purpose.encode("utf-8", "ignore")) << 20)


@pytest.mark.parametrize("seed", [2**63 - 1, 2**63, SEEDS - 1])
def test_every_seed_of_comfyuis_own_nodes_is_taken(seed: int, astronaut: Tensor) -> None:
    """PyTorch's generator on the CPU tells apart the lower half of a seed only, so that seeds may share their numbers."""
    image = astronaut[..., :32, :32]
    assert torch.equal(random_signs(image, 8, seed=seed), random_signs(image, 8, seed=seed))
    assert SeededDraws(seed).integer("timestep", 10) in range(10)


@pytest.mark.parametrize("edit", [RoundedNoise(0.1, SEEDS - 1), SaltAndPepper(0.2, SEEDS - 1), Erase(0.2, SEEDS - 1)])
def test_a_batch_counts_on_from_the_last_seed(edit: object, astronaut: Tensor) -> None:
    image = astronaut[..., :32, :32]
    assert following(SEEDS - 1, 2) == 1
    assert Pipeline((edit,)).numbered(2)(image).shape == image.shape
