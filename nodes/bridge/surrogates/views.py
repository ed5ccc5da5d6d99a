"""Differentiable views of ComfyUI's sockets."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import comfy.clip_vision
import comfy.sd
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from safetensors import safe_open
from torch import Tensor, nn

from ....engine.compute.half import with_scaled_gradient
from ....engine.draws import placed
from ....engine.picture import resize
from ....engine.surrogates.image_encoder import nearest_signed
from ..memory.copies import independent_copy, keep
from ..memory.precision import cast, copied_dtype


@dataclass
class Turn:
    """How a network is run: at once, or where it takes turns on the device with others, when they have left it."""

    run: Callable[[Callable[[], Any]], Any] = lambda run: run()


class DifferentiableVAE:
    """A VAE socket's encoder with gradients: what VAE.encode computes, without its tiling fallback and batching.

    Up to rounding where the copy computes in another precision than the socket's, see copied_dtype. single: in fp32.
    """

    def __init__(self, vae: comfy.sd.VAE, *, single: bool = False) -> None:
        vae.throw_exception_if_invalid()
        _refuse_missing_encoder(vae)
        self.socket = vae
        self.dtype = torch.float32 if single else copied_dtype(vae.vae_dtype, vae.device)
        self.patcher = independent_copy(vae.patcher, form=self.dtype, shape=self._cast)
        self.turn = Turn()

    def _cast(self, copied: ModelPatcher) -> None:
        if self.dtype != self.socket.vae_dtype:
            cast(copied.model, self.socket.vae_dtype, self.dtype)
            # Core keeps the size that it has seen.
            copied.size = 0

    def keep(self) -> None:
        """Leave the copy for the next run."""
        keep(self.socket.patcher, self.dtype, self.patcher)

    @property
    def multiple(self) -> int:
        """Both sides of the picture must be multiples of it."""
        return int(self.socket.spacial_compression_encode())

    def _encode(self, image: Tensor, *, frames: bool = False) -> Tensor:
        pixels = self.socket.vae_encode_crop_pixels(image.movedim(1, -1)).movedim(-1, 1)
        if self.socket.latent_dim == 3:
            pixels = pixels.movedim(1, 0)[None] if frames and not self.socket.not_video else pixels.unsqueeze(2)
        pixels = self.socket.process_input(pixels).to(self.dtype)
        model = self.patcher.model
        if getattr(model, "comfy_has_chunked_io", False):
            latent = self.turn.run(lambda: model.encode(pixels, device=self.socket.device))
        else:
            latent = self.turn.run(lambda: model.encode(pixels.to(self.socket.device)))
        latent = latent.to(device=image.device, dtype=torch.float32)
        formatted: Tensor = latent if self.socket.format_encoded is None else self.socket.format_encoded(latent)
        return formatted

    def encode(self, image: Tensor) -> Tensor:
        """[B,3,H,W] in [0,1] -> latent as core's VAE Encode returns it, fp32."""
        if self.dtype != torch.float16:
            return self._encode(image)
        (latent,) = with_scaled_gradient(lambda image: (self._encode(image),), image, network=self)
        return latent

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """What VAE.encode answers to IMAGE [N,H,W,C]: N latents, or [1,C,F,h,w] of one video where the VAE is one of videos."""
        frames = pixels.movedim(-1, 1)
        if self.dtype != torch.float16:
            return self._encode(frames, frames=True)
        (latent,) = with_scaled_gradient(lambda frames: (self._encode(frames, frames=True),), frames, network=self)
        return latent

    def decode(self, latent: Tensor) -> Tensor:
        """Latent [B,C,h,w] of a VAE of pictures -> [B,3,H,W] as core's VAE Decode returns it, fp32: most VAEs clamp to [0,1].

        Raises ValueError for VAEs of videos and of anything but colours.
        """
        refuse_other_than_pictures(self.socket)
        if self.dtype != torch.float16:
            return self._decode(latent)
        (image,) = with_scaled_gradient(lambda latent: (self._decode(latent),), latent, network=self)
        return image

    def _decode(self, latent: Tensor) -> Tensor:
        latents = latent.to(device=self.socket.device, dtype=self.dtype)
        pixels = self.turn.run(lambda: self.patcher.model.decode(latents))
        # A copy, as core makes one: what follows works in place.
        formatted: Tensor = self.socket.process_output(pixels.to(device=latent.device, dtype=torch.float32, copy=True))
        return formatted


