"""The animator run as a victim inside ComfyUI."""

from __future__ import annotations

from dataclasses import dataclass

import comfy.clip_vision
import comfy.latent_formats
import comfy.model_management
import comfy.sd
import comfy.utils
import latent_preview
import torch
from torch import Tensor

from ....engine.animators.pose_sampler import animate
from ....engine.conversions import in_colour
from ....engine.picture import check_finite, resize
from ....engine.surrogates.sd_unet import LATENT_SCALE
from ..autograd import ordinary
from ..memory.devices import whole
from ..surrogates.animators import LoadedPoseAnimator, LoadedReferenceNet

PREVIEW_SIDE = 512
Victim = tuple[LoadedPoseAnimator, LoadedReferenceNet, comfy.sd.VAE, comfy.clip_vision.ClipVisionModel]


@dataclass(frozen=True)
class Animation:
    """How to animate; see engine.animators.pose_sampler."""

    steps: int
    guidance: float
    window: int
    overlap: int
    seed: int
    longest: int


def animate_images(image: Tensor, pose: Tensor, victim: Victim, settings: Animation, *, node_id: str | None) -> Tensor:
    """IMAGE of a person and IMAGE [N,H,W,C] of poses -> IMAGE [N,h,w,3]; the longer side of the result is `settings.longest`.

    The person's picture takes the poses' aspect, as AnimateAnyone's own pipeline does it. The parts of the victim have to fit
    each other. Raises ValueError for pixels that are not numbers, ComfyUI's interruption when cancelled.
    """
    animator, net, vae, clip_vision = victim
    portrait, poses = (in_colour(pictures.movedim(-1, 1)) for pictures in (image[:1], pose))
    check_finite(portrait)
    check_finite(poses)
    size = _size(poses.shape[-2], poses.shape[-1], settings.longest)
    portrait, poses = (resize(pictures, size) for pictures in (portrait, poses))
    latent = vae.encode(portrait.movedim(1, -1)).float() * LATENT_SCALE
    tokens = clip_vision.encode_image(portrait.movedim(1, -1), crop=False).image_embeds.float()[:, None]
    # Out of inference mode: weights that are moved in it could not be differentiated through later.
    room = animator.memory_required(*size, frames=min(settings.window, poses.shape[0]))
    with torch.inference_mode(False), torch.no_grad(), whole([net.patcher, animator.patcher], room=room):
        latents = _denoise(animator, net, ordinary(latent), ordinary(tokens), ordinary(poses), settings, node_id)
    frames: Tensor = vae.decode(latents[0].movedim(1, 0) / LATENT_SCALE)
    return frames


def _size(height: int, width: int, longest: int) -> tuple[int, int]:
    """(height, width) of the video: the poses' aspect, sides that the VAE can halve three times."""
    scale = longest / max(height, width)
    tall, wide = (max(64, round(side * scale / 8) * 8) for side in (height, width))
    return tall, wide


def _denoise(
    animator: LoadedPoseAnimator,
    net: LoadedReferenceNet,
    latent: Tensor,
    tokens: Tensor,
    poses: Tensor,
    settings: Animation,
    node_id: str | None,
) -> Tensor:
    device = comfy.model_management.get_torch_device()
    latent, tokens = latent.to(device), tokens.to(device)
    bank = dict(zip(net.net.names, net.net(latent, 0, tokens), strict=True))
    # Frame by frame: at full size the guider's first layers are the largest thing here.
    guide = torch.cat([animator.animator.guide(frame[None].to(device)) for frame in poses])
    states = animate(
        animator.animator,
        tokens=tokens,
        bank=bank,
        pose=guide,
        steps=settings.steps,
        guidance=settings.guidance,
        window=settings.window,
        overlap=settings.overlap,
        seed=settings.seed,
    )
    previewer = latent_preview.Latent2RGBPreviewer(comfy.latent_formats.SD15().latent_rgb_factors)
    bar: comfy.utils.ProgressBar | None = None
    for state in states:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar = bar or comfy.utils.ProgressBar(state.total, node_id=node_id)
        middle = previewer.decode_latent_to_preview(state.estimate[:, :, state.estimate.shape[2] // 2])
        bar.update_absolute(state.done, preview=("JPEG", middle, PREVIEW_SIDE))
    return state.latents
