"""What core's conditioning nodes are given in place of the sockets: the same answers, with gradients."""

from __future__ import annotations

from typing import Any

import comfy.clip_vision
from torch import Tensor

from ..surrogates.clip_vision import DifferentiableCLIPVision
from ..surrogates.vae import DifferentiableVAE


class StandInVAE:
    """Answers `encode` as the VAE socket does, from a differentiable view; everything else the socket answers itself."""

    def __init__(self, view: DifferentiableVAE) -> None:
        self._view = view

    def encode(self, pixels: Tensor) -> Tensor:
        """[N,H,W,C]: N pictures, or the frames of one video where the VAE is one of videos; the latents where core's VAE puts them."""
        return self._view.encode_pixels(pixels).to(self._view.socket.output_device)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._view.socket, name)


class StandInCLIPVision:
    """Answers `encode_image` as the CLIP_VISION socket does, from a differentiable view."""

    def __init__(self, view: DifferentiableCLIPVision) -> None:
        self._view = view

    def encode_image(self, image: Tensor, crop: bool = True) -> comfy.clip_vision.Output:
        view = self._view.prepared("crop" if crop else "squash")
        last, penultimate, embeds, projected = view.outputs(image.movedim(-1, 1)[:, :3])
        # Where the encoder ran, not on core's intermediate device: models take them from anywhere, and a way through the host would make
        # it wait for the device at every step, there and back.
        output = comfy.clip_vision.Output()
        output["last_hidden_state"], output["image_embeds"] = last, embeds
        output["penultimate_hidden_states"], output["mm_projected"] = penultimate, projected
        return output
