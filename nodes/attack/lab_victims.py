"""Animate (Lab Victim)."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ...engine.animators.lab_victims.victim import NETWORKS
from ...engine.draws import SEEDS
from ..bridge.attack.lab_victims import animate_with_victim


class AnimateLabVictim(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardAnimateLabVictim",
            display_name="Animate (Lab Victim)",
            category="stillguard/attack test",
            description=(
                "Attack a picture with a small animator that ships with the pack and that no loss can be pointed at: does the effect "
                "reach networks that the protection was not made with?"
            ),
            search_aliases=["attack", "victim", "black box", "transfer", "laboratory"],
            inputs=[
                io.Image.Input("image", tooltip="The person: the clean or the protected picture. The first one of a batch is used."),
                io.Image.Input("pose", tooltip="Pose pictures, one for each frame, from DWPose or SDPose."),
                io.Combo.Input(
                    "victim",
                    options=list(NETWORKS),
                    tooltip="transformer reads the photo's tokens beside the frame's; unet has the photo as further channels.",
                ),
                io.Int.Input(
                    "seed", default=0, min=0, max=SEEDS - 1, control_after_generate=True, tooltip="Use one seed for clean and protected."
                ),
                io.Int.Input("steps", default=20, min=1, max=1000, tooltip="Denoising steps (Euler)."),
            ],
            outputs=[io.Image.Output("frames", display_name="frames")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, image: Tensor, pose: Tensor, victim: str, seed: int, steps: int) -> io.NodeOutput:
        return io.NodeOutput(animate_with_victim(image, pose, victim, steps=steps, seed=seed, node_id=cls.hidden.unique_id))


NODES: tuple[type[io.ComfyNode], ...] = (AnimateLabVictim,)
