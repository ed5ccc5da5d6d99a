"""Differentiable views of ComfyUI's sockets."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import comfy.clip_vision
import comfy.model_management
import comfy.sd
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from ...engine.surrogates.perceptual import PerceptualNetwork, load_perceptual_network
from .autograd import independent_copy

# Outputs of its thirteen convolutions and rectifiers at the sizes where they lie, in fp32.
_VGG16_BYTES_PER_PIXEL = 2400


class DifferentiableVAE:
    """A VAE socket's encoder with gradients: what VAE.encode computes, without its tiling fallback and batching."""

    def __init__(self, vae: comfy.sd.VAE) -> None:
        vae.throw_exception_if_invalid()
        _refuse_missing_encoder(vae)
        self._vae = vae
        self.patcher = independent_copy(vae.patcher)

    @property
    def multiple(self) -> int:
        """Both sides of the picture must be multiples of it."""
        return int(self._vae.spacial_compression_encode())

    def memory_required(self, height: int, width: int) -> float:
        """Core's estimate of the bytes that encoding one picture takes."""
        shape = (1, 3, 1, height, width) if self._vae.latent_dim == 3 else (1, 3, height, width)
        return float(self._vae.memory_used_encode(shape, self._vae.vae_dtype))

    def _encode(self, image: Tensor) -> Tensor:
        pixels = self._vae.vae_encode_crop_pixels(image.movedim(1, -1)).movedim(-1, 1)
        pixels = pixels.unsqueeze(2) if self._vae.latent_dim == 3 else pixels
        pixels = self._vae.process_input(pixels).to(self._vae.vae_dtype)
        model = self.patcher.model
        if getattr(model, "comfy_has_chunked_io", False):
            latent = model.encode(pixels, device=self._vae.device)
        else:
            latent = model.encode(pixels.to(self._vae.device))
        latent = latent.to(device=image.device, dtype=torch.float32)
        formatted: Tensor = latent if self._vae.format_encoded is None else self._vae.format_encoded(latent)
        return formatted

    def encode(self, image: Tensor) -> Tensor:
        """[B,3,H,W] in [0,1] -> latent as core's VAE Encode returns it, fp32."""
        return with_scaled_gradient(self._encode, image) if self._vae.vae_dtype == torch.float16 else self._encode(image)


