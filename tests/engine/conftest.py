"""Trained networks for the engine, without ComfyUI."""

from __future__ import annotations

from pathlib import Path

import pytest
from stillguard.engine.surrogates.perceptual import PerceptualNetwork, load_perceptual_network
from stillguard.engine.surrogates.tiny_autoencoder import TinyAutoencoder, load_tiny_autoencoder


@pytest.fixture(scope="session")
def lab_vae() -> TinyAutoencoder:
    return load_tiny_autoencoder()


@pytest.fixture(scope="session")
def perceptual(vgg_file: Path) -> PerceptualNetwork:
    return load_perceptual_network(vgg_file)
