"""Purify (Impress)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io
from torch import Tensor

from ...engine.weights.catalogue import catalogue
from ..bridge.attack.purify_impress import ImpressSettings, impress_images
from ..bridge.model_files import choices, find_file
from ..inputs import FAST, LOW_MEMORY, attack_seed_input, attacked_image_input, memory_input

if TYPE_CHECKING:
    import comfy.sd


class PurifyImpress(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardPurifyImpress",
            display_name="Purify (Impress)",
            category="stillguard/attack test",
            description="Attack a protected picture: look for one that a VAE reproduces and that looks the same.",
            search_aliases=["purify", "remove protection", "vae", "reconstruction"],
            inputs=[
                attacked_image_input(),
                io.Vae.Input("vae", tooltip="The VAE of an image model, such as Stable Diffusion's; gradients flow through both halves."),
                io.Combo.Input(
                    "lpips_backbone",
                    options=choices([catalogue()["lpips_vgg16"]]),
                    tooltip="VGG16 weights in models/stillguard; never downloaded for you.",
                ),
                io.Int.Input("iterations", default=3000, min=1, max=100000, tooltip="Steps of Adam; the official scripts take 3000."),
                io.Float.Input(
                    "learning_rate",
                    default=0.01,
                    min=0.00001,
                    max=1.0,
                    step=0.001,
                    round=0.00001,
                    tooltip="At the start; falls to 0.00001.",
                ),
                io.Float.Input(
                    "alpha", default=0.1, min=0.0, max=100.0, step=0.01, round=0.0001, tooltip="Weight of LPIPS beside the squared error."
                ),
                io.Float.Input(
                    "threshold",
                    default=0.1,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    round=0.0001,
                    tooltip="LPIPS from the given picture up to here is free.",
                ),
                io.Float.Input(
                    "start_noise",
                    default=0.1,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    round=0.0001,
                    tooltip="Standard deviation of the noise on the start, for a picture from -1 to 1.",
                ),
                attack_seed_input(),
                memory_input(
                    "Low memory computes the VAE's halves again in the backward pass: about half the memory, a third more time.",
                    advanced=True,
                ),
            ],
            outputs=[io.Image.Output("purified", display_name="purified")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, memory: str | None) -> bool:
        """In place of core's check of this input alone: workflows may have been saved when "low memory" was "low" here. None: linked."""
        return memory in (None, FAST, LOW_MEMORY, "low")

    @classmethod
    def execute(
        cls,
        image: Tensor,
        vae: comfy.sd.VAE,
        lpips_backbone: str,
        iterations: int,
        learning_rate: float,
        alpha: float,
        threshold: float,
        start_noise: float,
        seed: int,
        memory: str,
    ) -> io.NodeOutput:
        backbone = find_file(catalogue()["lpips_vgg16"], lpips_backbone)
        settings = ImpressSettings(iterations, learning_rate, alpha, threshold, start_noise, low_memory=memory != FAST)
        return io.NodeOutput(impress_images(image, vae, backbone, settings, seed=seed, node_id=cls.hidden.unique_id))


NODES: tuple[type[io.ComfyNode], ...] = (PurifyImpress,)
