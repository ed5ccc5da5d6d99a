"""The training script: going on from a checkpoint is the same as never having stopped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from stillguard.lab import train_autoencoder as lab


def pictures(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, 128, 136), generator=generator, dtype=torch.uint8) for _ in range(count)]


def steps(training: lab.Training, count: int) -> None:
    for _ in range(count):
        training.seconds = training.steps * 10.0  # the schedule follows measured time, which no two runs share
        training.step(pictures(3), budget=1000.0, peak=1e-3)


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, first = lab.Training(seed=3), lab.Training(seed=3)
    steps(whole, 4)
    steps(first, 2)
    first.save(tmp_path / "state.pt")
    second = lab.Training(seed=3)
    second.load(tmp_path / "state.pt")
    steps(second, 2)
    assert second.steps == 4
    for key, value in whole.average.items():
        torch.testing.assert_close(second.average[key], value)


def test_ships_what_it_measured(tmp_path: Path) -> None:
    from stillguard.engine.surrogates.tiny_autoencoder import load_tiny_autoencoder

    training = lab.Training(seed=1)
    quality = training.ship(tmp_path / "vae.safetensors", pictures(2), pictures(2))
    network = load_tiny_autoencoder(tmp_path / "vae.safetensors")
    assert lab.reconstruction_psnr(network, pictures(2)) == quality
    latent = network.encode(pictures(2)[0][None].float() / 255)
    assert 0.7 < 0.18215 * float(latent.std()) < 1.3  # unit variance with the factor of Stable Diffusion 1.5


def test_held_out_pairs_are_never_trained_on(tmp_path: Path) -> None:
    for number in (9, 10, 11, 20):
        for half in (0, 1):
            shade = np.full((40, 64, 3), number * 2 + half, np.uint8)
            Image.fromarray(shade).save(tmp_path / f"{number:03}_{half}.jpg", quality=100)
    trained, held_out = (lab.load_pictures(tmp_path, held_out=choice) for choice in (False, True))
    assert sorted(round(float(p.float().mean())) for p in trained) == [18, 19, 22, 23]
    assert sorted(round(float(p.float().mean())) for p in held_out) == [20, 40]
