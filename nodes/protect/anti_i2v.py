"""Anti-I2V, the whole method in one node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ...engine.losses import dormant
from ...engine.spaces import RGB
from ...engine.surrogates.denoiser import HIGH, WHOLE
from ...engine.transforms import EoT
from ...engine.update import Sign
from ...engine.weights.catalogue import catalogue
from ..bridge.model_files import choices, find_file
from ..bridge.protect.loss_spec import Losses, LossSpec
from ..bridge.protect.run import Settings, SpaceSetup, chosen_space, protect_images
from ..bridge.surrogates.clip_vision import clip_vision_view
from ..bridge.surrogates.perceptual import perceptual_view
from ..bridge.surrogates.run_surrogates import Surrogates
from ..bridge.video.model import VideoSurrogate
from ..inputs import (
    LOW_MEMORY,
    eot_input,
    layers_input,
    mask_input,
    memory_input,
    protected_outputs,
    seed_input,
    space_input,
    steps_input,
    surrogate_input,
    timesteps_input,
    weight_input,
    working_size_input,
)
from ..losses.anti_i2v import denoising, representation_anchor, representation_collapse
from .dual_space import CHROMA_FIRST, dual_setup

if TYPE_CHECKING:
    import comfy.clip_vision

RECOMMENDED, PUBLISHED = "recommended", "reconstructed as published"


class AntiI2V(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardAntiI2V",
            display_name="Anti-I2V",
            category="stillguard/methods",
            description=(
                "The whole method of Anti-I2V (CVPR 2026) against image-to-video models, with your own model as the surrogate. Its code is "
                "not public: what is not known of it is ours. Protection is never promised: attack the result yourself."
            ),
            search_aliases=["protect", "cogvideox", "wan", "dit", "video", "preset", "dual space", "stillguard"],
            inputs=[
                io.Image.Input("image"),
                surrogate_input(),
                _profile_input(),
                io.Float.Input("budget", default=8.0, min=1.0, max=64.0, step=0.5, tooltip="Largest change of a channel in 8-bit levels."),
                steps_input(300),
                seed_input(),
                working_size_input(),
                memory_input(),
                weight_input(1.0, "collapse_weight"),
                weight_input(1.0, "anchor_weight"),
                weight_input(1.0, "denoising_weight"),
                io.Image.Input("unrelated", optional=True, tooltip="What the photo is taken for; a drawn landscape if not connected."),
                io.ClipVision.Input("clip_vision", optional=True, tooltip="For clip_weight of the published form."),
                eot_input("Makes the protection survive transformations. The paper's code draws some; which is not known."),
                mask_input(),
                space_input(),
                layers_input("Blocks of Representation Collapse by index from 0, such as 3, 27. Auto: the paper's rule."),
            ],
            outputs=protected_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        i2v_surrogate: VideoSurrogate,
        profile: dict[str, Any],
        budget: float,
        steps: int,
        seed: int,
        working_size: int,
        memory: str,
        layers: str,
        unrelated: Tensor | None = None,
        clip_vision: comfy.clip_vision.ClipVisionModel | None = None,
        eot: EoT | None = None,
        mask: Tensor | None = None,
        space: SpaceSetup | None = None,
        **weights: float,
    ) -> io.NodeOutput:
        if unrelated is not None and any(torch.equal(photo[..., :3], unrelated[0, ..., :3]) for photo in image):
            raise ValueError("The unrelated picture is the photo itself, which would be drawn back to where it was: connect another one.")
        if clip_vision is not None and profile["profile"] == RECOMMENDED:
            raise ValueError(f'`clip_vision` is connected, which "{RECOMMENDED}" does not read: disconnect it, or choose "{PUBLISHED}".')
        losses = anti_i2v_losses(i2v_surrogate, profile["timesteps"], unrelated, layers, weights)
        if profile["profile"] == PUBLISHED:
            losses += auxiliary_losses(clip_vision, profile["lpips_backbone"], profile["clip_weight"], profile["lpips_weight"])
        chosen = chosen_space(space or dual_setup(CHROMA_FIRST), RGB(budget), image, longest=working_size, steps=steps)
        settings = Settings(chosen, Sign(1.0), eot, working_size, steps, seed, memory == LOW_MEMORY)
        return io.NodeOutput(*protect_images(image, losses, settings, mask=mask, node_id=cls.hidden.unique_id))


def _profile_input() -> io.DynamicCombo.Input:
    auxiliary = [
        timesteps_input(WHOLE),
        weight_input(1.0, "clip_weight"),
        weight_input(1.0, "lpips_weight"),
        io.Combo.Input(
            "lpips_backbone",
            options=choices([catalogue()["lpips_vgg16"]]),
            tooltip="VGG16 weights in models/stillguard, for lpips_weight.",
        ),
    ]
    return io.DynamicCombo.Input(
        "profile",
        options=[io.DynamicCombo.Option(RECOMMENDED, [timesteps_input(HIGH)]), io.DynamicCombo.Option(PUBLISHED, auxiliary)],
        tooltip="As published the change is also pushed to be seen, by CLIP's and LPIPS's distances. Recommended leaves that out.",
    )


def anti_i2v_losses(surrogate: VideoSurrogate, timesteps: str, unrelated: Tensor | None, layers: str, weights: dict[str, float]) -> Losses:
    """IRC, IRA and -L_DM, each divided by its first value; those with a weight."""
    losses: list[LossSpec] = []
    if weights["collapse_weight"]:
        losses.append(representation_collapse(weights["collapse_weight"], surrogate, layers=layers, timesteps=timesteps))
    if weights["anchor_weight"]:
        losses.append(representation_anchor(weights["anchor_weight"], surrogate, surrogate.vae, unrelated, timesteps=timesteps))
    if weights["denoising_weight"]:
        losses.append(denoising(weights["denoising_weight"], surrogate, timesteps=timesteps))
    return tuple(losses)


def auxiliary_losses(
    clip_vision: comfy.clip_vision.ClipVisionModel | None, backbone: str, clip_weight: float, lpips_weight: float
) -> Losses:
    """L_aux: CLIP's distance and LPIPS, both pushed up. Raises ValueError, one sentence, where one with a weight lacks what it needs."""
    losses: list[LossSpec] = []
    if clip_weight:
        if clip_vision is None:
            raise ValueError("The published form needs an image encoder: connect clip_vision, or set clip_weight to 0.")
        encoder = clip_vision
        losses.append(
            LossSpec("CLIP", clip_weight, lambda surrogates: dormant.CLIPSemantic(clip_vision_view(surrogates, encoder)), scaled=True)
        )
    if lpips_weight:
        entry = catalogue()["lpips_vgg16"]
        find_file(entry, backbone)

        def lpips(surrogates: Surrogates) -> dormant.LPIPSPenalty:
            return dormant.LPIPSPenalty(perceptual_view(surrogates, find_file(entry, backbone)), threshold=0.0)

        losses.append(LossSpec("LPIPS", lpips_weight, lpips, scaled=True))
    return tuple(losses)


NODES: tuple[type[io.ComfyNode], ...] = (AntiI2V,)
