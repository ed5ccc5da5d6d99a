"""Silencer's loss and its node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io
from torch import Tensor

from ...engine.animators.pose_animator import noise_schedule
from ...engine.losses import silencer
from ..bridge.protect.loss_spec import LossSpec
from ..bridge.surrogates.run_surrogates import Surrogates
from ..bridge.surrogates.speech import heard
from ..bridge.surrogates.talking_face import Face, FaceSockets
from ..bridge.surrogates.talking_head import LoadedTalkingHead, check_vae, talking_head_views
from ..bridge.surrogates.vae import drawn_vae_view, vae_view
from ..inputs import talking_inputs, weight_input
from ..sockets import LossSocket

if TYPE_CHECKING:
    import comfy.sd

FAITHFUL, PUBLISHED = "faithful (as Hallo generates)", "reference (as published)"
WINDOWS = {"reference": silencer.REFERENCE, "several": silencer.SEVERAL}


def audio_nullifying(
    weight: float,
    talking_head: LoadedTalkingHead,
    vae: comfy.sd.VAE,
    speech: Tensor,
    face: Face,
    *,
    published: bool = False,
    windows: str = "reference",
    dropout: float = 0.05,
) -> LossSpec:
    """speech: features [N,layers,channels], 25 a second. Raises ValueError for a VAE of another kind."""
    check_vae(vae)

    def make(surrogates: Surrogates) -> silencer.AudioNullifying:
        net, head = talking_head_views(surrogates, talking_head)
        setup = silencer.TalkingSetup(
            net,
            head,
            drawn_vae_view(surrogates, vae) if published else vae_view(surrogates, vae),
            speech,
            face.embedding,
            face.region,
            face.regions,
            mode="reference" if published else "faithful",
            # Hallo draws nothing, and begins with copies of the portrait.
            sampled="everything" if published else "nothing",
            before="grey" if published else "portrait",
        )
        signal = noise_schedule("scaled_linear").alphas_cumprod
        return silencer.AudioNullifying(setup, signal, WINDOWS[windows], dropped=dropout)

    return LossSpec("Audio Nullifying", -weight, make, one_photo="the audio loss has the face of one")


class AudioNullifyingLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardAudioNullifyingLoss",
            display_name="Audio Nullifying Loss",
            category="stillguard/losses/silencer",
            description="The portrait does not speak: whatever a talking head hears, it predicts the still picture (Silencer, first stage).",
            search_aliases=["silencer", "hallo", "talking head", "audio", "lip sync", "freeze"],
            inputs=[
                *talking_inputs("The photo that Protect is given."),
                weight_input(1.0),
                io.Combo.Input(
                    "network",
                    options=[FAITHFUL, PUBLISHED],
                    tooltip="Hallo's weights as Hallo runs them, or as Silencer's code does, which is another network.",
                ),
                io.Combo.Input(
                    "windows",
                    options=list(WINDOWS),
                    tooltip="Timesteps: 200 to 299 as in the paper, or one of each of four ranges at every step, at four times the cost.",
                ),
                io.Float.Input(
                    "audio_dropout",
                    default=0.05,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Share of the steps in which the talking head hears nothing.",
                ),
            ],
            outputs=[LossSocket.Output("loss", display_name="loss")],
        )

    @classmethod
    def execute(
        cls,
        talking_head: LoadedTalkingHead,
        vae: comfy.sd.VAE,
        audio_encoder: Any,
        audio: Any,
        image: Tensor,
        weight: float,
        network: str,
        windows: str,
        audio_dropout: float,
        **face: Any,
    ) -> io.NodeOutput:
        check_vae(vae)
        told = FaceSockets(**face).face(image, talking_head.head)
        speech = heard(audio_encoder, audio, talking_head.head).features
        published = network == PUBLISHED
        spec = audio_nullifying(weight, talking_head, vae, speech, told, published=published, windows=windows, dropout=audio_dropout)
        return io.NodeOutput((spec,))


NODES: tuple[type[io.ComfyNode], ...] = (AudioNullifyingLoss,)
