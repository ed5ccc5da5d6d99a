"""I2VGuard's losses and their nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io
from torch import Tensor

from ...engine.losses import i2vguard
from ...engine.surrogates.denoiser import TIMESTEPS, WHOLE, Tap
from ..bridge.protect.loss_spec import LossSpec
from ..bridge.surrogates.early_exit import Reads, reads
from ..bridge.surrogates.run_surrogates import Surrogates
from ..bridge.surrogates.vae import vae_view
from ..bridge.video.model import VideoSurrogate, video_setup
from ..inputs import VICTIMS_VAE, reach_input, scaled_input, surrogate_input, target_input, timesteps_input, weight_input
from ..sockets import LossSocket

if TYPE_CHECKING:
    import comfy.sd

CATEGORY = "stillguard/losses/i2vguard"


def target_latent(weight: float, vae: comfy.sd.VAE, target: Tensor | None, *, scaled: bool = True) -> LossSpec:
    """target: IMAGE [1,H,W,C]; None stands for black, as in the paper."""

    def make(surrogates: Surrogates) -> i2vguard.TargetLatent:
        return i2vguard.TargetLatent(vae_view(surrogates, vae), _picture(target))

    return LossSpec("Target Latent", -weight, make, scaled=scaled)


def contrastive_frames(
    weight: float,
    surrogate: VideoSurrogate,
    target: Tensor | None,
    reach: float = 2.0,
    *,
    scaled: bool = True,
    timesteps: str = WHOLE,
) -> LossSpec:
    """target: as in `target_latent`."""

    def make(surrogates: Surrogates) -> i2vguard.ContrastiveFrames:
        setup = video_setup(surrogates, surrogate, TIMESTEPS[timesteps])
        return i2vguard.ContrastiveFrames(setup, _picture(target), reach)

    return LossSpec("Contrastive Frames", -weight, make, scaled=scaled, reads=Reads(surrogate.model))


def temporal_attention(weight: float, surrogate: VideoSurrogate, *, scaled: bool = True, timesteps: str = WHOLE) -> LossSpec:
    def make(surrogates: Surrogates) -> i2vguard.TemporalAttention:
        return i2vguard.TemporalAttention(video_setup(surrogates, surrogate, TIMESTEPS[timesteps]), surrogate.blocks)

    read = reads(surrogate.model, [Tap("attention", block) for block in surrogate.blocks])
    return LossSpec("Temporal Attention", weight, make, scaled=scaled, reads=read)


def l2_penalty(weight: float) -> LossSpec:
    return LossSpec("L2 Penalty", -weight, lambda surrogates: i2vguard.L2Penalty(), drives=False)


def _picture(image: Tensor | None) -> Tensor:
    """IMAGE [1,H,W,C] -> [1,3,H,W]."""
    if image is None:
        return torch.zeros(1, 3, 8, 8)
    return picture_of(image)


def picture_of(image: Tensor) -> Tensor:
    """The same of an IMAGE that is there."""
    return image.detach().clone().movedim(-1, 1)[:1, :3].float().expand(-1, 3, -1, -1)


class TargetLatentLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardTargetLatentLoss",
            display_name="Target Latent Loss",
            category=CATEGORY,
            description="Draws the picture's latent towards that of a target picture (I2VGuard's encoder attack).",
            search_aliases=["i2vguard", "photoguard", "encoder attack", "targeted"],
            inputs=[io.Vae.Input("vae", tooltip=VICTIMS_VAE), weight_input(1.0), scaled_input(), target_input()],
            outputs=[LossSocket.Output("loss", display_name="loss")],
        )

    @classmethod
    def execute(cls, vae: comfy.sd.VAE, weight: float, scaled: bool, target: Tensor | None = None) -> io.NodeOutput:
        return io.NodeOutput((target_latent(weight, vae, target, scaled=scaled),))


class ContrastiveFramesLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardContrastiveFramesLoss",
            display_name="Contrastive Frames Loss",
            category=CATEGORY,
            description="Draws the frames that a video model foresees towards a target, and away from the clean video (I2VGuard).",
            search_aliases=["i2vguard", "diffusion attack"],
            inputs=[
                surrogate_input(),
                weight_input(1.0),
                scaled_input(),
                reach_input(),
                target_input(),
                timesteps_input(optional=True),
            ],
            outputs=[LossSocket.Output("loss", display_name="loss")],
        )

    @classmethod
    def execute(
        cls,
        i2v_surrogate: VideoSurrogate,
        weight: float,
        scaled: bool,
        reach: float,
        target: Tensor | None = None,
        timesteps: str = WHOLE,
    ) -> io.NodeOutput:
        return io.NodeOutput((contrastive_frames(weight, i2v_surrogate, target, reach, scaled=scaled, timesteps=timesteps),))


class TemporalAttentionLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardTemporalAttentionLoss",
            display_name="Temporal Attention Loss",
            category=CATEGORY,
            description="Changes which frames a video model relates to which, and so how things move (I2VGuard).",
            search_aliases=["i2vguard", "motion", "temporal"],
            inputs=[surrogate_input(), weight_input(1.0), scaled_input(), timesteps_input(optional=True)],
            outputs=[LossSocket.Output("loss", display_name="loss")],
        )

    @classmethod
    def execute(cls, i2v_surrogate: VideoSurrogate, weight: float, scaled: bool, timesteps: str = WHOLE) -> io.NodeOutput:
        return io.NodeOutput((temporal_attention(weight, i2v_surrogate, scaled=scaled, timesteps=timesteps),))


class L2Penalty(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardL2Penalty",
            display_name="L2 Penalty",
            category=CATEGORY,
            description="Holds the picture near the clean one by its mean squared distance, for a protection without a hard budget.",
            search_aliases=["i2vguard", "regularisation", "mse", "visibility"],
            inputs=[weight_input(100.0)],
            outputs=[LossSocket.Output("loss", display_name="loss")],
        )

    @classmethod
    def execute(cls, weight: float) -> io.NodeOutput:
        return io.NodeOutput((l2_penalty(weight),))


NODES: tuple[type[io.ComfyNode], ...] = (
    TargetLatentLoss,
    ContrastiveFramesLoss,
    TemporalAttentionLoss,
    L2Penalty,
)
