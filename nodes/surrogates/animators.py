"""Load ReferenceNet and Load Pose Animator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from ...engine.weights.catalogue import catalogue
from ..bridge.model_files import choices, chosen_file
from ..bridge.progress import show_text
from ..bridge.surrogates.animators import pose_animator_from, reference_net_from
from ..inputs import precision_input
from ..sockets import PoseAnimatorSocket, ReferenceNetSocket

if TYPE_CHECKING:
    pass

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


NODES: tuple[type[io.ComfyNode], ...] = (
    LoadReferenceNet,
    LoadPoseAnimator,
)
