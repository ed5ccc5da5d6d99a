"""Diffusion Surrogate: the user's own diffusion model of pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..bridge.surrogates.checks import check_conditioning, check_vae, check_weights
from ..bridge.surrogates.denoiser import Conditioning
from ..bridge.surrogates.diffusion import DiffusionSurrogate
from ..sockets import DiffusionSurrogateSocket

if TYPE_CHECKING:
    import comfy.sd
    from comfy.model_patcher import ModelPatcher


class DiffusionSurrogateNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardDiffusionSurrogate",
            display_name="Diffusion Surrogate",
            category="stillguard/surrogates",
            description=(
                "Your own diffusion model of pictures as a surrogate, such as Stable Diffusion, SDXL or Flux: the photo's latents are "
                "noised, and the model is asked for what is clean under a prompt."
            ),
            search_aliases=["stable diffusion", "sdxl", "flux", "image model", "denoiser"],
            inputs=[
                io.Model.Input("model", tooltip="In fp16, bf16 or fp32: quantised weights give no gradients to trust."),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the model."),
                io.Conditioning.Input("positive", tooltip="The prompt; it may be empty."),
                io.Conditioning.Input("negative", optional=True, tooltip="For losses with guidance; if not connected, the positive one."),
            ],
            outputs=[DiffusionSurrogateSocket.Output("diffusion_surrogate", display_name="diffusion_surrogate")],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, vae: comfy.sd.VAE, positive: Conditioning, negative: Conditioning | None = None) -> io.NodeOutput:
        check_vae(model, vae, "the model")
        check_weights(model.model)
        check_conditioning(positive, "positive")
        check_conditioning(negative or [], "negative")
        return io.NodeOutput(DiffusionSurrogate(model, vae, positive, negative or positive))


NODES: tuple[type[io.ComfyNode], ...] = (DiffusionSurrogateNode,)
