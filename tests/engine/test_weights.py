"""The catalogue, and the file that ships with the pack."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from stillguard.engine.surrogates.tiny_autoencoder import SHIPPED, TinyAutoencoder, load_tiny_autoencoder
from stillguard.engine.weights.catalogue import catalogue
from torch import Tensor


def test_a_missing_file_is_named_with_its_source_and_folder() -> None:
    sentence = catalogue()["lpips_vgg16"].missing()
    for word in ("lpips_vgg16.safetensors", "vgg16-397923af.pth", "https://", "528 MB", "models/stillguard"):
        assert word in sentence


def test_the_shipped_autoencoder_is_small_half_precision_and_in_the_catalogue() -> None:
    assert SHIPPED.name == catalogue()["lab_vae"].file
    assert SHIPPED.stat().st_size < 6_000_000
    with safe_open(SHIPPED, "pt") as file:
        assert set(catalogue()["lab_vae"].keys) <= set(file.keys())
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}  # noqa: SIM118
        assert float(file.metadata()["held_out_psnr_db"]) > 20


def test_the_shipped_autoencoder_rebuilds_a_photo_it_never_saw(astronaut: Tensor, lab_vae: TinyAutoencoder) -> None:
    rebuilt = lab_vae.decode(lab_vae.encode(astronaut)).clamp(0, 1)
    blurred = torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(astronaut, 4), scale_factor=4, mode="bilinear")
    error, reference = ((x - astronaut).square().mean() for x in (rebuilt, blurred))
    # A quarter-size thumbnail has three numbers for 16 pixels, the latent one for 16: it does better all the same.
    assert error < reference


def test_a_file_with_other_keys_is_refused_by_name(tmp_path: Path) -> None:
    state = TinyAutoencoder().state_dict()
    state["surprise"] = torch.zeros(1)
    del state["taesd_encoder.0.bias"]
    save_file(state, tmp_path / "odd.safetensors")
    with pytest.raises(ValueError, match=r"missing \['taesd_encoder.0.bias'\], unexpected \['surprise'\]"):
        load_tiny_autoencoder(tmp_path / "odd.safetensors")
