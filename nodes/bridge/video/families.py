"""How each family of image-to-video models is told about a picture: by core's own conditioning node, run with gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import comfy.utils
import node_helpers
import torch
from comfy_extras import nodes_hunyuan, nodes_lt, nodes_video_model, nodes_wan
from torch import Tensor

from ..surrogates.denoiser import Conditioning


@dataclass(frozen=True)
class Request:
    """What a conditioning node is given. picture: IMAGE [1,H,W,3]. vae and clip_vision: stand-ins with gradients for the sockets."""

    picture: Tensor
    vae: Any
    clip_vision: Any
    positive: Conditioning
    negative: Conditioning
    width: int
    height: int
    length: int


@dataclass(frozen=True)
class Prepared:
    """What it answers. samples: the latents' shape, and in families that inpaint the picture itself; mask: 1 where these are sampled."""

    positive: Conditioning
    negative: Conditioning
    samples: Tensor
    mask: Tensor | None = None


@dataclass(frozen=True)
class Family:
    """One way to prepare a picture.

    models: classes in comfy.model_base. stride: a video has 1 + a multiple of it frames, or any number for 1. multiple: of both sides.
    clip: whether an image encoder is needed. text: whether a prompt's conditioning is. ahead: latent frames before the video's own, such as
    the reference.
    """

    name: str
    models: tuple[str, ...]
    prepare: Callable[[Request], Prepared]
    stride: int
    multiple: int
    clip: Literal["needed", "optional", "unused"]
    text: bool
    ahead: int = 0


def _svd(given: Request) -> Prepared:
    positive, negative, latent = nodes_video_model.SVD_img2vid_Conditioning().encode(
        given.clip_vision, given.picture, given.vae, given.width, given.height, given.length, 127, 6, 0.0
    )
    return Prepared(positive, negative, latent["samples"])


def _wan(given: Request) -> Prepared:
    seen = None if given.clip_vision is None else given.clip_vision.encode_image(given.picture)
    sides = (given.width, given.height, given.length, 1)
    out = nodes_wan.WanImageToVideo.execute(given.positive, given.negative, given.vae, *sides, given.picture, seen)
    return Prepared(out[0], out[1], out[2]["samples"])


def _wan_animate(given: Request) -> Prepared:
    seen = None if given.clip_vision is None else given.clip_vision.encode_image(given.picture)
    out = nodes_wan.WanAnimateToVideo.execute(
        given.positive,
        given.negative,
        given.vae,
        given.width,
        given.height,
        given.length,
        1,
        continue_motion_max_frames=5,
        video_frame_offset=0,
        reference_image=given.picture,
        clip_vision_output=seen,
    )
    return Prepared(out[0], out[1], out[2]["samples"])


def _cogvideox(given: Request) -> Prepared:
    """Core has the model and no conditioning node: the picture's latent, which the model pads with zeros for the other frames."""
    pixels = comfy.utils.common_upscale(given.picture.movedim(-1, 1), given.width, given.height, "bilinear", "center").movedim(1, -1)
    latent = given.vae.encode(pixels)
    samples = torch.zeros(1, latent.shape[1], (given.length - 1) // 4 + 1, *latent.shape[-2:])
    told = [node_helpers.conditioning_set_values(side, {"concat_latent_image": latent}) for side in (given.positive, given.negative)]
    return Prepared(told[0], told[1], samples)


def _ltx(given: Request) -> Prepared:
    sides = (given.width, given.height, given.length, 1)
    positive, negative, latent = nodes_lt.LTXVImgToVideo.execute(given.positive, given.negative, given.picture, given.vae, *sides, 1.0).args
    return Prepared(positive, negative, latent["samples"], latent["noise_mask"])


def _hunyuan(guidance: str) -> Callable[[Request], Prepared]:
    def prepare(given: Request) -> Prepared:
        sides = (given.width, given.height, given.length, 1)
        positive, latent = nodes_hunyuan.HunyuanImageToVideo.execute(given.positive, given.vae, *sides, guidance, given.picture).args
        return Prepared(positive, given.negative, latent["samples"], latent.get("noise_mask"))

    return prepare


_HUNYUAN_CONCAT = ("HunyuanVideoI2V", "HunyuanVideoSkyreelsI2V")
# A new family is one entry. Of several for one model, the first is chosen where nothing else is.
FAMILIES = (
    Family("SVD", ("SVD_img2vid",), _svd, 1, 8, "needed", text=False),
    Family("Wan", ("WAN21",), _wan, 4, 16, "optional", text=True),
    Family("Wan Animate", ("WAN22_Animate",), _wan_animate, 4, 16, "optional", text=True, ahead=1),
    Family("CogVideoX", ("CogVideoX",), _cogvideox, 4, 16, "unused", text=True),
    Family("LTX", ("LTXV",), _ltx, 8, 32, "unused", text=True),
    Family("Hunyuan (concat)", _HUNYUAN_CONCAT, _hunyuan("v1 (concat)"), 4, 16, "unused", text=True),
    Family("Hunyuan (replace)", ("HunyuanVideo", "HunyuanVideoI2V"), _hunyuan("v2 (replace)"), 4, 16, "unused", text=True),
)
