"""The training script: going on from a checkpoint is the same as never having stopped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from stillguard.lab import train_autoencoder as lab
from stillguard.lab.training import Training, mixed


def pictures(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, 128, 136), generator=generator, dtype=torch.uint8) for _ in range(count)]


def steps(training: Training, count: int) -> None:
    loss = lab.rebuilding(pictures(3), lambda: training.steps / 100)
    for _ in range(count):
        training.step(loss, progress=training.steps / 100, peak=1e-3)


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab, "crop_and_batch", lambda progress: (32, 2))
    whole, first = lab.begin(seed=3), lab.begin(seed=3)
    steps(whole, 3)
    steps(first, 2)
    first.save(tmp_path / "state.pt")
    second = lab.begin(seed=3)
    second.load(tmp_path / "state.pt")
    steps(second, 1)
    assert second.steps == 3
    for key, value in whole.average.items():
        torch.testing.assert_close(second.average[key], value)


@pytest.mark.parametrize("units", [True, False])
def test_half_precision_only_where_a_cpu_has_matrix_units(monkeypatch: pytest.MonkeyPatch, units: bool) -> None:
    """Elsewhere bf16 is emulated: one pass of the encoder took more than a minute."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: units)
    layer = torch.nn.Linear(2, 2)
    with mixed(torch.device("cpu")):
        assert (layer(torch.zeros(1, 2)).dtype == torch.bfloat16) is units
    with mixed(torch.device("cpu"), wanted=False):
        assert layer(torch.zeros(1, 2)).dtype == torch.float32


def test_training_scripts_ask_before_they_use_half_precision() -> None:
    scripts = sorted(Path(lab.__file__).parent.glob("*.py"))
    assert [script.name for script in scripts if "autocast(" in script.read_text(encoding="utf-8")] == ["training.py"]


def test_crops_grow_in_the_end() -> None:
    seen = []
    for progress in (0.0, 0.9):
        network = lab.begin(seed=0).network
        network.taesd_encoder.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
        lab.rebuilding(pictures(2), lambda now=progress: now)(network, torch.Generator().manual_seed(0))
    assert seen == [(16, 3, 64, 64), (6, 3, 128, 128)]


def test_ships_what_it_measured(tmp_path: Path) -> None:
    from stillguard.engine.surrogates.tiny_autoencoder import load_tiny_autoencoder

    quality = lab.ship(lab.begin(seed=1), tmp_path, pictures(2), pictures(2))
    network = load_tiny_autoencoder(tmp_path / lab.FILE)
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
