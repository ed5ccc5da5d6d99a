"""Animate (Talking Head): Hallo as a victim."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io
from torch import Tensor

from ...engine.animators.talking_head.sampler import CLIP
from ..bridge.attack.animate_talking_head import Talking, animate_talking_head
from ..bridge.surrogates.speech import heard
from ..bridge.surrogates.talking_face import FaceSockets
from ..bridge.surrogates.talking_head import LoadedTalkingHead, check_vae
from ..inputs import attack_seed_input, talking_inputs

if TYPE_CHECKING:
    import comfy.sd

RECOMMENDED, REFERENCE = "recommended", "reference"


class AnimateTalkingHead(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardAnimateTalkingHead",
            display_name="Animate (Talking Head)",
            category="stillguard/attack test",
            description="Attack your own picture: Hallo makes the person say what it hears, 25 frames a second. Same seed, same video.",
            search_aliases=["hallo", "attack", "victim", "audio", "speech", "lip sync", "image to video"],
            inputs=[
                *talking_inputs("The portrait: the clean or the protected picture."),
                attack_seed_input(),
                io.Int.Input("steps", default=40, min=1, max=1000, tooltip="Denoising steps (DDIM) of each clip."),
                io.Float.Input(
                    "guidance", default=3.5, min=1.0, max=20.0, step=0.1, tooltip="Classifier-free guidance; 1 is off and faster."
                ),
                io.Int.Input(
                    "working_size", default=512, min=64, max=4096, step=8, tooltip="Longer side of the video; its aspect is the picture's."
                ),
                io.Combo.Input(
                    "profile",
                    options=[RECOMMENDED, REFERENCE],
                    advanced=True,
                    tooltip="Reference: every second frame is guided by the wrong features, as in Hallo's published code.",
                ),
            ],
            outputs=[io.Image.Output("frames", display_name="frames")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        talking_head: LoadedTalkingHead,
        vae: comfy.sd.VAE,
        audio_encoder: Any,
        audio: Any,
        image: Tensor,
        seed: int,
        steps: int,
        guidance: float,
        working_size: int,
        profile: str,
        **face: Any,
    ) -> io.NodeOutput:
        check_vae(vae)
        told = FaceSockets(**face).face(image, talking_head.head)
        speech = heard(audio_encoder, audio, talking_head.head, multiple=CLIP)
        settings = Talking(steps, guidance, seed, working_size, as_published=profile == REFERENCE)
        return io.NodeOutput(animate_talking_head(told, speech, talking_head, vae, settings, node_id=cls.hidden.unique_id))


NODES: tuple[type[io.ComfyNode], ...] = (AnimateTalkingHead,)
