"""The networks of a baselines set: the libraries' own, where ours would be sockets, and how often and with what they are asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import kornia
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from stillguard.engine.draws import Draws
from stillguard.engine.observation import Features
from stillguard.engine.surrogates.denoiser import EVERY, Tap
from stillguard.engine.surrogates.perceptual import PerceptualNetwork
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from .dormant_parts import NarrowVGG
from .folder import Folder

SIGNED = 255 / 2
"""Levels in a unit of [-1,1], in which the codes count."""
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class VAE:
    """diffusers' autoencoder, unscaled."""

    def __init__(self, folder: Folder) -> None:
        self.network = AutoencoderKL(**folder.config("vae")).eval().requires_grad_(False)
        self.network.load_state_dict(folder.weights("vae"))

    def encode(self, image: Tensor) -> Tensor:
        return self.network.encode(image * 2 - 1).latent_dist.mean

    def posterior(self, image: Tensor) -> tuple[Tensor, Tensor]:
        found = self.network.encode(image * 2 - 1).latent_dist
        return found.mean, found.std

    def decode(self, latents: Tensor) -> Tensor:
        return self.network.decode(latents).sample / 2 + 0.5


class Encoder:
    """transformers' image encoder, given pictures as VGMShield's code gives them: resized by kornia, in [-1,1]."""

    def __init__(self, folder: Folder) -> None:
        self._config = CLIPVisionConfig(**folder.config("image_encoder"))
        self._network = CLIPVisionModelWithProjection(self._config).eval().requires_grad_(False)
        state = {name: value for name, value in folder.weights("image_encoder").items() if not name.endswith("position_ids")}
        self._network.load_state_dict(state)

    def embed(self, image: Tensor) -> Tensor:
        side = self._config.image_size
        sized = kornia.geometry.resize(image * 2 - 1, (side, side), interpolation="bicubic", align_corners=True, antialias=True)
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
        return self._network(pixel_values=((sized + 1) / 2 - mean) / std).image_embeds


class Model:
    """diffusers' UNet behind a prompt [1,T,D], predicting noise, or velocity. Levels are those of EVERY."""

    def __init__(self, unet: nn.Module, prompt: Tensor, scale: float, signal: Tensor, *, velocity: bool = False) -> None:
        self.unet, self.prompt, self.scale, self.signal, self.velocity = unet, prompt, scale, signal, velocity

    def scaled(self, latents: Tensor) -> Tensor:
        return latents * self.scale

    def noised(self, latents: Tensor, noise: Tensor, level: float) -> Tensor:
        alpha, sigma = self._mixture(level)
        return alpha * latents + sigma * noise

    def output_scale(self, level: float) -> float:
        alpha, sigma = self._mixture(level)
        return float(sigma if self.velocity else sigma / alpha)

    def estimate(self, noisy: Tensor, level: float, *, taps: Sequence[Tap] = (), negative: bool = False) -> Features:
        assert not taps
        assert not negative
        alpha, sigma = self._mixture(level)
        output = self.unet(noisy, EVERY.index(level), self.prompt.expand(len(noisy), -1, -1)).sample
        return (alpha * noisy - sigma * output if self.velocity else (noisy - sigma * output) / alpha,)

    def unscaled(self, latents: Tensor) -> Tensor:
        return latents / self.scale

    def repainted(self, noisy: Tensor, level: float, mask: Tensor, left: Tensor) -> Tensor:
        alpha, sigma = self._mixture(level)
        beside = torch.cat([mask, self.scaled(left)], 1).expand(len(noisy), -1, -1, -1)
        output = self.unet(torch.cat([noisy, beside], 1), EVERY.index(level), self.prompt.expand(len(noisy), -1, -1)).sample
        return (noisy - sigma * output) / alpha

    def _mixture(self, level: float) -> tuple[Tensor, Tensor]:
        signal = self.signal[EVERY.index(level)]
        return signal.sqrt(), (1 - signal).sqrt()


@dataclass
class Recorded:
    """The draws of evaluation k of the official code: tensors [evaluations,...] by what for they are asked."""

    given: Mapping[str, Tensor]
    k: int

    def integer(self, purpose: str, below: int) -> int:
        drawn = int(self.given[purpose][self.k])
        assert 0 <= drawn < below
        return drawn

    def normal(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        drawn = self.given[purpose][self.k]
        assert tuple(drawn.shape) == shape
        return drawn


def steps_of(official: Mapping[str, Tensor]) -> int:
    """The last one after which a picture was recorded."""
    return max(int(name[1:]) for name in official if name[0] == "x" and name[1:].isdigit())


def at_least(steps: int) -> float:
    """Share of elements that may differ, as the set's README suggests."""
    return 1e-3 if steps == 1 else 2e-2


def recorded(given: Mapping[str, Tensor], count: int) -> list[Draws]:
    return [Recorded(given, k) for k in range(count)]


class Parts:
    """Each made when it is first needed."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.inputs = folder.vectors("a_inputs")

    def picture(self, name: str) -> Tensor:
        """[1,3,H,W] in [0,1]."""
        return self.inputs[name].float() / 255

    @cached_property
    def vae(self) -> VAE:
        return VAE(self.folder)

    @cached_property
    def encoder(self) -> Encoder:
        return Encoder(self.folder)

    @cached_property
    def unet(self) -> nn.Module:
        unet = UNet2DConditionModel(**self.folder.config("unet")).eval().requires_grad_(False)
        unet.load_state_dict(self.folder.weights("unet"))
        return unet

    @cached_property
    def inpainting(self) -> Model:
        """Which repaints under the empty prompt."""
        unet = UNet2DConditionModel(**self.folder.config("inpaint_unet")).eval().requires_grad_(False)
        unet.load_state_dict(self.folder.weights("unet") | self.folder.weights("inpaint_conv_in"))
        return Model(unet, self.inputs["text.empty"], self.scale, self.signal)

    @cached_property
    def signal(self) -> Tensor:
        config = self.folder.config("schedulers")["ddim_sd15_inpaint"]
        return DDIMScheduler(**config).alphas_cumprod

    @cached_property
    def scale(self) -> float:
        return float(self.folder.config("vae")["scaling_factor"])

    def model(self, prompt: str, *, velocity: bool = False) -> Model:
        return Model(self.unet, self.inputs[f"text.{prompt}"], self.scale, self.signal, velocity=velocity)

    @cached_property
    def lpips(self) -> PerceptualNetwork:
        state = self.folder.weights("lpips")
        heads = []
        for index in range(sum(name.endswith(".model.1.weight") for name in state)):
            weight = state[f"lin{index}.model.1.weight"]
            heads.append(nn.Conv2d(weight.shape[1], 1, 1, bias=False))
            heads[-1].weight.data = weight
        return PerceptualNetwork(NarrowVGG(state), heads)