def refuse_other_than_pictures(vae: comfy.sd.VAE) -> None:
    """Raises ValueError for a VAE of videos, audio or another number of channels."""
    if vae.latent_dim != 2 or vae.output_channels != 3:
        kind = "videos" if vae.latent_dim == 3 else "something other than pictures"
        raise ValueError(
            f"This VAE is one of {kind}, and here the VAE of an image model is needed: connect Stable Diffusion's, for instance."
        )


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


Preparation = Literal["crop", "squash", "official"]
"""How a picture becomes an encoder's square: its centre, as core does; all of it with another aspect, as animators do; or as
Dormant's official code does, see nearest_signed."""


def _keep_norm_inputs(model: nn.Module) -> None:
    """Core's CLIP layers add to a tensor in place that a LayerNorm has read and needs again in the backward pass: let it read a copy."""
    for part in model.modules():
        if isinstance(part, nn.LayerNorm):
            part.register_forward_pre_hook(lambda module, inputs: (inputs[0].clone(), *inputs[1:]))


def embedding_width(clip_vision: comfy.clip_vision.ClipVisionModel) -> int | None:
    """Numbers in a projected embedding; None where the network has no projection that tells."""
    weight = getattr(getattr(clip_vision.model, "visual_projection", None), "weight", None)
    return None if weight is None else int(weight.shape[0])


class DifferentiableCLIPVision:
    """A CLIP_VISION socket with gradients: encode_image's projected embedding, its preprocessing included."""

    def __init__(self, clip_vision: comfy.clip_vision.ClipVisionModel, preparation: Preparation = "crop") -> None:
        if clip_vision.model_type == "siglip2_vision_model":
            raise ValueError("SigLIP 2 image encoders cannot be differentiated here: load a CLIP image encoder.")
        self._source = clip_vision.patcher
        self.patcher = independent_copy(self._source, shape=lambda copied: _keep_norm_inputs(copied.model))
        self.turn = Turn()
        self._size, self._preparation = clip_vision.image_size, preparation
        self._device = clip_vision.load_device
        self._mean, self._std = clip_vision.image_mean, clip_vision.image_std

    def keep(self) -> None:
        """Leave the copy for the next run."""
        keep(self._source, None, self.patcher)

    def prepared(self, preparation: Preparation) -> DifferentiableCLIPVision:
        """The same network, given pictures in another way."""
        twin = copy.copy(self)
        twin._preparation = preparation
        return twin

    def embed(self, image: Tensor) -> Tensor:
        """[B,3,H,W] in [0,1] -> [B,D], fp32, equal to core's CLIP Vision Encode with crop "center" or "none"."""
        embedding: Tensor = self.outputs(image)[2].float().to(image.device)
        return embedding

    def outputs(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """[B,3,H,W] -> last and last but one hidden states [B,T,W], projected embedding [B,D], and what else core's network gives."""
        pixels = self._preprocess(image.to(self._device)).float()
        output: tuple[Tensor, Tensor, Tensor, Tensor | None] = self.turn.run(
            lambda: self.patcher.model(pixel_values=pixels, intermediate_output=-2)
        )
        return output

    def _preprocess(self, image: Tensor) -> Tensor:
        """Core's clip_preprocess, with the rounding to 8 bits passed straight through by the gradient."""
        size = self._size
        if self._preparation == "official":
            return nearest_signed(image, size)
        if tuple(image.shape[2:]) != (size, size):
            grown = (size, size)
            if self._preparation == "crop":
                scale = size / min(image.shape[2:])
                grown = (round(scale * image.shape[2]), round(scale * image.shape[3]))
            image = resize(image, grown, by="bicubic")
            top, left = (grown[0] - size) // 2, (grown[1] - size) // 2
            image = image[:, :, top : top + size, left : left + size]
        levels = (255.0 * image).clamp(0, 255)
        image = (levels + (levels.round() - levels).detach()) / 255.0
        mean, std = (placed(torch.tensor(v), image).view(3, 1, 1) for v in (self._mean, self._std))
        return (image - mean) / std
