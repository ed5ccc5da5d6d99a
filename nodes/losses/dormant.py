"""Dormant's losses, equations 7 to 11, and their nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io
from torch import Tensor

from ...engine.animators.pose_animator import last_timesteps, noise_schedule
from ...engine.losses import dormant
from ...engine.losses.posed import PosedClip
from ...engine.weights.catalogue import catalogue
from ..bridge.model_files import choices, find_file
from ..bridge.protect.loss_spec import LossSpec
from ..bridge.surrogates.animators import LoadedPoseAnimator, LoadedReferenceNet, animator_view, check_pair
from ..bridge.surrogates.clip_vision import Preparation, clip_vision_view
from ..bridge.surrogates.perceptual import perceptual_view
from ..bridge.surrogates.reference import ReferenceSockets
from ..bridge.surrogates.run_surrogates import Surrogates
from ..bridge.surrogates.text import empty_prompt
from ..bridge.surrogates.vae import tiled_vae_view, vae_view
from ..inputs import VICTIMS_VAE, clip_input, clip_vision_input, reference_nets_input, vae_input, weight_input
from ..sockets import LossSocket, PoseAnimatorSocket, ReferenceNetSocket

if TYPE_CHECKING:
    import comfy.clip_vision
    import comfy.sd

CATEGORY = "stillguard/losses/dormant"


def vae_latent(weight: float, vae: comfy.sd.VAE, scale: float | None, *, tiled: bool = False) -> LossSpec:
    """tiled: the encoder in tiles, as Dormant's official code has it."""
    view = tiled_vae_view if tiled else vae_view
    return LossSpec("VAE Latent", weight, lambda surrogates: dormant.VAELatent(view(surrogates, vae), scale))


def clip_semantic(weight: float, clip_vision: comfy.clip_vision.ClipVisionModel, preparation: Preparation = "crop") -> LossSpec:
    return LossSpec(
        "CLIP Semantic", weight, lambda surrogates: dormant.CLIPSemantic(clip_vision_view(surrogates, clip_vision, preparation))
    )


def lpips_penalty(weight: float, backbone: str, threshold: float) -> LossSpec:
    """Raises ValueError where the file is missing: on the node where it is chosen, and again when it is read."""
    entry = catalogue()["lpips_vgg16"]
    find_file(entry, backbone)

    def make(surrogates: Surrogates) -> dormant.LPIPSPenalty:
        return dormant.LPIPSPenalty(perceptual_view(surrogates, find_file(entry, backbone)), threshold)

    return LossSpec("LPIPS Penalty", -weight, make, drives=False)


def reference_feature(weight: float, net: LoadedReferenceNet, sockets: ReferenceSockets) -> LossSpec:
    fixed = net.net.format.timestep
    timesteps = last_timesteps() if fixed is None else (fixed,)
    name = f"ReferenceNet {net.net.format.name}"
    return LossSpec(name, weight, lambda surrogates: dormant.ReferenceFeature(sockets.setup(net, surrogates), timesteps))


def frame_incoherence(
    weight: float,
    animator: LoadedPoseAnimator,
    net: LoadedReferenceNet,
    pose: Tensor,
    sockets: ReferenceSockets,
    *,
    frames: int,
    guidance: float = 3.5,
    alignment: float = 1.0,
    consistency: float = 1.0,
) -> LossSpec:
    """pose: IMAGE [1 or more,H,W,C] of the clean picture."""

    def make(surrogates: Surrogates) -> dormant.FrameIncoherence:
        check_pair(net, animator)
        clip = PosedClip(
            animator_view(surrogates, animator, frames=frames),
            sockets.setup(net, surrogates),
            pose.detach().clone().movedim(-1, 1)[:, :3].float().expand(-1, 3, -1, -1),
            noise_schedule().alphas_cumprod,
            last_timesteps(),
            frames,
            guidance,
            # Pure noise, as officially, leaves next to no gradient at the late steps that are drawn.
            noised=not sockets.official,
        )
        return dormant.FrameIncoherence(clip, alignment, consistency)

    return LossSpec("Frame Incoherence", weight, make, one_photo="the frame loss has the pose of one")


class VAELatentLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardVAELatentLoss",
            display_name="VAE Latent Loss",
            category=CATEGORY,
            description="Pushes the picture's latent away from that of the clean picture (Dormant, equation 7).",
            search_aliases=["dormant", "photoguard encoder", "cloak", "adversarial"],
            inputs=[
                io.Vae.Input("vae", tooltip=VICTIMS_VAE),
                weight_input(10.0),
                io.Float.Input(
                    "latent_scale",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.00001,
                    advanced=True,
                    tooltip="Factor on latents. 0 brings the clean latent's spread to 1, for any VAE; 0.18215 is the paper's for SD 1.5.",
                ),
            ],
            outputs=[LossSocket.Output("loss", display_name="loss")],
        )

    @classmethod
    def execute(cls, vae: comfy.sd.VAE, weight: float, latent_scale: float) -> io.NodeOutput:
        return io.NodeOutput((vae_latent(weight, vae, latent_scale or None),))


class CLIPSemanticLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardCLIPSemanticLoss",
            display_name="CLIP Semantic Loss",
            category=CATEGORY,
            description="Pushes what an image encoder recognises away from the clean picture (Dormant, equation 8).",
            search_aliases=["dormant", "clip vision", "semantic"],
            inputs=[
                io.ClipVision.Input("clip_vision", tooltip="A CLIP image encoder. It sees the centre square of the photo."),
                weight_input(10.0),
            ],
            outputs=[LossSocket.Output("loss", display_name="loss")],
        )

    @classmethod
    def execute(cls, clip_vision: comfy.clip_vision.ClipVisionModel, weight: float) -> io.NodeOutput:
        return io.NodeOutput((clip_semantic(weight, clip_vision),))


class LPIPSPenalty(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardLPIPSPenalty",
            display_name="LPIPS Penalty",
            category=CATEGORY,
            description="Holds the perceived difference from the clean picture near a threshold (Dormant, equation 11).",
            search_aliases=["dormant", "perceptual", "visibility"],
            inputs=[
                io.Combo.Input(
                    "backbone",
                    options=choices([catalogue()["lpips_vgg16"]]),
                    tooltip="VGG16 weights in models/stillguard; never downloaded for you.",
                ),
                weight_input(10.0),
                io.Float.Input(
                    "threshold",
                    default=0.0627,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    round=0.0001,
                    tooltip="LPIPS up to here costs nothing. The paper's value is 16/255.",
                ),
            ],
            outputs=[LossSocket.Output("loss", display_name="loss")],
        )

    @classmethod
    def execute(cls, backbone: str, weight: float, threshold: float) -> io.NodeOutput:
        return io.NodeOutput((lpips_penalty(weight, backbone, threshold),))


class ReferenceNetFeatureLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardReferenceNetFeatureLoss",
            display_name="ReferenceNet Feature Loss",
            category=CATEGORY,
            description="Pushes away what animators' ReferenceNets read in the picture (Dormant, equation 9).",
            search_aliases=["dormant", "animate anyone", "magicanimate", "magicpose", "reference net"],
            inputs=[
                reference_nets_input(),
                vae_input(),
                weight_input(100.0),
                clip_vision_input(optional=True),
                clip_input(),
            ],
            outputs=[LossSocket.Output("loss", display_name="loss")],
        )

    @classmethod
    def execute(
        cls,
        reference_nets: dict[str, LoadedReferenceNet | None],
        vae: comfy.sd.VAE,
        weight: float,
        clip_vision: comfy.clip_vision.ClipVisionModel | None = None,
        clip: comfy.sd.CLIP | None = None,
    ) -> io.NodeOutput:
        nets = [net for net in reference_nets.values() if net is not None]
        if not nets:
            raise ValueError("No ReferenceNet is connected: add a Load ReferenceNet node for each network that you want to count.")
        sockets = ReferenceSockets(vae, clip_vision, empty_prompt(clip, nets if weight else []))
        return io.NodeOutput(tuple(reference_feature(weight, net, sockets) for net in nets))


class FrameIncoherenceLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardFrameIncoherenceLoss",
            display_name="Frame Incoherence Loss",
            category=CATEGORY,
            description="Pushes an animator's frames away from the photo and from each other (Dormant, equation 10).",
            search_aliases=["dormant", "animate anyone", "temporal", "video"],
            inputs=[
                PoseAnimatorSocket.Input("pose_animator", tooltip="From Load Pose Animator."),
                ReferenceNetSocket.Input("reference_net", tooltip="The ReferenceNet that belongs to the animator (AnimateAnyone's)."),
                vae_input(),
                clip_vision_input(optional=False),
                io.Image.Input("pose", tooltip="Pose picture of the clean photo, from DWPose or SDPose; one, or as many as frames."),
                weight_input(1.0),
                io.Float.Input(
                    "alignment", default=1.0, min=0.0, max=100.0, step=0.01, tooltip="How much the frames' distance from the photo counts."
                ),
                io.Float.Input(
                    "consistency",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    tooltip="How much the frames' distance from each other counts.",
                ),
                io.Int.Input("frames", default=5, min=2, max=32, tooltip="Frames that the animator predicts; cost grows with them."),
                io.Float.Input(
                    "guidance",
                    default=3.5,
                    min=1.0,
                    max=20.0,
                    step=0.1,
                    advanced=True,
                    tooltip="Classifier-free guidance of the animator; 1 saves its unconditional pass.",
                ),
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
        pose: Tensor,
        weight: float,
        alignment: float,
        consistency: float,
        frames: int,
        guidance: float,
    ) -> io.NodeOutput:
        sockets = ReferenceSockets(vae, clip_vision, None)
        spec = frame_incoherence(
            weight,
            pose_animator,
            reference_net,
            pose,
            sockets,
            frames=frames,
            guidance=guidance,
            alignment=alignment,
            consistency=consistency,
        )
        return io.NodeOutput((spec,))


NODES: tuple[type[io.ComfyNode], ...] = (
    VAELatentLoss,
    CLIPSemanticLoss,
    LPIPSPenalty,
    ReferenceNetFeatureLoss,
    FrameIncoherenceLoss,
)
