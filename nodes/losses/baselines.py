"""Losses of protections against diffusion models of pictures, which the others are compared with, and their nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io
from torch import Tensor

from ...engine.losses import baselines
from ..bridge.protect.loss_spec import LossSpec
from ..bridge.surrogates.clip_vision import clip_vision_view
from ..bridge.surrogates.diffusion import DiffusionSurrogate, diffusion_setup
from ..bridge.surrogates.early_exit import Reads
from ..bridge.surrogates.run_surrogates import Surrogates
from ..bridge.surrogates.vae import vae_view
from ..inputs import VICTIMS_VAE, weight_input
from ..sockets import DiffusionSurrogateSocket, LossSocket
from .i2vguard import picture_of

if TYPE_CHECKING:
    import comfy.clip_vision
    import comfy.sd

CATEGORY = "stillguard/losses/baselines"
AWAY, TOWARD = "away from it (+)", "toward it (-)"


def denoising_error(weight: float, surrogate: DiffusionSurrogate, *, away: bool = True, posterior: str | None = None) -> LossSpec:
    """posterior: here and below, see engine's PictureSetup."""

    def make(surrogates: Surrogates) -> baselines.DenoisingError:
        return baselines.DenoisingError(diffusion_setup(surrogates, surrogate, posterior=posterior))

    return LossSpec("Denoising", weight if away else -weight, make, reads=Reads(surrogate.model))


def score_distillation(weight: float, surrogate: DiffusionSurrogate, *, away: bool = False, posterior: str | None = None) -> LossSpec:
    def make(surrogates: Surrogates) -> baselines.ScoreDistillation:
        return baselines.ScoreDistillation(diffusion_setup(surrogates, surrogate, posterior=posterior))

    return LossSpec("Score Distillation", weight if away else -weight, make, reads=Reads(surrogate.model))


def target_score(weight: float, surrogate: DiffusionSurrogate, target: Tensor | None) -> LossSpec:
    """target: here and below, IMAGE [1,H,W,C]; None stands for a pattern of high contrast."""
    picture = _target(target)

    def make(surrogates: Surrogates) -> baselines.TargetScore:
        return baselines.TargetScore(diffusion_setup(surrogates, surrogate), picture)

    return LossSpec("Target Score", -weight, make, reads=Reads(surrogate.model))


def noise_alignment(weight: float, surrogate: DiffusionSurrogate) -> LossSpec:
    def make(surrogates: Surrogates) -> baselines.NoiseAlignment:
        return baselines.NoiseAlignment(diffusion_setup(surrogates, surrogate))

    return LossSpec("Noise Alignment", -weight, make, reads=Reads(surrogate.model))


def texture(
    weight: float, surrogate: DiffusionSurrogate, target: Tensor | None, *, posterior: str | None = None, drawn: str | None = None
) -> LossSpec:
    """weight: signed, negative draws the picture's latents to the target's."""
    picture = _target(target)

    def make(surrogates: Surrogates) -> baselines.Texture:
        return baselines.Texture(diffusion_setup(surrogates, surrogate, posterior=posterior), picture, drawn=drawn)

    return LossSpec("Texture", weight, make)


def latent_norm(weight: float, vae: comfy.sd.VAE, target: Tensor | None) -> LossSpec:
    """target: None draws the latent to zero."""
    picture = None if target is None else picture_of(target)
    return LossSpec("Latent Norm", -weight, lambda surrogates: baselines.LatentNorm(vae_view(surrogates, vae), picture))


def embedding_angle(weight: float, clip_vision: comfy.clip_vision.ClipVisionModel, target: Tensor | None) -> LossSpec:
    """Minimised with a target, and maximised away from the clean picture without one."""
    picture = None if target is None else picture_of(target)

    def make(surrogates: Surrogates) -> baselines.EmbeddingAngle:
        return baselines.EmbeddingAngle(clip_vision_view(surrogates, clip_vision), picture)

    return LossSpec("Embedding Angle", weight if target is None else -weight, make)


def latent_angle(weight: float, vae: comfy.sd.VAE, target: Tensor | None) -> LossSpec:
    """As `embedding_angle`."""
    picture = None if target is None else picture_of(target)
    signed = weight if target is None else -weight
    return LossSpec("Latent Angle", signed, lambda surrogates: baselines.LatentAngle(vae_view(surrogates, vae), picture))


