"""What an image-to-video model is told of a picture: its family's own conditioning node, run with gradients."""

from __future__ import annotations

from dataclasses import dataclass

import comfy.utils
import torch
from torch import Tensor

from ..autograd import ordinary
from ..surrogates.denoiser import Conditioning, owned
from .families import Family, Prepared, Request
from .stand_ins import StandInCLIPVision, StandInVAE


@dataclass(frozen=True)
class VideoSize:
    """Pixels and frames of the surrogate's videos; width and height 0: those of the picture as the surrogates see it."""

    width: int
    height: int
    length: int


class Conditioner:
    """Runs a family's conditioning node on a picture with gradients."""

    def __init__(
        self,
        family: Family,
        vae: StandInVAE,
        clip_vision: StandInCLIPVision | None,
        positive: Conditioning,
        negative: Conditioning,
        size: VideoSize,
    ) -> None:
        self._family, self.vae, self._clip_vision, self._size = family, vae, clip_vision, size
        self._positive, self._negative = owned(positive), owned(negative)

    def prepare(self, image: Tensor) -> Prepared:
        """image [1,3,H,W] in [0,1]."""
        height, width = self.sides(image.shape[2], image.shape[3])
        request = Request(
            image.movedim(1, -1), self.vae, self._clip_vision, self._positive, self._negative, width, height, self._size.length
        )
        return self._family.prepare(request)

    def sides(self, height: int, width: int) -> tuple[int, int]:
        """Of the video, for a photo that is seen at this size."""

        def fitted(side: int) -> int:
            return max(1, round(side / self._family.multiple)) * self._family.multiple

        return self._size.height or fitted(height), self._size.width or fitted(width)

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        """Of the video's latents, for a photo that is seen at this size."""
        factor = self.vae.spacial_compression_encode()
        tall, wide = (side // factor for side in self.sides(height, width))
        channels, length = self.vae.latent_channels, self._size.length
        if self.vae.latent_dim == 2:
            return (length, channels, tall, wide)
        return (1, channels, self._family.ahead + (length - 1) // self._family.stride + 1, tall, wide)

    def still(self, image: Tensor) -> Tensor:
        """Latents of a video that shows the picture in every frame, as the VAE gives them."""
        return self.video(image.movedim(1, -1).repeat(self._size.length, 1, 1, 1), image)

    def video(self, frames: Tensor, image: Tensor) -> Tensor:
        """IMAGE [F,H,W,C] -> latents shaped like those that the model makes of a picture."""
        samples = self.prepare(image).samples
        height, width = (int(n) * self.vae.spacial_compression_encode() for n in samples.shape[-2:])
        pixels = comfy.utils.common_upscale(ordinary(frames).movedim(-1, 1)[:, :3].to(image), width, height, "bilinear", "center")
        latents = self.vae.encode(pixels.movedim(1, -1))
        if samples.ndim == 4:
            return latents
        return torch.cat([latents[:, :, :1].repeat(1, 1, self._family.ahead, 1, 1), latents], dim=2)
