"""Combine Losses and Protect."""

from __future__ import annotations

from typing import get_args

from comfy_api.latest import io
from torch import Tensor

from ...engine.spaces import RGB
from ...engine.transforms import EoT
from ...engine.update import Adam, AdamW, MomentumSign, Normalised, Schedule, Sign, Update
from ..bridge.protect.loss_spec import Losses
from ..bridge.protect.run import Settings, SpaceSetup, chosen_space, protect_images
from ..inputs import (
    LOW_MEMORY,
    eot_input,
    mask_input,
    memory_input,
    protected_outputs,
    seed_input,
    space_input,
    steps_input,
    working_size_input,
)
from ..sockets import LossSocket

CATEGORY = "stillguard"
NO_LOSS = "No loss is connected to Protect: add a loss node such as VAE Latent Loss and connect its output to 'loss'."


class CombineLosses(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        template = io.Autogrow.TemplatePrefix(LossSocket.Input("loss"), prefix="loss", min=1, max=16)
        return io.Schema(
            node_id="StillguardCombineLosses",
            display_name="Combine Losses",
            category=CATEGORY,
            description="One objective out of several losses; each keeps its own weight.",
            search_aliases=["objective", "sum losses"],
            inputs=[io.Autogrow.Input("losses", template=template)],
            outputs=[LossSocket.Output("loss", display_name="loss")],
        )

    @classmethod
    def execute(cls, losses: dict[str, Losses | None]) -> io.NodeOutput:
        return io.NodeOutput(tuple(spec for group in losses.values() if group is not None for spec in group))


def _update_input() -> io.DynamicCombo.Input:
    def step(tooltip: str) -> io.Float.Input:
        return io.Float.Input("step", default=1.0, min=0.01, max=64.0, step=0.01, tooltip=tooltip)

    latents = "in a latent space in hundredths of its standard deviation, in a chroma space in units of a* and b*."
    fixed = step(f"How far each pixel moves per step, in 8-bit levels; {latents}")
    mean = step(f"Root mean square of a step, in 8-bit levels; {latents}")
    rate = step(f"Adam's learning rate, in 8-bit levels; {latents}")
    shrink = io.Float.Input("weight_decay", default=0.01, min=0.0, max=1.0, step=0.001, tooltip="Times the learning rate, per step.")
    decay = io.Float.Input("decay", default=0.5, min=0.0, max=2.0, step=0.01, tooltip="Weight of the past direction beside the new one.")
    return io.DynamicCombo.Input(
        "update",
        options=[
            io.DynamicCombo.Option("momentum sign", [fixed, decay]),
            io.DynamicCombo.Option("sign", [fixed]),
            io.DynamicCombo.Option("adam", [rate]),
            io.DynamicCombo.Option("adamw", [rate, shrink]),
            io.DynamicCombo.Option("normalised", [mean]),
        ],
        tooltip=(
            "How a gradient becomes a step: momentum sign (MI-FGSM, Dormant), plain sign (PGD), Adam, AdamW (for latents), or the gradient "
            "itself at one length."
        ),
    )


def _schedule_input() -> io.Combo.Input:
    # The last one, and optional: workflows that were saved before it existed have no value for it.
    return io.Combo.Input(
        "schedule",
        options=list(get_args(Schedule)),
        default="constant",
        optional=True,
        advanced=True,
        tooltip="How the step goes on: constant, or down to a hundredth of itself, in a line or along a cosine.",
    )


def _update(choice: dict[str, object], schedule: Schedule) -> Update:
    step = float(choice["step"])  # type: ignore[arg-type]
    match choice["update"]:
        case "momentum sign":
            return MomentumSign(step, float(choice["decay"]), schedule)  # type: ignore[arg-type]
        case "sign":
            return Sign(step, schedule)
        case "normalised":
            return Normalised(step, schedule)
        case "adamw":
            return AdamW(step, decay=float(choice["weight_decay"]), schedule=schedule)  # type: ignore[arg-type]
        case _:
            return Adam(step, schedule=schedule)


class Protect(io.ComfyNode):
    """Checks when it runs, not in validate_inputs: of that, ComfyUI's page shows "Invalid input" and hides the sentence."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardProtect",
            display_name="Protect",
            category=CATEGORY,
            description=(
                "Changes a photo by at most `budget` 8-bit levels per channel so that the connected losses grow. "
                "Keeps size, aspect and transparency. Protection is never promised: attack the result yourself."
            ),
            search_aliases=["cloak", "immunize", "glaze", "mist", "photoguard", "adversarial", "pgd", "stillguard"],
            inputs=[
                io.Image.Input("image"),
                LossSocket.Input("loss", optional=True, tooltip="A loss node, or several through Combine Losses."),
                io.Float.Input(
                    "budget",
                    default=8.0,
                    min=0.0,
                    max=255.0,
                    step=0.5,
                    tooltip="Largest change of a channel in 8-bit levels, up to 64; 8 is hard to see, 16 is strong.",
                ),
                steps_input(),
                _update_input(),
                seed_input(),
                working_size_input(),
                memory_input(),
                eot_input("Makes the protection survive transformations."),
                mask_input(),
                _schedule_input(),
                space_input(),
            ],
            outputs=protected_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        budget: float,
        steps: int,
        update: dict[str, object],
        seed: int,
        working_size: int,
        memory: str,
        loss: Losses | None = None,
        eot: EoT | None = None,
        mask: Tensor | None = None,
        schedule: Schedule = "constant",
        space: SpaceSetup | None = None,
    ) -> io.NodeOutput:
        if not loss:
            raise ValueError(NO_LOSS)
        chosen = chosen_space(space, RGB(budget), image, longest=working_size, steps=steps)
        settings = Settings(chosen, _update(update, schedule), eot, working_size, steps, seed, memory == LOW_MEMORY)
        return io.NodeOutput(*protect_images(image, loss, settings, mask=mask, node_id=cls.hidden.unique_id))


NODES: tuple[type[io.ComfyNode], ...] = (
    CombineLosses,
    Protect,
)
