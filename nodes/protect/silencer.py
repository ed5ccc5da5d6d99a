"""Silencer, the whole method in one node."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io
from torch import Tensor

from ...engine.spaces import RGB
from ...engine.surrogates.sd_unet import LATENT_SCALE
from ...engine.transforms import EoT
from ...engine.update import AdamW, Sign
from ..bridge.protect.latent import LatentSetup
from ..bridge.protect.loss_spec import Losses
from ..bridge.protect.run import Settings, protect_images, space_spec, squashed
from ..bridge.surrogates.speech import heard
from ..bridge.surrogates.talking_face import FaceSockets
from ..bridge.surrogates.talking_head import LoadedTalkingHead, check_vae
from ..inputs import (
    LOW_MEMORY,
    eot_input,
    mask_input,
    memory_input,
    protected_outputs,
    seed_input,
    steps_input,
    talking_inputs,
    working_size_input,
)
from ..losses.i2vguard import target_latent
from ..losses.silencer import audio_nullifying

if TYPE_CHECKING:
    import comfy.sd

FIRST, BOTH = "first", "first, then second"
# The paper's 10 is for latents times 0.18215.
ANCHOR = 10 * LATENT_SCALE**2
# Of the second stage's steps, after how many the face stays as it is: the paper's 100 of 200.
FROZEN_AFTER = 0.5


class Silencer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardSilencer",
            display_name="Silencer",
            category="stillguard/methods",
            description=(
                "The whole method of Silencer (Yuan et al., CVPR 2025) against talking heads driven by audio. "
                "Protection is never promised: attack the result yourself."
            ),
            search_aliases=["protect", "hallo", "talking head", "audio", "lip sync", "preset", "stillguard"],
            inputs=[
                *talking_inputs("The photo: one portrait."),
                io.Combo.Input(
                    "profile",
                    options=["recommended", "reference"],
                    tooltip="Recommended keeps size and aspect, against Hallo as it generates; reference repeats the official code.",
                ),
                io.Combo.Input(
                    "stages",
                    options=[FIRST, BOTH],
                    tooltip="The second stage changes latents instead of pixels, beginning anew. It has no budget and is easier to see.",
                ),
                io.Float.Input(
                    "budget",
                    default=8.0,
                    min=1.0,
                    max=64.0,
                    step=0.5,
                    tooltip="Largest change of a channel in 8-bit levels, of the first stage. The paper's is 16.",
                ),
                steps_input(),
                io.Int.Input("second_steps", default=200, min=2, max=100000, tooltip="Steps of the second stage; the paper's are 200."),
                seed_input(),
                working_size_input(),
                memory_input(),
                eot_input("Makes the protection survive transformations. The paper has none."),
                mask_input(),
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
        talking_head: LoadedTalkingHead,
        vae: comfy.sd.VAE,
        audio_encoder: Any,
        audio: Any,
        image: Tensor,
        profile: str,
        stages: str,
        budget: float,
        steps: int,
        second_steps: int,
        seed: int,
        working_size: int,
        memory: str,
        eot: EoT | None = None,
        mask: Tensor | None = None,
        **sockets: Any,
    ) -> io.NodeOutput:
        check_vae(vae)
        official, node_id = profile == "reference", cls.hidden.unique_id
        face = FaceSockets(**sockets).face(image, talking_head.head)
        speech = heard(audio_encoder, audio, talking_head.head).features
        losses: Losses = (audio_nullifying(1.0, talking_head, vae, speech, face, published=official),)
        if official:
            image, mask = squashed(image, mask, working_size)
        pixels = RGB(budget, truncated=official)
        settings = Settings(space_spec(pixels), Sign(1.0, "linear"), eot, working_size, steps, seed, memory == LOW_MEMORY)
        made = protect_images(image, losses, settings, mask=mask, node_id=node_id)
        if stages == BOTH:
            # The face's mask in the size of what is protected.
            region = squashed(face.region.movedim(1, -1), None, working_size)[0][..., 0] if official else face.region[0]
            space = LatentSetup(vae, start_from="clean", region=region, at=int(second_steps * FROZEN_AFTER))
            space = replace(space, form="decoded") if official else space
            losses = (*losses, target_latent(ANCHOR, vae, made[0], scaled=False))
            chosen = space.spec(image, pixels=pixels, longest=working_size, steps=second_steps)
            settings = Settings(chosen, AdamW(1.0), eot, working_size, second_steps, seed, memory == LOW_MEMORY)
            made = protect_images(image, losses, settings, mask=mask, node_id=node_id)
        return io.NodeOutput(*made, image)


NODES: tuple[type[io.ComfyNode], ...] = (Silencer,)
