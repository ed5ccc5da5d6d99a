"""I2VGuard, the whole method in one node."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ...engine.spaces import RGB
from ...engine.surrogates.denoiser import WHOLE
from ...engine.transforms import EoT
from ...engine.update import Adam, Sign, Update
from ..bridge.protect.loss_spec import Losses
from ..bridge.protect.run import Settings, SpaceSetup, chosen_space, protect_images
from ..bridge.video.model import VideoSurrogate
from ..inputs import (
    LOW_MEMORY,
    eot_input,
    mask_input,
    memory_input,
    protected_outputs,
    reach_input,
    seed_input,
    space_input,
    steps_input,
    surrogate_input,
    target_input,
    timesteps_input,
    weight_input,
    working_size_input,
)
from ..losses.i2vguard import contrastive_frames, l2_penalty, target_latent, temporal_attention

# Of the order of what keeps 8 levels of change invisible; the paper gives none.
PENALTY = 100.0
# The largest budget that a picture's space takes: soft mode holds the picture back by the penalty.
SOFT_BUDGET = 64.0


class I2VGuard(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardI2VGuard",
            display_name="I2VGuard",
            category="stillguard/methods",
            description=(
                "The whole method of I2VGuard (Gui et al., CVPR 2025) against image-to-video models, with your own model as the surrogate. "
                "Protection is never promised: attack the result yourself."
            ),
            search_aliases=["protect", "svd", "wan", "cogvideox", "video", "preset", "stillguard"],
            inputs=[
                io.Image.Input("image"),
                surrogate_input(),
                _mode_input(),
                steps_input(),
                seed_input(),
                working_size_input(),
                memory_input(),
                weight_input(1.0, "target_weight"),
                weight_input(1.0, "contrast_weight"),
                weight_input(1.0, "attention_weight"),
                weight_input(PENALTY, "penalty_weight"),
                reach_input(),
                target_input(),
                eot_input("Makes the protection survive transformations. The paper has none."),
                mask_input(),
                space_input(),
                timesteps_input(optional=True),
            ],
            outputs=protected_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        i2v_surrogate: VideoSurrogate,
        mode: dict[str, object],
        steps: int,
        seed: int,
        working_size: int,
        memory: str,
        reach: float,
        target: Tensor | None = None,
        eot: EoT | None = None,
        mask: Tensor | None = None,
        space: SpaceSetup | None = None,
        timesteps: str = WHOLE,
        **weights: float,
    ) -> io.NodeOutput:
        pixels, update = _mode(mode)
        losses = i2vguard_losses(i2v_surrogate, target, reach, weights, timesteps=timesteps)
        chosen = chosen_space(space, pixels, image, longest=working_size, steps=steps)
        settings = Settings(chosen, update, eot, working_size, steps, seed, memory == LOW_MEMORY)
        return io.NodeOutput(*protect_images(image, losses, settings, mask=mask, node_id=cls.hidden.unique_id))


def _mode_input() -> io.DynamicCombo.Input:
    budget = io.Float.Input("budget", default=8.0, min=1.0, max=64.0, step=0.5, tooltip="Largest change of a channel in 8-bit levels.")
    step = io.Float.Input("step", default=1.0, min=0.01, max=64.0, step=0.01, tooltip="How far each pixel moves per step, in 8-bit levels.")
    rate = io.Float.Input("rate", default=0.25, min=0.01, max=64.0, step=0.01, tooltip="Adam's learning rate, in 8-bit levels.")
    return io.DynamicCombo.Input(
        "mode",
        options=[io.DynamicCombo.Option("hard", [budget, step]), io.DynamicCombo.Option("soft", [rate])],
        tooltip="Hard keeps within a budget. Soft, as the paper, has a penalty instead; its strength is that of the penalty and the steps.",
    )


def _mode(choice: dict[str, object]) -> tuple[RGB, Update]:
    if choice["mode"] == "soft":
        return RGB(SOFT_BUDGET, start_from="clean"), Adam(float(choice["rate"]))  # type: ignore[arg-type]
    return RGB(float(choice["budget"])), Sign(float(choice["step"]))  # type: ignore[arg-type]


def i2vguard_losses(
    surrogate: VideoSurrogate, target: Tensor | None, reach: float, weights: dict[str, float], *, timesteps: str = WHOLE
) -> Losses:
    """Those with a weight."""
    losses = (
        target_latent(weights["target_weight"], surrogate.vae, target),
        contrastive_frames(weights["contrast_weight"], surrogate, target, reach, timesteps=timesteps),
        temporal_attention(weights["attention_weight"], surrogate, timesteps=timesteps),
        l2_penalty(weights["penalty_weight"]),
    )
    return tuple(loss for loss in losses if loss.weight)


NODES: tuple[type[io.ComfyNode], ...] = (I2VGuard,)
