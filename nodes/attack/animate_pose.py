"""Animate (Pose): AnimateAnyone as a victim."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io
from torch import Tensor

from ...engine.animators.pose_sampler import windows
from ...engine.draws import SEEDS
from ..bridge.attack.animate_pose import Animation, animate_images
from ..bridge.surrogates.animators import LoadedPoseAnimator, LoadedReferenceNet, check_pair
from ..bridge.surrogates.reference import ReferenceSockets
from ..sockets import PoseAnimatorSocket, ReferenceNetSocket

if TYPE_CHECKING:
    import comfy.clip_vision
    import comfy.sd


class AnimatePose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardAnimatePose",
            display_name="Animate (Pose)",
            category="stillguard/attack test",
            description="Attack your own picture: AnimateAnyone moves the person through a sequence of poses. Same seed, same video.",
            search_aliases=["animate anyone", "attack", "victim", "image to video", "i2v"],
            inputs=[
                PoseAnimatorSocket.Input("pose_animator", tooltip="From Load Pose Animator."),
                ReferenceNetSocket.Input("reference_net", tooltip="The ReferenceNet that belongs to it (AnimateAnyone's)."),
                io.Vae.Input("vae", tooltip="The VAE of Stable Diffusion 1.5, best vae-ft-mse-840000."),
                io.ClipVision.Input("clip_vision", tooltip="The image encoder of sd-image-variations (ViT-L/14)."),
                io.Image.Input("image", tooltip="The person: the clean or the protected picture. The first one of a batch is used."),
                io.Image.Input("pose", tooltip="Pose pictures, one for each frame of the video, from DWPose or SDPose."),
                io.Int.Input(
                    "seed", default=0, min=0, max=SEEDS - 1, control_after_generate=True, tooltip="Use one seed for clean and protected."
                ),
                io.Int.Input("steps", default=30, min=1, max=1000, tooltip="Denoising steps (DDIM)."),
                io.Float.Input(
                    "guidance", default=3.5, min=1.0, max=20.0, step=0.1, tooltip="Classifier-free guidance; 1 is off and faster."
                ),
                io.Int.Input(
                    "working_size", default=512, min=64, max=4096, step=8, tooltip="Longer side of the video; its aspect is the poses'."
                ),
                io.Int.Input(
                    "window", default=24, min=1, max=32, advanced=True, tooltip="Frames denoised together; longer videos take several."
                ),
                io.Int.Input(
                    "overlap", default=4, min=0, max=31, advanced=True, tooltip="Frames that neighbouring windows share at least."
                ),
            ],
            outputs=[io.Image.Output("frames", display_name="frames")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        pose_animator: LoadedPoseAnimator,
        reference_net: LoadedReferenceNet,
        vae: comfy.sd.VAE,
        clip_vision: comfy.clip_vision.ClipVisionModel,
        image: Tensor,
        pose: Tensor,
        seed: int,
        steps: int,
        guidance: float,
        working_size: int,
        window: int,
        overlap: int,
    ) -> io.NodeOutput:
        check_pair(reference_net, pose_animator)
        ReferenceSockets(vae, clip_vision, None).check(reference_net)
        windows(pose.shape[0], window, overlap)
        settings = Animation(steps, guidance, window, overlap, seed, working_size)
        victim = (pose_animator, reference_net, vae, clip_vision)
        return io.NodeOutput(animate_images(image, pose, victim, settings, node_id=cls.hidden.unique_id))


NODES: tuple[type[io.ComfyNode], ...] = (AnimatePose,)
