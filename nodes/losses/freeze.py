"""Freeze Loss on a pose animator and on a video model: what Silencer asks of a talking head, where there is no audio."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io
from torch import Tensor

from ...engine.animators.pose_animator import last_timesteps, noise_schedule
from ...engine.losses.freeze import FrozenClip, FrozenVideo
from ...engine.losses.posed import PosedClip
from ...engine.surrogates.denoiser import TIMESTEPS, WHOLE
from ..bridge.protect.loss_spec import LossSpec
from ..bridge.surrogates.animators import LoadedPoseAnimator, LoadedReferenceNet, animator_view, check_pair
from ..bridge.surrogates.early_exit import Reads
from ..bridge.surrogates.reference import ReferenceSockets
from ..bridge.surrogates.run_surrogates import Surrogates
from ..bridge.video.model import VideoSurrogate, video_setup
from ..inputs import clip_vision_input, scaled_input, surrogate_input, timesteps_input, vae_input, weight_input
from ..sockets import LossSocket, PoseAnimatorSocket, ReferenceNetSocket

if TYPE_CHECKING:
    import comfy.clip_vision
    import comfy.sd

CATEGORY = "stillguard/losses/freeze"


def frozen_clip(
    weight: float, animator: LoadedPoseAnimator, net: LoadedReferenceNet, poses: Tensor, sockets: ReferenceSockets, *, frames: int
) -> LossSpec:
    """poses: IMAGE [frames or more,H,W,C] of a movement, from which each step draws a clip."""

    def make(surrogates: Surrogates) -> FrozenClip:
        check_pair(net, animator)
        clip = PosedClip(
            animator_view(surrogates, animator, frames=frames),
            sockets.setup(net, surrogates),
            poses.detach().clone().movedim(-1, 1)[:, :3].float().expand(-1, 3, -1, -1),
            noise_schedule().alphas_cumprod,
            last_timesteps(),
            frames,
            # Guidance multiplies what the picture changes, which here is what should go.
            guidance=1.0,
            noised=True,
            drawn=True,
        )
        return FrozenClip(clip)

    return LossSpec("Freeze (Pose)", -weight, make)


def frozen_video(weight: float, surrogate: VideoSurrogate, *, scaled: bool = True, timesteps: str = WHOLE) -> LossSpec:
    def make(surrogates: Surrogates) -> FrozenVideo:
        return FrozenVideo(video_setup(surrogates, surrogate, TIMESTEPS[timesteps]))

    return LossSpec("Freeze (Video)", -weight, make, scaled=scaled, reads=Reads(surrogate.model))


class FreezePoseLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardFreezePoseLoss",
            display_name="Freeze Loss (Pose)",
            category=CATEGORY,
            description="The frames of a pose animator stay the photo, whatever pose drives them (Silencer's idea, without audio).",
            search_aliases=["silencer", "nullifying", "still", "animate anyone", "disobedience"],
            inputs=[
                PoseAnimatorSocket.Input("pose_animator", tooltip="From Load Pose Animator."),
                ReferenceNetSocket.Input("reference_net", tooltip="The ReferenceNet that belongs to the animator (AnimateAnyone's)."),
                vae_input(),
                clip_vision_input(optional=False),
                io.Image.Input("poses", tooltip="Pose pictures of a movement, at least as many as frames; each step draws a piece of it."),
                weight_input(1.0),
                io.Int.Input("frames", default=5, min=2, max=32, tooltip="Frames that the animator predicts; cost grows with them."),
            ],
            outputs=[LossSocket.Output("loss", display_name="loss")],
        )

    @classmethod
    def execute(
        cls,
        pose_animator: LoadedPoseAnimator,
        reference_net: LoadedReferenceNet,
        vae: comfy.sd.VAE,
        clip_vision: comfy.clip_vision.ClipVisionModel,
        poses: Tensor,
        weight: float,
        frames: int,
    ) -> io.NodeOutput:
        sockets = ReferenceSockets(vae, clip_vision, None)
        return io.NodeOutput((frozen_clip(weight, pose_animator, reference_net, poses, sockets, frames=frames),))


class FreezeVideoLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardFreezeVideoLoss",
            display_name="Freeze Loss (Video)",
            category=CATEGORY,
            description="The video that a model foresees stays the photo in every frame (Silencer's idea, on image-to-video models).",
            search_aliases=["silencer", "nullifying", "still", "vid-freeze", "disobedience"],
            inputs=[surrogate_input(), weight_input(1.0), scaled_input(), timesteps_input(optional=True)],
            outputs=[LossSocket.Output("loss", display_name="loss")],
        )

    @classmethod
    def execute(cls, i2v_surrogate: VideoSurrogate, weight: float, scaled: bool, timesteps: str = WHOLE) -> io.NodeOutput:
        return io.NodeOutput((frozen_video(weight, i2v_surrogate, scaled=scaled, timesteps=timesteps),))


NODES: tuple[type[io.ComfyNode], ...] = (
    FreezePoseLoss,
    FreezeVideoLoss,
)
