"""Load ReferenceNet, Load Pose Animator and Animate (Pose)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io
from torch import Tensor

from ..engine.animate import windows
from ..engine.draws import SEEDS
from ..engine.weights.catalogue import catalogue
from .bridge.animate import Animation, animate_images
from .bridge.animators import LoadedPoseAnimator, LoadedReferenceNet, pose_animator_from, reference_net_from
from .bridge.progress import show_text
from .dormant_specs import Sockets, check_pair
from .model_files import choices, chosen_file
from .sockets import PoseAnimatorSocket, ReferenceNetSocket

if TYPE_CHECKING:
    import comfy.clip_vision
    import comfy.sd

CATEGORY = "stillguard/surrogates"
# Where users have Stable Diffusion 1.5 already.
ELSEWHERE = ("checkpoints", "diffusion_models")
NETS = ("animate_anyone_reference", "magic_animate_appearance", "magic_pose", "lab_reference")
# The animator's files: input, the published one in the catalogue, the laboratory's.
PARTS = {
    "denoising_unet": ("animate_anyone_denoiser", "lab_denoiser"),
    "motion_module": ("animate_anyone_motion", "lab_motion"),
    "pose_guider": ("animate_anyone_pose_guider", "lab_pose_guider"),
}


def precision_input() -> io.Combo.Input:
    tooltip = "Auto takes fp16 on a GPU that is fast with it, and fp32 elsewhere. On the CPU bf16 halves the memory, and is slow."
    return io.Combo.Input("precision", options=["auto", "fp32", "bf16", "fp16"], advanced=True, tooltip=tooltip)


class LoadReferenceNet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardLoadReferenceNet",
            display_name="Load ReferenceNet",
            category=CATEGORY,
            description="The network that a pose-driven animator reads a portrait with; its format is recognised.",
            search_aliases=["animate anyone", "magicanimate", "magicpose", "magicdance", "appearance encoder", "reference_unet"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=choices([catalogue()[name] for name in NETS], others=ELSEWHERE),
                    tooltip="AnimateAnyone, MagicAnimate or MagicPose from models/stillguard, the laboratory's, or any SD 1.5 model.",
                ),
                precision_input(),
            ],
            outputs=[ReferenceNetSocket.Output("reference_net", display_name="reference_net")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, file: str, precision: str) -> io.NodeOutput:
        denoisers = [name.rpartition("/")[2] for entry in PARTS["denoising_unet"] for name in catalogue()[entry].names]
        if file.replace("\\", "/").rpartition("/")[2] in denoisers:
            # Its keys are those of any SD 1.5 UNet, so that nothing but the name tells it.
            raise ValueError(f"{file} is an animator's denoiser: choose its reference_unet here, and this file in Load Pose Animator.")
        loaded = reference_net_from(chosen_file([catalogue()[name] for name in NETS], file, others=ELSEWHERE), precision)
        show_text(loaded.net.format.name, node_id=cls.hidden.unique_id)
        return io.NodeOutput(loaded)


class LoadPoseAnimator(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        def file(name: str, tooltip: str) -> io.Combo.Input:
            options = choices([catalogue()[entry] for entry in PARTS[name]])
            return io.Combo.Input(name, options=options, tooltip=f"{tooltip}, in models/stillguard.")

        return io.Schema(
            node_id="StillguardLoadPoseAnimator",
            display_name="Load Pose Animator",
            category=CATEGORY,
            description="AnimateAnyone's denoiser with its motion modules and pose guider.",
            search_aliases=["animate anyone", "denoising_unet", "motion module", "pose guider"],
            inputs=[
                file("denoising_unet", "The denoiser"),
                file("motion_module", "The motion modules"),
                file("pose_guider", "The pose guider"),
                precision_input(),
            ],
            outputs=[PoseAnimatorSocket.Output("pose_animator", display_name="pose_animator")],
        )

    @classmethod
    def execute(cls, denoising_unet: str, motion_module: str, pose_guider: str, precision: str) -> io.NodeOutput:
        names = {"denoising_unet": denoising_unet, "motion_module": motion_module, "pose_guider": pose_guider}
        paths = [chosen_file([catalogue()[entry] for entry in PARTS[part]], name) for part, name in names.items()]
        return io.NodeOutput(pose_animator_from(paths[0], paths[1], paths[2], precision))


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
        Sockets(vae, clip_vision, None).check(reference_net)
        windows(pose.shape[0], window, overlap)
        settings = Animation(steps, guidance, window, overlap, seed, working_size)
        victim = (pose_animator, reference_net, vae, clip_vision)
        return io.NodeOutput(animate_images(image, pose, victim, settings, node_id=cls.hidden.unique_id))
