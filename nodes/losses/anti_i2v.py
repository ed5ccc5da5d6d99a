"""Anti-I2V's losses and Velocity-Min, and their nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from comfy_api.latest import io
from torch import Tensor

from ...engine.losses import anti_i2v
from ...engine.surrogates.denoiser import FIRST_STEPS, TIMESTEPS, WHOLE, Tap
from ..bridge.protect.loss_spec import LossSpec
from ..bridge.surrogates.checks import blocks_by_hand
from ..bridge.surrogates.early_exit import Reads, reads
from ..bridge.surrogates.run_surrogates import Surrogates
from ..bridge.surrogates.taps import tapped_blocks
from ..bridge.surrogates.vae import staged_vae_view
from ..bridge.video.model import VideoSurrogate, video_setup
from ..inputs import VICTIMS_VAE, layers_input, scaled_input, surrogate_input, timesteps_input, weight_input
from ..sockets import LossSocket
from .i2vguard import picture_of

if TYPE_CHECKING:
    import comfy.sd

CATEGORY = "stillguard/losses/anti_i2v"

MIN, AWAY, STILL = "least velocity", "drift away", "drift to a still"
# Of engine's VelocityMin, and whether that is maximised.
_KINDS: dict[str, tuple[Literal["velocity", "drift"], bool]] = {MIN: ("velocity", False), AWAY: ("drift", True), STILL: ("drift", False)}


def representation_collapse(
    weight: float,
    surrogate: VideoSurrogate,
    *,
    layers: str = "auto",
    stop_gradient: bool = False,
    timesteps: str = WHOLE,
    scaled: bool = True,
) -> LossSpec:
    """layers: auto, or indices of blocks, of which the lowest is the shallow one. Raises ValueError for what is neither, and for auto on a
    model of fewer than 8 blocks.
    """
    shallow, *deep = _collapsing(surrogate, layers)

    def make(surrogates: Surrogates) -> anti_i2v.RepresentationCollapse:
        setup = video_setup(surrogates, surrogate, TIMESTEPS[timesteps], looked_into=True)
        return anti_i2v.RepresentationCollapse(setup, shallow, tuple(deep), stop_gradient)

    return LossSpec("Representation Collapse", -weight, make, scaled=scaled, reads=_reads(surrogate, (shallow, *deep)))


def representation_anchor(
    weight: float,
    surrogate: VideoSurrogate,
    vae: comfy.sd.VAE | None,
    picture: Tensor | None,
    *,
    layers: str = "auto",
    timesteps: str = WHOLE,
    scaled: bool = True,
) -> LossSpec:
    """vae: None leaves the encoder's stages out. picture: IMAGE [1,H,W,C]; None stands for a landscape that is drawn. layers: auto for
    all, or indices of blocks. Raises ValueError for what is neither.
    """
    count = _count(surrogate)
    blocks = blocks_by_hand(layers, count, "layers") or tuple(range(count))

    def make(surrogates: Surrogates) -> anti_i2v.RepresentationAnchor:
        setup = video_setup(surrogates, surrogate, TIMESTEPS[timesteps], looked_into=True)
        stages = None if vae is None else staged_vae_view(surrogates, vae)
        return anti_i2v.RepresentationAnchor(setup, blocks, stages, None if picture is None else picture_of(picture))

    return LossSpec("Representation Anchor", -weight, make, scaled=scaled, reads=_reads(surrogate, blocks))


def denoising(weight: float, surrogate: VideoSurrogate, *, timesteps: str = WHOLE, scaled: bool = True) -> LossSpec:
    def make(surrogates: Surrogates) -> anti_i2v.Denoising:
        return anti_i2v.Denoising(video_setup(surrogates, surrogate, TIMESTEPS[timesteps]))

    return LossSpec("Denoising (Video)", weight, make, scaled=scaled, reads=Reads(surrogate.model))


def velocity_min(weight: float, surrogate: VideoSurrogate, *, kind: str = MIN, scaled: bool = True) -> LossSpec:
    """kind: MIN, AWAY or STILL."""
    form, maximised = _KINDS[kind]

    def make(surrogates: Surrogates) -> anti_i2v.VelocityMin:
        return anti_i2v.VelocityMin(video_setup(surrogates, surrogate, FIRST_STEPS, fresh=True), form)

    name, signed = "Velocity-Min" if kind == MIN else "Drift", weight if maximised else -weight
    return LossSpec(name, signed, make, scaled=scaled, reads=Reads(surrogate.model))


def _count(surrogate: VideoSurrogate) -> int:
    return len(tapped_blocks(surrogate.model.model.diffusion_model, "output"))


def _reads(surrogate: VideoSurrogate, blocks: Sequence[int]) -> Reads:
    return reads(surrogate.model, [Tap("output", block) for block in blocks])


def _collapsing(surrogate: VideoSurrogate, text: str) -> tuple[int, ...]:
    """The shallow block and the deep ones."""
    count = _count(surrogate)
    blocks = blocks_by_hand(text, count, "layers")
    if blocks is None:
        shallow, deep = anti_i2v.layers(count, unet=hasattr(surrogate.model.model.diffusion_model, "input_blocks"))
        return (shallow, *deep)
    if len(blocks) < 2:
        raise ValueError(f"layers is '{text}', and collapsing takes two blocks or more: write a shallow one and a deep one, such as 3, 27.")
    return blocks


class RepresentationCollapseLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardRepresentationCollapseLoss",
            display_name="Representation Collapse Loss",
            category=CATEGORY,
            description="Draws a video model's last blocks back to what a shallow one knows, where nothing has a meaning yet (Anti-I2V).",
            search_aliases=["anti-i2v", "irc", "features", "internal representation"],
            inputs=[
                surrogate_input(),
                weight_input(1.0),
                scaled_input(),
                timesteps_input(),
                layers_input("Blocks by index from 0, the shallow one and deep ones, such as 3, 27. Auto: the paper's rule."),
                io.Boolean.Input(
                    "stop_gradient",
                    default=False,
                    advanced=True,
                    tooltip="Deep blocks go to the shallow one, which stays. The paper does not say; without it both may move.",
                ),
            ],
            outputs=[LossSocket.Output("loss", display_name="loss")],
        )

    @classmethod
    def execute(
        cls, i2v_surrogate: VideoSurrogate, weight: float, scaled: bool, timesteps: str, layers: str, stop_gradient: bool
    ) -> io.NodeOutput:
        chosen = {"layers": layers, "timesteps": timesteps}
        return io.NodeOutput((representation_collapse(weight, i2v_surrogate, stop_gradient=stop_gradient, scaled=scaled, **chosen),))


class RepresentationAnchorLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardRepresentationAnchorLoss",
            display_name="Representation Anchor Loss",
            category=CATEGORY,
            description="Draws what a video model's blocks and its VAE make of the photo to what they make of an unrelated one (Anti-I2V).",
            search_aliases=["anti-i2v", "ira", "features", "targeted", "internal representation"],
            inputs=[
                surrogate_input(),
                weight_input(1.0),
                scaled_input(),
                timesteps_input(),
                layers_input("Blocks by index from 0, such as 3, 27. Auto: all of them, as in the paper."),
                io.Vae.Input("vae", optional=True, tooltip=f"{VICTIMS_VAE} Its encoder's stages are anchored too, as in the paper."),
                io.Image.Input(
                    "unrelated", optional=True, tooltip="The picture to be taken for; a landscape, drawn here, if not connected."
                ),
            ],
            outputs=[LossSocket.Output("loss", display_name="loss")],
        )

    @classmethod
    def execute(
        cls,
        i2v_surrogate: VideoSurrogate,
        weight: float,
        scaled: bool,
        timesteps: str,
        layers: str,
        vae: comfy.sd.VAE | None = None,
        unrelated: Tensor | None = None,
    ) -> io.NodeOutput:
        chosen = {"layers": layers, "timesteps": timesteps}
        return io.NodeOutput((representation_anchor(weight, i2v_surrogate, vae, unrelated, scaled=scaled, **chosen),))


class DenoisingLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardDenoisingLoss",
            display_name="Denoising Loss",
            category=CATEGORY,
            description="Makes a video model bad at what it was trained for, to take the noise off a video of the photo (Anti-I2V, AdvDM).",
            search_aliases=["anti-i2v", "advdm", "diffusion loss", "training loss"],
            inputs=[surrogate_input(), weight_input(1.0), scaled_input(), timesteps_input()],
            outputs=[LossSocket.Output("loss", display_name="loss")],
        )

    @classmethod
    def execute(cls, i2v_surrogate: VideoSurrogate, weight: float, scaled: bool, timesteps: str) -> io.NodeOutput:
        return io.NodeOutput((denoising(weight, i2v_surrogate, timesteps=timesteps, scaled=scaled),))


class VelocityMinLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardVelocityMinLoss",
            display_name="Velocity-Min Loss",
            category=CATEGORY,
            description="A video model that is shown the photo leaves noise as it is (BadWorld). No first video: the cheapest loss.",
            search_aliases=["badworld", "drift", "velocity", "fast", "noise"],
            inputs=[
                surrogate_input(),
                weight_input(1.0),
                scaled_input(),
                io.Combo.Input(
                    "kind",
                    options=list(_KINDS),
                    default=MIN,
                    advanced=True,
                    tooltip="Or the way from noise to a video that stands still: away from it, or there.",
                ),
            ],
            outputs=[LossSocket.Output("loss", display_name="loss")],
        )

    @classmethod
    def execute(cls, i2v_surrogate: VideoSurrogate, weight: float, scaled: bool, kind: str) -> io.NodeOutput:
        return io.NodeOutput((velocity_min(weight, i2v_surrogate, kind=kind, scaled=scaled),))


NODES: tuple[type[io.ComfyNode], ...] = (
    RepresentationCollapseLoss,
    RepresentationAnchorLoss,
    DenoisingLoss,
    VelocityMinLoss,
)
