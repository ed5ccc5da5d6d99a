"""Disobedience Loss and Tear Loss, on the face animator."""

from __future__ import annotations

from comfy_api.latest import io

from ...engine.animators.face.framing import Framing
from ...engine.losses import face
from ..bridge.protect.loss_spec import LossSpec
from ..bridge.surrogates.face_animator import LoadedFaceAnimator, face_animator_view
from ..bridge.surrogates.run_surrogates import Surrogates
from ..inputs import weight_input
from ..sockets import FaceAnimatorSocket, FramingSocket, LossSocket

CATEGORY = "stillguard/losses/face"
_ONE_PHOTO = "the framing is that of one"


def disobedience(weight: float, animator: LoadedFaceAnimator, framing: Framing, turn: float, drawn: FramingDraws) -> LossSpec:
    def make(surrogates: Surrogates) -> face.Disobedience:
        return face.Disobedience(drawn.setup(surrogates, animator, framing), turn)

    return LossSpec("Disobedience", -weight, make, one_photo=_ONE_PHOTO)


def tear(weight: float, animator: LoadedFaceAnimator, framing: Framing, drawn: FramingDraws) -> LossSpec:
    return LossSpec("Tear", weight, lambda surrogates: face.Tear(drawn.setup(surrogates, animator, framing)), one_photo=_ONE_PHOTO)


class FramingDraws:
    """How many poses a step draws, and how far the square moves in it."""

    def __init__(self, poses: int, scale: float, shift: float) -> None:
        self._poses, self._scale, self._shift = poses, scale, shift

    def setup(self, surrogates: Surrogates, animator: LoadedFaceAnimator, framing: Framing) -> face.FaceSetup:
        view = face_animator_view(surrogates, animator, poses=self._poses)
        return face.FaceSetup(view, framing, self._poses, self._scale, self._shift)


def _inputs(weight: float, *others: io.Input) -> list[io.Input]:
    return [
        FaceAnimatorSocket.Input("face_animator", tooltip="From Load Face Animator."),
        FramingSocket.Input("framing", tooltip="From Frame Portrait, of the photo that Protect is given."),
        weight_input(weight),
        *others,
        io.Int.Input("poses", default=1, min=1, max=16, tooltip="Poses drawn for each step; cost grows with them."),
        io.Float.Input(
            "framing_scale",
            default=0.0,
            min=0.0,
            max=0.5,
            step=0.01,
            tooltip="EoT over the framing: in half of the steps the person is smaller by up to this share, or larger by half of it.",
        ),
        io.Float.Input(
            "framing_shift",
            default=0.0,
            min=0.0,
            max=0.5,
            step=0.005,
            tooltip="EoT over the framing: in those steps the square is also moved, by up to this share of its side.",
        ),
    ]


class DisobedienceLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        turn = io.Float.Input(
            "turn", default=0.3, min=0.0, max=100.0, step=0.05, tooltip="How much the turning of head and body counts beside the face."
        )
        return io.Schema(
            node_id="StillguardDisobedienceLoss",
            display_name="Disobedience Loss",
            category=CATEGORY,
            description="The face stays as it is, whatever pose drives it (Silencer's idea, on a feed-forward animator).",
            search_aliases=["freeze", "silencer", "tha3", "face", "animator"],
            inputs=_inputs(1.0, turn),
            outputs=[LossSocket.Output("loss", display_name="loss")],
        )

    @classmethod
    def execute(
        cls,
        face_animator: LoadedFaceAnimator,
        framing: Framing,
        weight: float,
        turn: float,
        poses: int,
        framing_scale: float,
        framing_shift: float,
    ) -> io.NodeOutput:
        return io.NodeOutput((disobedience(weight, face_animator, framing, turn, FramingDraws(poses, framing_scale, framing_shift)),))


class TearLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardTearLoss",
            display_name="Tear Loss",
            category=CATEGORY,
            description="The driven face breaks: what is painted and warped goes as far as it can from what the clean photo gives.",
            search_aliases=["untargeted", "tha3", "face", "animator", "warp"],
            inputs=_inputs(1.0),
            outputs=[LossSocket.Output("loss", display_name="loss")],
        )

    @classmethod
    def execute(
        cls,
        face_animator: LoadedFaceAnimator,
        framing: Framing,
        weight: float,
        poses: int,
        framing_scale: float,
        framing_shift: float,
    ) -> io.NodeOutput:
        return io.NodeOutput((tear(weight, face_animator, framing, FramingDraws(poses, framing_scale, framing_shift)),))


NODES: tuple[type[io.ComfyNode], ...] = (
    DisobedienceLoss,
    TearLoss,
)
