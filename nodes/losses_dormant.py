"""Loss nodes of Dormant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from comfy_api.latest import io

from ..engine.losses import dormant
from ..engine.weights.catalogue import catalogue
from .model_files import file_choices, find_file
from .sockets import LossSocket

if TYPE_CHECKING:
    import comfy.clip_vision
    import comfy.sd

    from .bridge.surrogates import Surrogates

CATEGORY = "stillguard/losses/dormant"


def weight_input(default: float) -> io.Float.Input:
    tooltip = "How much this loss counts beside the others; 0 only shows its value."
    return io.Float.Input("weight", default=default, min=0.0, max=10000.0, step=0.01, tooltip=tooltip)


@dataclass(frozen=True)
class VAELatentSpec:
    drives: ClassVar[bool] = True
    edits_in_place: ClassVar[bool] = False
    weight: float
    vae: comfy.sd.VAE
    scale: float | None
    name: str = "VAE Latent"

    def build(self, surrogates: Surrogates) -> dormant.VAELatent:
        return dormant.VAELatent(surrogates.vae(self.vae), self.scale)


@dataclass(frozen=True)
class CLIPSemanticSpec:
    drives: ClassVar[bool] = True
    edits_in_place: ClassVar[bool] = True
    weight: float
    clip_vision: comfy.clip_vision.ClipVisionModel
    name: str = "CLIP Semantic"

    def build(self, surrogates: Surrogates) -> dormant.CLIPSemantic:
        return dormant.CLIPSemantic(surrogates.clip_vision(self.clip_vision))


@dataclass(frozen=True)
class LPIPSPenaltySpec:
    drives: ClassVar[bool] = False
    edits_in_place: ClassVar[bool] = False
    weight: float
    backbone: str
    threshold: float
    name: str = "LPIPS Penalty"

    def build(self, surrogates: Surrogates) -> dormant.LPIPSPenalty:
        return dormant.LPIPSPenalty(surrogates.perceptual(find_file(catalogue()["lpips_vgg16"], self.backbone)), self.threshold)


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
                io.Vae.Input("vae", tooltip="The VAE that the attacker's model uses, or one like it."),
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
        return io.NodeOutput((VAELatentSpec(weight, vae, latent_scale or None),))


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
        return io.NodeOutput((CLIPSemanticSpec(weight, clip_vision),))


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
                    options=file_choices(catalogue()["lpips_vgg16"]),
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
        # Looked for here as well as when it is read, so that the message stands on the node where the file is chosen.
        find_file(catalogue()["lpips_vgg16"], backbone)
        return io.NodeOutput((LPIPSPenaltySpec(-weight, backbone, threshold),))
