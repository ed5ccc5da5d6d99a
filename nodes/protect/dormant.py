"""Dormant, the whole method in one node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io
from torch import Tensor

from ...engine.spaces import RGB
from ...engine.surrogates.reference_net import ANIMATE_ANYONE
from ...engine.surrogates.sd_unet import LATENT_SCALE
from ...engine.transforms import EoT
from ...engine.update import MomentumSign
from ...engine.weights.catalogue import catalogue
from ..bridge.model_files import choices
from ..bridge.protect.loss_spec import Losses, LossSpec
from ..bridge.protect.run import Settings, SpaceSetup, chosen_space, protect_images, squashed
from ..bridge.surrogates.reference import ReferenceSockets
from ..bridge.surrogates.text import empty_prompt
from ..inputs import (
    LOW_MEMORY,
    clip_input,
    clip_vision_input,
    eot_input,
    mask_input,
    memory_input,
    protected_outputs,
    reference_nets_input,
    seed_input,
    space_input,
    steps_input,
    vae_input,
    weight_input,
    working_size_input,
)
from ..losses.dormant import clip_semantic, frame_incoherence, lpips_penalty, reference_feature, vae_latent
from ..sockets import PoseAnimatorSocket

if TYPE_CHECKING:
    import comfy.clip_vision
    import comfy.sd

    from ..bridge.surrogates.animators import LoadedPoseAnimator, LoadedReferenceNet

# Dormant's defaults (its official code, protect_image.py); the penalty begins at 16/255.
WEIGHTS = {"vae_weight": 10.0, "clip_weight": 10.0, "reference_weight": 100.0, "frame_weight": 1.0, "lpips_weight": 10.0}
THRESHOLD = 16 / 255
FRAMES = 5


class Dormant(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardDormant",
            display_name="Dormant",
            category="stillguard/methods",
            description=(
                "The whole method of Dormant (Zhou et al., USENIX Security 2025) against pose-driven animation. Losses without weight "
                "cost nothing and need no models. Protection is never promised: attack the result yourself."
            ),
            search_aliases=["protect", "animate anyone", "cloak", "preset", "stillguard"],
            inputs=[
                io.Image.Input("image"),
                vae_input(),
                io.Combo.Input(
                    "profile",
                    options=["recommended", "reference"],
                    tooltip="Recommended keeps size and aspect and mends known faults; reference repeats the official code, on a square.",
                ),
                io.Float.Input(
                    "budget",
                    default=8.0,
                    min=1.0,
                    max=64.0,
                    step=0.5,
                    tooltip="Largest change of a channel in 8-bit levels. The official code's 16 is 8 of these.",
                ),
                steps_input(),
                seed_input(),
                working_size_input(),
                memory_input(),
                reference_nets_input(),
                *(weight_input(default, name) for name, default in WEIGHTS.items()),
                io.Combo.Input(
                    "lpips_backbone",
                    options=choices([catalogue()["lpips_vgg16"]]),
                    advanced=True,
                    tooltip="VGG16 weights in models/stillguard, for the penalty (lpips_weight).",
                ),
                clip_vision_input(optional=True),
                clip_input(),
                PoseAnimatorSocket.Input("pose_animator", optional=True, tooltip="From Load Pose Animator, for the frame loss."),
                io.Image.Input(
                    "pose", optional=True, tooltip="Pose picture of the clean photo, for the frame loss, from DWPose or SDPose."
                ),
                eot_input("Which transformations to survive; all five of the method when nothing is connected."),
                mask_input(),
                space_input(),
            ],
            outputs=[
                *protected_outputs(),
                io.Image.Output("clean", display_name="clean (as protected)"),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        vae: comfy.sd.VAE,
        profile: str,
        budget: float,
        steps: int,
        seed: int,
        working_size: int,
        memory: str,
        reference_nets: dict[str, LoadedReferenceNet | None],
        lpips_backbone: str,
        clip_vision: comfy.clip_vision.ClipVisionModel | None = None,
        clip: comfy.sd.CLIP | None = None,
        pose_animator: LoadedPoseAnimator | None = None,
        pose: Tensor | None = None,
        eot: EoT | None = None,
        mask: Tensor | None = None,
        space: SpaceSetup | None = None,
        **weights: float,
    ) -> io.NodeOutput:
        official = profile == "reference"
        if official and space is not None:
            raise ValueError('The official code changes pixels: set profile to "recommended", or disconnect `space`.')
        nets = [net for net in reference_nets.values() if net is not None]
        text = empty_prompt(clip, nets if weights["reference_weight"] else [])
        sockets = ReferenceSockets(vae, clip_vision, text, official)
        if pose is not None and weights["frame_weight"]:
            _check_aspect(image, pose)
        losses = dormant_losses(sockets, nets, pose_animator, pose, lpips_backbone, weights)
        pixels = RGB(budget, start_from="anywhere", truncated=True) if official else RGB(budget)
        chosen = chosen_space(space, pixels, image, longest=working_size, steps=steps)
        settings = Settings(chosen, MomentumSign(1.0, 0.5), eot or EoT(), working_size, steps, seed, memory == LOW_MEMORY)
        if official:
            image, mask = squashed(image, mask, working_size)
        return io.NodeOutput(*protect_images(image, losses, settings, mask=mask, node_id=cls.hidden.unique_id), image)


def _check_aspect(image: Tensor, pose: Tensor) -> None:
    """Raises ValueError for a pose picture that cannot be this photo's."""
    (height, width), (tall, wide) = image.shape[1:3], pose.shape[1:3]
    if not 0.9 < (wide * height) / (tall * width) < 1.1:
        raise ValueError(
            f"The pose picture is {wide}x{tall} and the photo {width}x{height}: make the pose from this very photo, or give it its aspect."
        )