def with_scaled_gradient(function: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """function(image), with the gradient brought near 1 while it passes through the function, and back afterwards.

    For networks in fp16, where the small gradients of a mean over many elements would become zero.
    """
    if not (image.requires_grad and torch.is_grad_enabled()):
        return function(image)
    scales: list[Tensor] = []

    def enlarge(gradient: Tensor) -> Tensor:
        scales.append(torch.exp2(-gradient.abs().max().clamp_min(1e-30).log2().round()))
        return gradient * scales[-1]

    entry = image * 1.0
    entry.register_hook(lambda gradient: gradient / scales.pop())
    out = function(entry)
    out.register_hook(enlarge)
    return out


def _refuse_missing_encoder(vae: comfy.sd.VAE) -> None:
    """Core loads a decoder-only file without complaint and leaves the encoder's weights uninitialised."""
    reload = vae.patcher.cached_patcher_init
    has_encoder = any("encoder" in name for name in vae.first_stage_model.state_dict())
    if reload is None or not has_encoder or not isinstance(reload[1][0], str):
        return
    path = Path(reload[1][0])
    if path.suffix in (".safetensors", ".sft"):
        with safe_open(path, "pt") as file:
            names = list(file.keys())
    else:
        names = list(comfy.utils.load_torch_file(str(path), safe_load=True))
    # In a whole checkpoint, text encoders have that word in their names too.
    own = [name for name in names if name.startswith(("first_stage_model.", "vae."))] or names
    if not any("encoder" in name for name in own):
        raise ValueError(f"The VAE file {path.name} has a decoder only, and protecting needs the encoder: load the full VAE.")


class DifferentiableCLIPVision:
    """A CLIP_VISION socket with gradients: encode_image's projected embedding, its preprocessing included."""

    def __init__(self, clip_vision: comfy.clip_vision.ClipVisionModel) -> None:
        if clip_vision.model_type == "siglip2_vision_model":
            raise ValueError("SigLIP 2 image encoders cannot be differentiated here: load a CLIP image encoder.")
        self.patcher = independent_copy(clip_vision.patcher)
        self._size = clip_vision.image_size
        self._device = clip_vision.load_device
        self._mean, self._std = clip_vision.image_mean, clip_vision.image_std

    def embed(self, image: Tensor) -> Tensor:
        """[B,3,H,W] in [0,1] -> [B,D], equal to core's CLIP Vision Encode with centre crop."""
        output = self.patcher.model(pixel_values=self._preprocess(image.to(self._device)).float(), intermediate_output=-2)
        embedding: Tensor = output[2].to(image.device)
        return embedding

    def _preprocess(self, image: Tensor) -> Tensor:
        """Core's clip_preprocess, with the rounding to 8 bits passed straight through by the gradient."""
        size = self._size
        if tuple(image.shape[2:]) != (size, size):
            scale = size / min(image.shape[2:])
            grown = (round(scale * image.shape[2]), round(scale * image.shape[3]))
            image = F.interpolate(image, size=grown, mode="bicubic", antialias=True)
            top, left = (grown[0] - size) // 2, (grown[1] - size) // 2
            image = image[:, :, top : top + size, left : left + size]
        levels = (255.0 * image).clamp(0, 255)
        image = (levels + (levels.round() - levels).detach()) / 255.0
        mean, std = (torch.tensor(v, device=image.device, dtype=image.dtype).view(3, 1, 1) for v in (self._mean, self._std))
        return (image - mean) / std


@dataclass(frozen=True)
class _Resident:
    view: object
    patcher: ModelPatcher
    memory: Callable[[int, int], float]


class Surrogates:
    """The differentiable views of one run: one for each socket however many losses use it, resident together."""

    def __init__(self) -> None:
        self._residents: dict[object, _Resident] = {}

    def vae(self, vae: comfy.sd.VAE) -> DifferentiableVAE:
        def make() -> _Resident:
            view = DifferentiableVAE(vae)
            # A forward pass that keeps its graph takes about four times what core estimates for one without.
            return _Resident(view, view.patcher, lambda height, width: 4 * view.memory_required(height, width))

        return cast(DifferentiableVAE, self._once(id(vae), make))

    def clip_vision(self, clip_vision: comfy.clip_vision.ClipVisionModel) -> DifferentiableCLIPVision:
        def make() -> _Resident:
            view = DifferentiableCLIPVision(clip_vision)
            # Activations of a vision transformer at its one size are of the order of its weights.
            return _Resident(view, view.patcher, lambda height, width: float(view.patcher.model_size()))

        return cast(DifferentiableCLIPVision, self._once(id(clip_vision), make))

    def perceptual(self, backbone: Path) -> PerceptualNetwork:
        def make() -> _Resident:
            view = load_perceptual_network(backbone)
            patcher = ModelPatcher(view, comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device())
            return _Resident(view, patcher, lambda height, width: _VGG16_BYTES_PER_PIXEL * height * width)

        return cast(PerceptualNetwork, self._once(backbone, make))

    def _once(self, key: object, make: Callable[[], _Resident]) -> object:
        if key not in self._residents:
            self._residents[key] = make()
        return self._residents[key].view

    @property
    def multiple(self) -> int:
        """Working sizes must be a multiple of it."""
        views = [resident.view for resident in self._residents.values()]
        return math.lcm(8, *(view.multiple for view in views if isinstance(view, DifferentiableVAE)))

    def load(self, *, height: int, width: int) -> None:
        """Make all resident at once, with room for the largest: loading one later could evict another that autograd needs."""
        residents = self._residents.values()
        room = max((resident.memory(height, width) for resident in residents), default=0.0)
        comfy.model_management.load_models_gpu([resident.patcher for resident in residents], memory_required=room, force_full_load=True)
