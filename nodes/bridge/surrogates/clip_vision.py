"""A CLIP_VISION socket with gradients."""

from __future__ import annotations

import copy
from typing import Literal

import comfy.clip_vision
import torch
from torch import Tensor, nn

from ....engine.draws import placed
from ....engine.picture import nearest_signed, resize
from ..memory.copies import independent_copy, keep
from ..memory.room import Pass
from .resident import EncoderCall, Resident
from .run_surrogates import Surrogates

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


def clip_vision_view(
    surrogates: Surrogates, clip_vision: comfy.clip_vision.ClipVisionModel, preparation: Preparation = "crop"
) -> DifferentiableCLIPVision:
    """The image encoder of a socket, given pictures in one of the ways."""

    def make(in_fp32: bool) -> Resident[DifferentiableCLIPVision]:
        view = DifferentiableCLIPVision(clip_vision)
        return Resident(
            "The image encoder", view, view.patcher, {"embedding": clip_vision_pass(view)}, encoder_call=view.encoder_call, keep=view.keep
        )

    view = surrogates.get(id(clip_vision), make).view
    return surrogates.once((id(clip_vision), preparation), lambda: view.prepared(preparation))


def clip_vision_pass(view: DifferentiableCLIPVision) -> Pass:
    return Pass("image encoder", (view.patcher.model,), lambda seen: (seen.embedding(view),))


class DifferentiableCLIPVision:
    """A CLIP_VISION socket with gradients: encode_image's projected embedding, its preprocessing included."""

    def __init__(self, clip_vision: comfy.clip_vision.ClipVisionModel, preparation: Preparation = "crop") -> None:
        if clip_vision.model_type == "siglip2_vision_model":
            raise ValueError("SigLIP 2 image encoders cannot be differentiated here: load a CLIP image encoder.")
        self._source = clip_vision.patcher
        self.patcher = independent_copy(self._source, change=lambda copied: _keep_norm_inputs(copied.model))
        self.encoder_call = EncoderCall()
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
        output: tuple[Tensor, Tensor, Tensor, Tensor | None] = self.encoder_call.run(
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
