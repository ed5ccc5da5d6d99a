"""The autoencoder that ships with the pack: architecture, and reading it without ComfyUI.

The layout is that of TAESD (github.com/madebyollin/taesd), the family that ComfyUI's ``VAELoader`` recognises by the key
``taesd_decoder.1.weight``, so one file serves the core node, the engine, the tests and the training script.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

SHIPPED = Path(__file__).parents[1] / "weights" / "vae" / "stillguard_lab_vae.safetensors"
_WIDTH = 64


def _conv(n_in: int, n_out: int, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=bias)


class _Residual(nn.Module):
    """Three 3x3 convolutions with a skip; `conv` is the key name that the file format prescribes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(_conv(_WIDTH, _WIDTH), nn.ReLU(), _conv(_WIDTH, _WIDTH), nn.ReLU(), _conv(_WIDTH, _WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x) + x)


class _SoftClamp(nn.Module):
    """Keeps latents within +-3, where the decoder was trained."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(z / 3) * 3


def _encoder(latent_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = [_conv(3, _WIDTH), _Residual()]
    for _ in range(3):
        layers += [_conv(_WIDTH, _WIDTH, stride=2, bias=False), *(_Residual() for _ in range(3))]
    return nn.Sequential(*layers, _conv(_WIDTH, latent_channels))


def _decoder(latent_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = [_SoftClamp(), _conv(latent_channels, _WIDTH), nn.ReLU()]
    for _ in range(3):
        layers += [*(_Residual() for _ in range(3)), nn.Upsample(scale_factor=2), _conv(_WIDTH, _WIDTH, bias=False)]
    return nn.Sequential(*layers, _Residual(), _conv(_WIDTH, 3))


class TinyAutoencoder(nn.Module):
    """Image [B,3,H,W] in [0,1] with H and W multiples of 8  <->  latent [B,C,H/8,W/8].

    The shipped file gives latents the scale of Stable Diffusion 1.5: times 0.18215 they have about unit variance.
    """

    vae_scale: Tensor
    vae_shift: Tensor

    def __init__(self, latent_channels: int = 4) -> None:
        super().__init__()
        self.taesd_encoder = _encoder(latent_channels)
        self.taesd_decoder = _decoder(latent_channels)
        # The format's way to give latents another scale than the one that the network was trained with.
        self.register_buffer("vae_scale", torch.tensor(1.0))
        self.register_buffer("vae_shift", torch.tensor(0.0))

    def encode(self, image: Tensor) -> Tensor:
        latent: Tensor = self.taesd_encoder(image) / self.vae_scale + self.vae_shift
        return latent

    def decode(self, latent: Tensor) -> Tensor:
        """Unclamped: values may lie slightly outside [0,1]."""
        image: Tensor = self.taesd_decoder((latent - self.vae_shift) * self.vae_scale)
        return image


def load_tiny_autoencoder(path: Path = SHIPPED) -> TinyAutoencoder:
    """Read a combined TAESD file (safetensors) as a frozen fp32 network in eval mode.

    Raises ValueError naming every missing or unexpected key.
    """
    state = {"vae_scale": torch.tensor(1.0), "vae_shift": torch.tensor(0.0), **load_file(path)}
    channels = state["taesd_decoder.1.weight"].shape[1]
    network = TinyAutoencoder(channels)
    problems = network.load_state_dict({k: v.float() for k, v in state.items()}, strict=False)
    if problems.missing_keys or problems.unexpected_keys:
        raise ValueError(f"{path} is not a TAESD file: missing {problems.missing_keys}, unexpected {problems.unexpected_keys}.")
    return network.eval().requires_grad_(False)
