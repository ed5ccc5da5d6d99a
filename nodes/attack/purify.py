"""Purify (Impress), Purify (DiffShortcut), Purify (Noisy Upscaling)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io
from torch import Tensor

from ...engine.draws import SEEDS
from ...engine.weights.catalogue import catalogue
from ..bridge.attack.purify import ImpressSettings, impress_images
from ..bridge.attack.purify_upscale import X4Upscaler, diffshortcut_images, noisy_upscaling_images
from ..bridge.model_files import choices, find_file
from ..inputs import FAST, LOW_MEMORY, memory_input

if TYPE_CHECKING:
    import comfy.sd
    from comfy.model_patcher import ModelPatcher

CATEGORY = "stillguard/attack test"
OWN_SIZE, FOURFOLD = "of the picture", "4 times"


def image_input() -> io.Image.Input:
    return io.Image.Input("image", tooltip="The picture to attack: the protected one, and for comparison the clean one.")


def seed_input() -> io.Int.Input:
    return io.Int.Input(
        "seed", default=0, min=0, max=SEEDS - 1, control_after_generate=True, tooltip="Use one seed for clean and protected."
    )


class PurifyImpress(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardPurifyImpress",
            display_name="Purify (Impress)",
            category=CATEGORY,
            description="Attack a protected picture: look for one that a VAE reproduces and that looks the same.",
            search_aliases=["purify", "remove protection", "vae", "reconstruction"],
            inputs=[
                image_input(),
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
                seed_input(),
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


def _upscaler_inputs(prompt: str, noise_level: int) -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip="The Stable Diffusion x4 upscaler, from Load Checkpoint with x4-upscaler-ema.safetensors."),
        io.Vae.Input("vae", tooltip="The VAE of the same checkpoint."),
        io.Conditioning.Input("positive", tooltip=f"From CLIP Text Encode with the checkpoint's CLIP: {prompt}."),
        io.Conditioning.Input("negative", tooltip="The original has the empty prompt here."),
        io.Int.Input("noise_level", default=noise_level, min=0, max=350, tooltip="Noise that the upscaler adds to what it is given."),
        io.Int.Input("steps", default=75, min=1, max=1000, tooltip="Denoising steps (DDIM)."),
        io.Float.Input("guidance", default=9.0, min=1.0, max=30.0, step=0.5, tooltip="Classifier-free guidance towards the prompt."),
        seed_input(),
    ]


class PurifyDiffShortcut(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardPurifyDiffShortcut",
            display_name="Purify (DiffShortcut)",
            category=CATEGORY,
            description="Attack a protected picture: restore it, reduce it until little is left, and let a diffusion upscaler repaint it.",
            search_aliases=["purify", "remove protection", "codeformer", "upscale"],
            inputs=[
                image_input(),
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
            category=CATEGORY,
            description="Attack a protected picture: drown the perturbation in noise, then let a diffusion upscaler remove both.",
            search_aliases=["purify", "remove protection", "robust mimicry", "upscale"],
            inputs=[
                image_input(),
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


NODES: tuple[type[io.ComfyNode], ...] = (
    PurifyImpress,
    PurifyDiffShortcut,
    PurifyNoisyUpscaling,
)
