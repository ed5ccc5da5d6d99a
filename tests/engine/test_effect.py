"""Effect on a trained network and a real photo, against random signs of the same budget. Figures of full length: benchmarks/."""

from __future__ import annotations

import pytest
import torch
from stillguard.engine import Objective, Term, WorkingSize, protect
from stillguard.engine.losses.dormant import LPIPSPenalty, VAELatent
from stillguard.engine.surrogates.perceptual import PerceptualNetwork
from stillguard.engine.surrogates.tiny_autoencoder import TinyAutoencoder
from torch import Tensor

BUDGET = 8


@pytest.fixture(scope="module")
def face(astronaut: Tensor) -> Tensor:
    return astronaut[..., 32:128, 64:160]


@pytest.fixture(scope="module")
def random_signs(face: Tensor) -> Tensor:
    signs = torch.randint(0, 2, face.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return (face + signs * BUDGET / 255).clamp(0, 1)


def run(face: Tensor, *terms: Term, steps: int) -> Tensor:
    *_, last = protect(face, Objective(terms), working_size=WorkingSize(96), steps=steps, seed=0)
    return last.image


def latent_distance(vae: TinyAutoencoder, face: Tensor, picture: Tensor) -> float:
    return float((vae.encode(picture) - vae.encode(face)).norm())


def damage_per_visibility(vae: TinyAutoencoder, lpips: PerceptualNetwork, face: Tensor, picture: Tensor) -> float:
    """LPIPS between what the autoencoder makes of both over LPIPS between the pictures."""
    rebuilt = [vae.decode(vae.encode(image)).clamp(0, 1) for image in (face, picture)]
    return float(lpips(*rebuilt) / lpips(face, picture))


def test_the_latent_moves_many_times_as_far_as_under_random_signs(face: Tensor, random_signs: Tensor, lab_vae: TinyAutoencoder) -> None:
    protected = run(face, Term("latent", 10.0, VAELatent(lab_vae)), steps=20)
    assert latent_distance(lab_vae, face, protected) > 5 * latent_distance(lab_vae, face, random_signs)


def test_the_penalty_buys_damage_per_visibility(
    face: Tensor, random_signs: Tensor, lab_vae: TinyAutoencoder, perceptual: PerceptualNetwork
) -> None:
    latent, visible = Term("latent", 10.0, VAELatent(lab_vae)), Term("visible", -10.0, LPIPSPenalty(perceptual))
    ratios = [
        damage_per_visibility(lab_vae, perceptual, face, picture)
        for picture in (random_signs, run(face, latent, steps=15), run(face, latent, visible, steps=15))
    ]
    assert ratios[2] > 1.5
    assert ratios[2] > ratios[1] > ratios[0]
