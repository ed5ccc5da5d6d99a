"""Protections against editors that repaint a part of the photo, as the papers have them, in one node."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...engine.spaces import RGB, RGBL2
from ...engine.transforms import EoT
from ...engine.update import Normalised, Sign, Update
from ..bridge.protect.loss_spec import Losses
from ..bridge.protect.regions import check_region
from ..bridge.protect.run import Settings, SpaceSpec, protect_images, space_spec
from ..bridge.surrogates.diffusion import DiffusionSurrogate
from ..bridge.surrogates.inpainting import repaint_mask as checked_mask
from ..inputs import (
    LOW_MEMORY,
    eot_input,
    memory_input,
    protected_outputs,
    seed_input,
    steps_input,
    working_size_input,
)
from ..losses.inpainting import aim_input, early_noise, inpainting_surrogate_input, repaint_mask_input, repainted_picture, varied_input

GUARD, PHOTOGUARD, PHOTOGUARD_L2 = "DiffusionGuard", "PhotoGuard", "PhotoGuard (L2)"
# What norms of [-1,1] over 512x512 pixels are as root mean squares of 8-bit levels.
_PUBLISHED_VALUES = 3 * 512 * 512
PUBLISHED_RADIUS, PUBLISHED_STEP = (norm * 255 / 2 / _PUBLISHED_VALUES**0.5 for norm in (16.0, 1.0))


class InpaintingBaseline(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardInpaintingBaseline",
            display_name="Inpainting Baseline",
            category="stillguard/methods/baselines",
            description=(
                "DiffusionGuard, or PhotoGuard's diffusion attack: the part of the photo that an editor keeps is changed so that what his "
                "model repaints around it goes wrong. Protection is never promised: attack the result yourself."
            ),
            search_aliases=["protect", "photoguard", "diffusionguard", "immunize", "inpaint", "baseline", "preset", "stillguard"],
            inputs=[
                io.Image.Input("image"),
                inpainting_surrogate_input(),
                repaint_mask_input(),
                _method_input(),
                steps_input(200),
                seed_input(),
                working_size_input(),
                memory_input(),
                aim_input(),
                eot_input("Makes the protection survive transformations. The papers have none; PhotoGuard averages 10 samples."),
            ],
            outputs=protected_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        diffusion_surrogate: DiffusionSurrogate,
        repaint_mask: Tensor,
        method: dict[str, Any],
        steps: int,
        seed: int,
        working_size: int,
        memory: str,
        target: Tensor | None = None,
        eot: EoT | None = None,
    ) -> io.NodeOutput:
        losses = inpainting_losses(diffusion_surrogate, repaint_mask, method, target)
        check_region(repaint_mask, image, "repaint mask")
        space, update = _moves(method)
        settings = Settings(space, update, eot, working_size, steps, seed, memory == LOW_MEMORY)
        # What is repainted has no say, and stays as it is to the bit.
        kept = 1 - checked_mask(repaint_mask)[:, 0]
        return io.NodeOutput(*protect_images(image, losses, settings, mask=kept, node_id=cls.hidden.unique_id))


def inpainting_losses(surrogate: DiffusionSurrogate, mask: Tensor, method: dict[str, Any], target: Tensor | None) -> Losses:
    """Raises ValueError for a target where there is none to be led to, and what the losses raise."""
    if method["method"] != GUARD:
        return (repainted_picture(1.0, surrogate, mask, target),)
    if target is not None:
        raise ValueError(f"{GUARD} leads an editor to no target: disconnect `target`, or choose {PHOTOGUARD}.")
    return (early_noise(1.0, surrogate, mask, varied=method["mask_varies"]),)


def _method_input() -> io.DynamicCombo.Input:
    def budget(published: str) -> io.Float.Input:
        tooltip = f"Largest change of a channel in 8-bit levels; {published} as published."
        return io.Float.Input("budget", default=8.0, min=1.0, max=64.0, step=0.5, tooltip=tooltip)

    def step(default: float, tooltip: str) -> io.Float.Input:
        return io.Float.Input("step", default=default, min=0.01, max=64.0, step=0.01, tooltip=tooltip)

    moves = "How far each pixel moves per step, in 8-bit levels;"
    radius = io.Float.Input(
        "radius",
        default=round(PUBLISHED_RADIUS, 1),
        min=0.1,
        max=64.0,
        step=0.1,
        tooltip=(
            "Root mean square of the change in 8-bit levels, over the part that the editor keeps. Published: a norm of 16 in [-1,1] at 512 "
            f"pixels, {PUBLISHED_RADIUS:.2f} levels if he keeps all, and {2 * PUBLISHED_RADIUS:.2f} if a quarter."
        ),
    )
    return io.DynamicCombo.Input(
        "method",
        options=[
            io.DynamicCombo.Option(GUARD, [budget("8"), step(0.5, f"{moves} 0.5 as published."), varied_input()]),
            io.DynamicCombo.Option(PHOTOGUARD, [budget("12.75"), step(0.75, f"{moves} 0.765 as published.")]),
            io.DynamicCombo.Option(
                PHOTOGUARD_L2,
                [radius, step(round(PUBLISHED_STEP, 2), f"Root mean square of a step in 8-bit levels; {PUBLISHED_STEP:.3f} as published.")],
            ),
        ],
        tooltip="DiffusionGuard asks the model once a step, PhotoGuard four times and its VAE; L2 bounds the whole change, not each value.",
    )


def _moves(method: dict[str, Any]) -> tuple[SpaceSpec, Update]:
    step = float(method["step"])
    if method["method"] == PHOTOGUARD_L2:
        return space_spec(RGBL2(float(method["radius"]), start_from="clean")), Normalised(step)
    return space_spec(RGB(float(method["budget"]), start_from="clean")), Sign(step)


NODES: tuple[type[io.ComfyNode], ...] = (InpaintingBaseline,)
