"""Learning Surrogate: a diffusion model that learns the photo while it is attacked."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io
from torch import Tensor

from ..bridge.surrogates.learning import LowRank, check_learning
from ..sockets import DiffusionSurrogateSocket

if TYPE_CHECKING:
    from ..bridge.surrogates.denoiser import Conditioning
    from ..bridge.surrogates.diffusion import DiffusionSurrogate

CO_TRAINING, ASPL = "co-training", "ASPL"


def _rounds(every: int, steps: int) -> list[io.Input]:
    """How often the surrogate learns, and how long."""
    return [
        io.Int.Input("every", default=every, min=1, max=100000, tooltip="Steps of the attack between two trainings."),
        io.Int.Input(
            "training_steps",
            default=steps,
            min=1,
            max=1000,
            tooltip="Of each training. Two cost about one step of the attack, or one with class pictures.",
        ),
    ]


class LearningSurrogate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        methods = [io.DynamicCombo.Option(CO_TRAINING, _rounds(30, 10)), io.DynamicCombo.Option(ASPL, _rounds(6, 3))]
        return io.Schema(
            node_id="StillguardLearningSurrogate",
            display_name="Learning Surrogate",
            category="stillguard/surrogates",
            description=(
                "A diffusion surrogate that learns the photo while a protection is made with it, as an attacker will who fine-tunes his "
                "model on what he finds (Mist v2, Anti-DreamBooth). What it learned is gone when the run has ended."
            ),
            search_aliases=["lora", "dreambooth", "anti-dreambooth", "aspl", "mist", "ace", "fine-tuning"],
            is_experimental=True,
            inputs=[
                DiffusionSurrogateSocket.Input("diffusion_surrogate", tooltip="From Diffusion Surrogate: SD 1.x, SD 2.x or SDXL."),
                io.Conditioning.Input("instance_prompt", tooltip="The prompt under which the photo is learned: a photo of sks person."),
                io.DynamicCombo.Input(
                    "method",
                    options=methods,
                    tooltip="Co-training learns the photo as it is by then. ASPL lets a copy learn clean photos too, and attacks that one.",
                ),
                io.Int.Input("rank", default=4, min=1, max=128, tooltip="Of the low-rank adapters: how much can be learned."),
                io.Float.Input(
                    "learning_rate",
                    default=1e-4,
                    min=1e-7,
                    max=1.0,
                    step=1e-7,
                    tooltip="Of AdamW, for the adapters. Mist v2's; a whole UNet is trained with a far smaller one.",
                ),
                io.Float.Input(
                    "prior_weight",
                    default=0.1,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    advanced=True,
                    tooltip="How much the class pictures count in training. Anti-DreamBooth takes 1.",
                ),
                io.Image.Input("class_images", optional=True, tooltip="Pictures of other people, which the surrogate is to know still."),
                io.Conditioning.Input("class_prompt", optional=True, tooltip="The prompt of the class pictures: a photo of a person."),
                io.Image.Input("photos", optional=True, tooltip="For ASPL: clean photos of the person, at best others than this one."),
            ],
            outputs=[DiffusionSurrogateSocket.Output("diffusion_surrogate", display_name="diffusion_surrogate")],
        )

    @classmethod
    def execute(
        cls,
        diffusion_surrogate: DiffusionSurrogate,
        instance_prompt: Conditioning,
        method: dict[str, Any],
        rank: int,
        learning_rate: float,
        prior_weight: float,
        class_images: Tensor | None = None,
        class_prompt: Conditioning | None = None,
        photos: Tensor | None = None,
    ) -> io.NodeOutput:
        check_learning(diffusion_surrogate.model)
        _check_photos(method["method"], photos)
        learning = LowRank(
            instance=instance_prompt,
            class_images=class_images,
            class_prompt=class_prompt,
            photos=photos,
            prior_weight=prior_weight,
            every=method["every"],
            steps=method["training_steps"],
            rank=rank,
            rate=learning_rate,
        )
        return io.NodeOutput(replace(diffusion_surrogate, learning=learning))


def _check_photos(method: str, photos: Tensor | None) -> None:
    """Raises ValueError where they are missing, or would not be looked at."""
    if method == ASPL and photos is None:
        raise ValueError(
            f"{ASPL} has no clean photos of the person: connect some to `photos` (the one to protect will do), or set method to "
            f'"{CO_TRAINING}".'
        )
    if method == CO_TRAINING and photos is not None:
        raise ValueError(f'`photos` is connected, which co-training does not look at: disconnect it, or set method to "{ASPL}".')


NODES: tuple[type[io.ComfyNode], ...] = (LearningSurrogate,)
