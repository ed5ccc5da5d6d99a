"""Random Noise (Baseline)."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ...engine.baselines import random_signs
from ...engine.draws import SEEDS
from ..bridge.protect.run import matching_mask
from ..inputs import mask_input


class RandomNoise(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardRandomNoise",
            display_name="Random Noise (Baseline)",
            category="stillguard/attack test",
            description="Random noise of a budget, no protection: attack it beside the protected picture to see what the method adds.",
            search_aliases=["noise", "baseline", "control", "compare"],
            inputs=[
                io.Image.Input("image", tooltip="The clean picture."),
                io.Float.Input(
                    "budget", default=8.0, min=1.0, max=64.0, step=0.5, tooltip="Change of each channel in 8-bit levels, as in Protect."
                ),
                io.Int.Input("seed", default=0, min=0, max=SEEDS - 1, control_after_generate=True, tooltip="Same seed, same noise."),
                mask_input(),
            ],
            outputs=[io.Image.Output("noisy", display_name="noisy")],
        )

    @classmethod
    def execute(cls, image: Tensor, budget: float, seed: int, mask: Tensor | None = None) -> io.NodeOutput:
        pictures = image.movedim(-1, 1)
        allowed = None if mask is None else matching_mask(mask, pictures, budget).to(pictures.device)
        return io.NodeOutput(random_signs(pictures, budget, seed=seed, mask=allowed).movedim(1, -1))


NODES: tuple[type[io.ComfyNode], ...] = (RandomNoise,)
