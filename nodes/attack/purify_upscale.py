"""Purify (DiffShortcut), Purify (Noisy Upscaling)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io
from torch import Tensor

from ..bridge.attack.purify_upscale import X4Upscaler, diffshortcut_images, noisy_upscaling_images
from ..inputs import attack_seed_input, attacked_image_input

if TYPE_CHECKING:
    import comfy.sd
    from comfy.model_patcher import ModelPatcher


OWN_SIZE, FOURFOLD = "of the picture", "4 times"


def _upscaler_inputs(prompt: str, noise_level: int) -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip="The Stable Diffusion x4 upscaler, from Load Checkpoint with x4-upscaler-ema.safetensors."),
        io.Vae.Input("vae", tooltip="The VAE of the same checkpoint."),
        io.Conditioning.Input("positive", tooltip=f"From CLIP Text Encode with the checkpoint's CLIP: {prompt}."),
        io.Conditioning.Input("negative", tooltip="The original has the empty prompt here."),
        io.Int.Input("noise_level", default=noise_level, min=0, max=350, tooltip="Noise that the upscaler adds to what it is given."),
        io.Int.Input("steps", default=75, min=1, max=1000, tooltip="Denoising steps (DDIM)."),
        io.Float.Input("guidance", default=9.0, min=1.0, max=30.0, step=0.5, tooltip="Classifier-free guidance towards the prompt."),
        attack_seed_input(),
    ]


class PurifyDiffShortcut(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardPurifyDiffShortcut",
            display_name="Purify (DiffShortcut)",
            category="stillguard/attack test",
            description="Attack a protected picture: restore it, reduce it until little is left, and let a diffusion upscaler repaint it.",
            search_aliases=["purify", "remove protection", "codeformer", "upscale"],
            inputs=[
                attacked_image_input(),
                *_upscaler_inputs("A photo of a person", 20),
                io.Int.Input("reduced_size", default=128, min=16, max=1024, tooltip="Longer side that is left before the upscaler."),
                io.UpscaleModel.Input(
                    "restorer",
                    optional=True,
                    tooltip="Restores the picture first: a face restorer such as CodeFormer or GFPGAN, or any upscale model.",
                ),
            ],
            outputs=[io.Image.Output("purified", display_name="purified")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        model: ModelPatcher,
        vae: comfy.sd.VAE,
        positive: list[Any],
        negative: list[Any],
        noise_level: int,
        steps: int,
        guidance: float,
        seed: int,
        reduced_size: int,
        restorer: Any | None = None,
    ) -> io.NodeOutput:
        upscaler = X4Upscaler(model, vae, positive, negative, noise_level, steps, guidance)
        return io.NodeOutput(diffshortcut_images(image, upscaler, restorer, side=reduced_size, seed=seed, node_id=cls.hidden.unique_id))


class PurifyNoisyUpscaling(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardPurifyNoisyUpscaling",
            display_name="Purify (Noisy Upscaling)",
            category="stillguard/attack test",
            description="Attack a protected picture: drown the perturbation in noise, then let a diffusion upscaler remove both.",
            search_aliases=["purify", "remove protection", "robust mimicry", "upscale"],
            inputs=[
                attacked_image_input(),
                *_upscaler_inputs("what the picture shows", 320),
                io.Float.Input(
                    "sigma",
                    default=0.1,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    round=0.001,
                    tooltip="Standard deviation of the noise, for a picture from 0 to 1.",
                ),
                io.Int.Input(
                    "working_size",
                    default=512,
                    min=16,
                    max=4096,
                    tooltip="A longer side than this is reduced first; memory grows with its square.",
                ),
                io.Combo.Input(
                    "output_size",
                    options=[OWN_SIZE, FOURFOLD],
                    tooltip=f"{FOURFOLD} keeps what the upscaler made, as the official code does.",
                ),
            ],
            outputs=[io.Image.Output("purified", display_name="purified")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        model: ModelPatcher,
        vae: comfy.sd.VAE,
        positive: list[Any],
        negative: list[Any],
        noise_level: int,
        steps: int,
        guidance: float,
        seed: int,
        sigma: float,
        working_size: int,
        output_size: str,
    ) -> io.NodeOutput:
        upscaler = X4Upscaler(model, vae, positive, negative, noise_level, steps, guidance)
        purified = noisy_upscaling_images(
            image,
            upscaler,
            sigma=sigma,
            longest=working_size,
            enlarge=output_size == FOURFOLD,
            seed=seed,
            node_id=cls.hidden.unique_id,
        )
        return io.NodeOutput(purified)


NODES: tuple[type[io.ComfyNode], ...] = (PurifyDiffShortcut, PurifyNoisyUpscaling)
