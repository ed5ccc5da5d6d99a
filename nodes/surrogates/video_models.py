"""I2V Surrogate: the user's own image-to-video model, with everything that conditions it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io
from torch import Tensor

from ...engine.draws import SEEDS
from ..bridge.surrogates.checks import blocks_by_hand, check_conditioning, check_weights
from ..bridge.surrogates.denoiser import Conditioning
from ..bridge.surrogates.taps import i2vguards_blocks, tapped_blocks
from ..bridge.video.checks import check_size, check_sockets, family_of, names
from ..bridge.video.conditioner import VideoSize
from ..bridge.video.model import Sampling, VideoSurrogate
from ..sockets import I2VSurrogateSocket

if TYPE_CHECKING:
    import comfy.clip_vision
    import comfy.sd
    from comfy.model_patcher import ModelPatcher

CATEGORY = "stillguard/surrogates"


class I2VSurrogate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        def side(name: str) -> io.Int.Input:
            tooltip = "Of the surrogate's videos. 0: as the models see the photo (working_size). Cost grows with it."
            return io.Int.Input(name, default=0, min=0, max=8192, step=8, tooltip=tooltip)

        return io.Schema(
            node_id="StillguardI2VSurrogate",
            display_name="I2V Surrogate",
            category=CATEGORY,
            description=(
                "Your own image-to-video model as a surrogate: SVD, Wan, Wan Animate, CogVideoX, LTX or HunyuanVideo. The photo goes "
                "through core's own conditioning node with gradients, so that the model is told exactly what it is told when it animates."
            ),
            search_aliases=["svd", "wan", "cogvideox", "ltx", "hunyuan", "video model", "i2vguard"],
            inputs=[
                io.Model.Input("model", tooltip="In fp16, bf16 or fp32: quantised weights give no gradients to trust."),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the model."),
                io.Combo.Input("conditioning", options=names(), tooltip="Which of core's nodes tells the model about the photo."),
                side("width"),
                side("height"),
                io.Int.Input("length", default=17, min=2, max=1000, tooltip="Frames: 17 fits every family; cost and memory grow with it."),
                io.ClipVision.Input("clip_vision", optional=True, tooltip="For SVD, and for Wan models that read it."),
                io.Conditioning.Input("positive", optional=True, tooltip="The prompt, for all but SVD; it may be empty."),
                io.Conditioning.Input(
                    "negative", optional=True, tooltip="For the first video's guidance; if not connected, the positive one."
                ),
                io.Image.Input(
                    "video",
                    optional=True,
                    tooltip="Frames of a video made of the clean photo; if not connected, the model makes one first.",
                ),
                io.Int.Input("prior_steps", default=20, min=1, max=200, advanced=True, tooltip="Sampling steps of that first video."),
                io.Float.Input("prior_cfg", default=2.5, min=1.0, max=30.0, step=0.1, advanced=True, tooltip="Its guidance."),
                io.Int.Input("prior_seed", default=0, min=0, max=SEEDS - 1, advanced=True, tooltip="Its starting noise."),
                io.String.Input(
                    "attention_blocks",
                    default="auto",
                    advanced=True,
                    tooltip="Whose attention Temporal Attention reads, by index from 0, such as 20, 21. Auto: the paper's choice.",
                ),
            ],
            outputs=[I2VSurrogateSocket.Output("i2v_surrogate", display_name="i2v_surrogate")],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        vae: comfy.sd.VAE,
        conditioning: str,
        width: int,
        height: int,
        length: int,
        prior_steps: int,
        prior_cfg: float,
        prior_seed: int,
        attention_blocks: str,
        clip_vision: comfy.clip_vision.ClipVisionModel | None = None,
        positive: Conditioning | None = None,
        negative: Conditioning | None = None,
        video: Tensor | None = None,
    ) -> io.NodeOutput:
        family, size = family_of(model, conditioning), VideoSize(width, height, length)
        check_sockets(model, family, vae, clip=clip_vision is not None, text=positive is not None)
        check_weights(model.model)
        # The negative one is read by core's own sampler alone, for the first video, and may be anything.
        check_conditioning(positive or [], "positive")
        check_size(family, size)
        if video is not None and video.shape[0] != length:
            raise ValueError(f"The video has {video.shape[0]} frames and the length is {length}: set the length to the video's frames.")
        told = positive or []
        blocks = chosen_blocks(model, attention_blocks)
        sampling = Sampling(prior_steps, prior_cfg, seed=prior_seed)
        encoder = clip_vision if family.clip != "unused" else None
        return io.NodeOutput(VideoSurrogate(model, family, vae, encoder, told, negative or told, size, sampling, video, blocks))


def chosen_blocks(model: ModelPatcher, text: str) -> tuple[int, ...]:
    """Raises ValueError for what are no indices, or none of this model's."""
    network = model.model.diffusion_model
    found = blocks_by_hand(text, len(tapped_blocks(network, "attention")), "attention_blocks")
    return i2vguards_blocks(network) if found is None else found


NODES: tuple[type[io.ComfyNode], ...] = (I2VSurrogate,)
