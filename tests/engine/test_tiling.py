"""Tiled encoding against diffusers' own."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL
from stillguard.engine.compute.tiling import Tiled
from torch import Tensor


class VAE:
    def __init__(self) -> None:
        torch.manual_seed(0)
        kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
        self.network = AutoencoderKL(**kinds, block_out_channels=(8, 8, 8, 8), norm_num_groups=4, sample_size=64, latent_channels=4)
        self.network.eval().requires_grad_(False)

    def encode(self, image: Tensor) -> Tensor:
        return self.network.encode(image * 2 - 1).latent_dist.mean


@pytest.mark.parametrize("size", [(64, 64), (72, 64), (128, 128), (136, 200), (64, 240)])
def test_equals_diffusers_tiled_encoding(size: tuple[int, int]) -> None:
    vae, image = VAE(), torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1))
    ours = Tiled(vae, tile=64).encode(image)
    vae.network.enable_tiling()
    torch.testing.assert_close(ours, vae.encode(image), atol=1e-6, rtol=1e-5)


def test_differs_from_whole_encoding_and_has_a_gradient() -> None:
    """Guards the comparison above: its tiles matter."""
    vae, image = VAE(), torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(1)).requires_grad_()
    tiled = Tiled(vae, tile=64).encode(image)
    assert (tiled - vae.encode(image)).abs().max() > 1e-3
    tiled.square().sum().backward()
    assert bool((image.grad.abs().sum(1) > 0).all())