def _target(target: Tensor | None) -> Tensor:
    return baselines.pattern() if target is None else picture_of(target)


def diffusion_surrogate_input() -> io.Custom.Input:
    return DiffusionSurrogateSocket.Input(
        "diffusion_surrogate", tooltip="From Diffusion Surrogate: Stable Diffusion as the papers have it."
    )


def pattern_input() -> io.Image.Input:
    tooltip = "What the model is led to see; a pattern of high contrast if not connected, as Mist's target is."
    return io.Image.Input("target", optional=True, tooltip=tooltip)


def _direction_input(default: str, tooltip: str) -> io.Combo.Input:
    return io.Combo.Input("direction", options=[AWAY, TOWARD], default=default, tooltip=tooltip)


class DenoisingErrorLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardDenoisingErrorLoss",
            display_name="Denoising Loss (Picture)",
            category=CATEGORY,
            description="How badly a model of pictures finds the noise in the photo, made large (AdvDM, Anti-DreamBooth) or small.",
            search_aliases=["advdm", "anti-dreambooth", "fsmg", "diffusion loss", "semantic loss"],
            inputs=[
                diffusion_surrogate_input(),
                weight_input(1.0),
                _direction_input(
                    AWAY, "Away makes the model's error grow, as in AdvDM; toward makes it shrink, which blurs what it makes."
                ),
            ],
            outputs=[LossSocket.Output("loss", display_name="loss")],
        )

    @classmethod
    def execute(cls, diffusion_surrogate: DiffusionSurrogate, weight: float, direction: str) -> io.NodeOutput:
        return io.NodeOutput((denoising_error(weight, diffusion_surrogate, away=direction == AWAY),))


class ScoreDistillationLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardScoreDistillationLoss",
            display_name="Score Distillation Loss",
            category=CATEGORY,
            description="As Denoising Loss (Picture), but the gradient goes through the VAE alone, which is cheaper (Diff-Protect).",
            search_aliases=["sds", "diff-protect", "score distillation sampling"],
            inputs=[
                diffusion_surrogate_input(),
                weight_input(1.0),
                _direction_input(TOWARD, "Toward, SDS(-), is what the paper recommends; away is SDS(+)."),
            ],
            outputs=[LossSocket.Output("loss", display_name="loss")],
        )

    @classmethod
    def execute(cls, diffusion_surrogate: DiffusionSurrogate, weight: float, direction: str) -> io.NodeOutput:
        return io.NodeOutput((score_distillation(weight, diffusion_surrogate, away=direction == AWAY),))


class TargetScoreLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardTargetScoreLoss",
            display_name="Target Score Loss",
            category=CATEGORY,
            description="Whatever the noise, the model finds the latents of a target picture in its place (ACE, the default of Mist v2).",
            search_aliases=["mist", "mist v2", "ace", "lunet", "target"],
            inputs=[diffusion_surrogate_input(), weight_input(1.0), pattern_input()],
            outputs=[LossSocket.Output("loss", display_name="loss")],
        )

    @classmethod
    def execute(cls, diffusion_surrogate: DiffusionSurrogate, weight: float, target: Tensor | None = None) -> io.NodeOutput:
        return io.NodeOutput((target_score(weight, diffusion_surrogate, target),))


class LatentNormLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardLatentNormLoss",
            display_name="Latent Norm Loss",
            category=CATEGORY,
            description="Draws the picture's latent to zero, or to that of a target picture (PhotoGuard's encoder attack).",
            search_aliases=["photoguard", "encoder attack", "immunize"],
            inputs=[
                io.Vae.Input("vae", tooltip=VICTIMS_VAE),
                weight_input(1.0),
                io.Image.Input("target", optional=True, tooltip="What the latent is drawn to; zero if not connected, as in the paper."),
            ],
            outputs=[LossSocket.Output("loss", display_name="loss")],
        )

    @classmethod
    def execute(cls, vae: comfy.sd.VAE, weight: float, target: Tensor | None = None) -> io.NodeOutput:
        return io.NodeOutput((latent_norm(weight, vae, target),))


NODES: tuple[type[io.ComfyNode], ...] = (DenoisingErrorLoss, ScoreDistillationLoss, TargetScoreLoss, LatentNormLoss)
