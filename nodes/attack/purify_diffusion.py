"""Purify (DiffPure), Purify (DDSPure), Purify (GrIDPure)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io
from torch import Tensor

from ..bridge.attack.purify_diffusion import GridSettings, dds_images, diffpure_images, diffusion_form, gridpure_images
from ..inputs import attack_seed_input, attacked_image_input
from ..sockets import ADMSocket

if TYPE_CHECKING:
    import comfy.sd
    from comfy.model_patcher import ModelPatcher

    from ..bridge.attack.adm import LoadedADM


def _form_inputs() -> list[io.Input]:
    return [
        io.Model.Input("model", optional=True, tooltip="A text-to-image model that you have; with `vae`, the latent form."),
        io.Vae.Input("vae", optional=True, tooltip="The VAE that belongs to the model."),
        io.Clip.Input("clip", optional=True, tooltip="The model's text encoder, for the empty prompt."),
        io.Conditioning.Input("positive", optional=True, tooltip="A prompt instead of the empty one."),
        ADMSocket.Input("adm", optional=True, tooltip="From Load ADM: the original form, in pixels; the model is then left out."),
    ]


class PurifyDiffPure(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardPurifyDiffPure",
            display_name="Purify (DiffPure)",
            category="stillguard/attack test",
            description="Attack a protected picture: add noise and let a diffusion model take it away, the perturbation with it.",
            search_aliases=["purify", "remove protection", "img2img", "diffusion"],
            inputs=[
                attacked_image_input(),
                io.Int.Input(
                    "timesteps", default=150, min=1, max=1000, tooltip="Noise, as steps of 1000: 150 is a denoise of 0.15 in KSampler."
                ),
                io.Int.Input(
                    "steps", default=20, min=1, max=1000, tooltip="Denoising steps of the latent form; with `adm` every timestep is one."
                ),
                attack_seed_input(),
                *_form_inputs(),
            ],
            outputs=[io.Image.Output("purified", display_name="purified")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        timesteps: int,
        steps: int,
        seed: int,
        model: ModelPatcher | None = None,
        vae: comfy.sd.VAE | None = None,
        clip: comfy.sd.CLIP | None = None,
        positive: list[Any] | None = None,
        adm: LoadedADM | None = None,
    ) -> io.NodeOutput:
        form = diffusion_form(model, vae, clip, positive, adm)
        return io.NodeOutput(diffpure_images(image, form, timesteps=timesteps, steps=steps, seed=seed, node_id=cls.hidden.unique_id))


class PurifyDDSPure(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardPurifyDDSPure",
            display_name="Purify (DDSPure)",
            category="stillguard/attack test",
            description="Attack a protected picture: a little noise, and a diffusion model's estimate of the clean picture in one call.",
            search_aliases=["purify", "remove protection", "denoised smoothing", "diffusion"],
            inputs=[
                attacked_image_input(),
                io.Float.Input(
                    "radius",
                    default=11.0,
                    min=0.5,
                    max=255.0,
                    step=0.5,
                    tooltip="Of the perturbation, in levels: the noise is made as strong.",
                ),
                attack_seed_input(),
                *_form_inputs(),
            ],
            outputs=[io.Image.Output("purified", display_name="purified")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        radius: float,
        seed: int,
        model: ModelPatcher | None = None,
        vae: comfy.sd.VAE | None = None,
        clip: comfy.sd.CLIP | None = None,
        positive: list[Any] | None = None,
        adm: LoadedADM | None = None,
    ) -> io.NodeOutput:
        form = diffusion_form(model, vae, clip, positive, adm)
        return io.NodeOutput(dds_images(image, form, radius=radius, seed=seed, node_id=cls.hidden.unique_id))


class PurifyGrIDPure(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardPurifyGrIDPure",
            display_name="Purify (GrIDPure)",
            category="stillguard/attack test",
            description="Attack a protected picture: many light purifications in overlapping windows, mixed with what was there.",
            search_aliases=["purify", "remove protection", "tiles", "diffusion"],
            inputs=[
                attacked_image_input(),
                io.Int.Input(
                    "timesteps", default=10, min=1, max=1000, tooltip="Noise of an iteration, as steps of 1000; 50 in the latent form."
                ),
                io.Int.Input("iterations", default=10, min=1, max=1000, tooltip="How often the whole picture is purified."),
                io.Float.Input(
                    "gamma",
                    default=0.1,
                    min=0.0,
                    max=0.99,
                    step=0.01,
                    round=0.001,
                    tooltip="Share of the picture before that each iteration keeps.",
                ),
                io.Int.Input(
                    "steps", default=5, min=1, max=1000, tooltip="Denoising steps of the latent form; with `adm` every timestep is one."
                ),
                io.Int.Input(
                    "window", default=512, min=128, max=2048, step=64, tooltip="Of the latent form, in pixels; with `adm` it is 256."
                ),
                attack_seed_input(),
                *_form_inputs(),
            ],
            outputs=[io.Image.Output("purified", display_name="purified")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        timesteps: int,
        iterations: int,
        gamma: float,
        steps: int,
        window: int,
        seed: int,
        model: ModelPatcher | None = None,
        vae: comfy.sd.VAE | None = None,
        clip: comfy.sd.CLIP | None = None,
        positive: list[Any] | None = None,
        adm: LoadedADM | None = None,
    ) -> io.NodeOutput:
        form = diffusion_form(model, vae, clip, positive, adm)
        settings = GridSettings(timesteps, steps, iterations, gamma, window)
        return io.NodeOutput(gridpure_images(image, form, settings, seed=seed, node_id=cls.hidden.unique_id))


NODES: tuple[type[io.ComfyNode], ...] = (
    PurifyDiffPure,
    PurifyDDSPure,
    PurifyGrIDPure,
)
