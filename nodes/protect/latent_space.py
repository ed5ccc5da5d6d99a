"""Latent Space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from comfy_api.latest import io
from torch import Tensor

from ..bridge.protect.latent import LatentSetup, Mode
from ..sockets import DiffusionSurrogateSocket, SpaceSocket

if TYPE_CHECKING:
    import comfy.sd

    from ..bridge.surrogates.diffusion import DiffusionSurrogate

KEEP, ONLY = "keep the mask as it is", "change only the mask"
NEAR, AT = "near the photo", "at the photo"


class LatentSpace(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        modes = (
            "Decoder changes latents and decodes them. The others put a step of a diffusion model between, as Silencer's second stage does."
        )
        return io.Schema(
            node_id="StillguardLatentSpace",
            display_name="Latent Space",
            category="stillguard",
            description=(
                "Changes a VAE's latents of the photo instead of its pixels: connect it to `space` of Protect or of a method. There is no "
                "budget; the node that runs says how much the photo changed."
            ),
            search_aliases=["silencer", "diffattack", "latent", "unrestricted", "anti-purification", "stillguard"],
            inputs=[
                io.Vae.Input("vae", tooltip="A VAE of an image model, with encoder and decoder, such as Stable Diffusion's."),
                io.Combo.Input("mode", options=["decoder", "one step", "as published"], tooltip=modes),
                io.Combo.Input(
                    "form",
                    options=["difference", "decoded"],
                    tooltip="Difference adds to the photo only what the change of latents does. Decoded shows what the VAE makes of them.",
                ),
                io.Float.Input(
                    "trust_region",
                    default=0.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="How far each latent may move, in their standard deviations; 0 is without end.",
                ),
                io.Combo.Input(
                    "start",
                    options=[NEAR, AT],
                    advanced=True,
                    tooltip="Losses that are distances from the clean photo have no direction at the photo itself.",
                ),
                io.Int.Input(
                    "freeze_step",
                    default=100,
                    min=0,
                    max=100000,
                    tooltip="After this step the freeze mask takes effect. Without one, nothing.",
                ),
                io.Combo.Input(
                    "freeze",
                    options=[KEEP, ONLY],
                    advanced=True,
                    tooltip="Keep: what the mask covers stays as that step left it (Silencer). Only: the rest is the photo (DiffAttack).",
                ),
                DiffusionSurrogateSocket.Input(
                    "diffusion_surrogate",
                    optional=True,
                    tooltip="From Diffusion Surrogate, for the modes with a step of a diffusion model.",
                ),
                io.Mask.Input("freeze_mask", optional=True, tooltip="What freezes, 1 on the face for instance; in the size of the photo."),
            ],
            outputs=[SpaceSocket.Output("space", display_name="space")],
        )

    @classmethod
    def execute(
        cls,
        vae: comfy.sd.VAE,
        mode: Mode,
        form: Literal["difference", "decoded"],
        trust_region: float,
        start: str,
        freeze_step: int,
        freeze: str,
        diffusion_surrogate: DiffusionSurrogate | None = None,
        freeze_mask: Tensor | None = None,
    ) -> io.NodeOutput:
        setup = LatentSetup(
            vae,
            mode,
            diffusion_surrogate,
            form,
            trust_region or None,
            "near" if start == NEAR else "clean",
            freeze_mask,
            freeze_step,
            frozen=freeze == KEEP,
        )
        return io.NodeOutput(setup)


NODES: tuple[type[io.ComfyNode], ...] = (LatentSpace,)