def dormant_losses(
    sockets: ReferenceSockets,
    nets: list[LoadedReferenceNet],
    animator: LoadedPoseAnimator | None,
    pose: Tensor | None,
    backbone: str,
    weights: dict[str, float],
) -> Losses:
    """Eq 13. Raises ValueError, one sentence, where a loss with a weight lacks what it needs."""
    losses: list[LossSpec] = []
    if weights["vae_weight"]:
        losses.append(vae_latent(weights["vae_weight"], sockets.vae, LATENT_SCALE, tiled=sockets.official))
    if weights["clip_weight"]:
        if sockets.clip_vision is None:
            raise ValueError("The CLIP loss needs an image encoder: connect clip_vision, or set clip_weight to 0.")
        losses.append(clip_semantic(weights["clip_weight"], sockets.clip_vision, sockets.preparation))
    if weights["reference_weight"]:
        if not nets:
            raise ValueError("The ReferenceNet loss needs a network: connect a Load ReferenceNet, or set reference_weight to 0.")
        losses += [reference_feature(weights["reference_weight"], net, sockets) for net in nets]
    if weights["frame_weight"]:
        losses.append(_frame_loss(weights["frame_weight"], sockets, nets, animator, pose))
    if weights["lpips_weight"]:
        losses.append(lpips_penalty(weights["lpips_weight"], backbone, THRESHOLD))
    return tuple(losses)


def _frame_loss(
    weight: float, sockets: ReferenceSockets, nets: list[LoadedReferenceNet], animator: LoadedPoseAnimator | None, pose: Tensor | None
) -> LossSpec:
    if animator is None or pose is None:
        raise ValueError("The frame loss needs an animator and a pose picture: connect pose_animator and pose, or set frame_weight to 0.")
    own = [net for net in nets if net.net.format is ANIMATE_ANYONE]
    if not own:
        raise ValueError("The frame loss needs the animator's ReferenceNet: connect reference_unet.pth, or set frame_weight to 0.")
    return frame_incoherence(weight, animator, own[0], pose, sockets, frames=FRAMES)


NODES: tuple[type[io.ComfyNode], ...] = (Dormant,)
