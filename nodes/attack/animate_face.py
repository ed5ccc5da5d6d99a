"""Animate (Face)."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...engine.animators.face.framing import Framing
from ...engine.animators.face.motions import EXPRESSION, SEQUENCES, expression, sequence, speech, there_and_back, with_expression
from ...engine.animators.face.poses import TURNS
from ..bridge.attack.animate_face import animate_face
from ..bridge.progress import show_text
from ..bridge.surrogates.face_animator import LoadedFaceAnimator
from ..sockets import FaceAnimatorSocket, FramingSocket

SPEECH, ONE_POSE = "speech", "one pose"
WHITE, TRANSPARENT = "white", "transparent"
SLIDERS = {
    "mouth_open": "Opens the mouth, as for a.",
    "mouth_i": "Mouth as for i.",
    "mouth_u": "Mouth as for u.",
    "mouth_e": "Mouth as for e.",
    "mouth_o": "Mouth as for o.",
    "smile": "Lifts the corners of the mouth.",
    "wink_left": "Closes the person's left eye, on the right in the picture.",
    "wink_right": "Closes the person's right eye, on the left in the picture.",
    "brows_raised": "Lifts both eyebrows.",
    "brows_angry": "Frowns.",
    "brows_troubled": "Lifts the inner ends of the eyebrows.",
    "nod": "Lifts the head; below 0 it bows.",
    "turn": "Turns the head to the left of the picture; below 0 to its right.",
    "tilt": "Tilts the head to the left of the picture; below 0 to its right.",
    "body_turn": "Turns the body to the left of the picture; below 0 to its right.",
    "lean": "Leans the body to the left of the picture; below 0 to its right.",
    "breathing": "Lifts the chest.",
}
ADVANCED = ("mouth_i", "mouth_u", "mouth_e", "mouth_o", "brows_raised", "brows_angry", "brows_troubled", "body_turn", "lean", "breathing")


def _motion_input() -> io.DynamicCombo.Input:
    def frames(default: int, low: int, tooltip: str) -> io.Int.Input:
        return io.Int.Input("frames", default=default, min=low, max=10000, tooltip=tooltip)

    spoken = [
        io.Audio.Input("audio", tooltip="A voice: the mouth opens with its loudness."),
        io.Float.Input("fps", default=12.0, min=1.0, max=60.0, step=0.5, tooltip="Frames for each second of the sound."),
        frames(0, 0, "At most this many; 0 for the whole sound."),
    ]
    presets = [io.DynamicCombo.Option(name, [frames(24, len(keys), "Of the whole motion.")]) for name, keys in SEQUENCES.items()]
    alone = frames(9, 1, "From rest to the sliders' pose and back; 1: the pose alone.")
    return io.DynamicCombo.Input(
        "motion",
        options=[*presets[::-1], io.DynamicCombo.Option(SPEECH, spoken), io.DynamicCombo.Option(ONE_POSE, [alone])],
        tooltip="What the face does; the sliders below add to it.",
    )


class AnimateFace(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        def slider(name: str, tooltip: str) -> io.Float.Input:
            low = -1.0 if EXPRESSION[name][0] in TURNS else 0.0
            return io.Float.Input(
                name,
                default=0.0,
                min=low,
                max=1.0,
                step=0.01,
                display_mode=io.NumberDisplay.slider,
                tooltip=tooltip,
                advanced=name in ADVANCED,
            )

        return io.Schema(
            node_id="StillguardAnimateFace",
            display_name="Animate (Face)",
            category="stillguard/attack test",
            description="Attack your own picture: the face animator makes the person talk, wink and turn. Nothing is random.",
            search_aliases=["tha3", "talking head anime", "attack", "victim", "wink", "lip", "audio", "image to video"],
            inputs=[
                FaceAnimatorSocket.Input("face_animator", tooltip="From Load Face Animator."),
                io.Image.Input("image", tooltip="The clean or the protected photo, at any size; or Frame Portrait's `framed`."),
                _motion_input(),
                *(slider(name, tooltip) for name, tooltip in SLIDERS.items()),
                io.Combo.Input("background", options=[WHITE, TRANSPARENT], tooltip="Behind the person; transparent gives RGBA pictures."),
                FramingSocket.Input("framing", optional=True, tooltip="From Frame Portrait; one for the clean and the protected photo."),
            ],
            outputs=[io.Image.Output("frames", display_name="frames")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        face_animator: LoadedFaceAnimator,
        image: Tensor,
        motion: dict[str, Any],
        background: str,
        framing: Framing | None = None,
        **sliders: float,
    ) -> io.NodeOutput:
        node_id = cls.hidden.unique_id
        poses = _poses(motion, expression(sliders))
        if motion["motion"] == SPEECH:
            show_text(_told(motion, len(poses)), node_id=node_id)
        frames = animate_face(image, framing, face_animator, poses, transparent=background == TRANSPARENT, node_id=node_id)
        return io.NodeOutput(frames)


def _poses(motion: dict[str, Any], values: dict[str, float]) -> Tensor:
    """Raises ValueError for what the motion cannot be made of."""
    if motion["motion"] == ONE_POSE:
        if not any(values.values()):
            raise ValueError("All sliders are at 0, so that nothing would move: set one, such as mouth_open, or choose another motion.")
        return there_and_back(values, motion["frames"])
    if motion["motion"] == SPEECH:
        return with_expression(_spoken(motion), values)
    return with_expression(sequence(motion["motion"], motion["frames"]), values)


def _spoken(motion: dict[str, Any]) -> Tensor:
    audio = motion.get("audio")
    if not isinstance(audio, dict) or "waveform" not in audio:
        raise ValueError("No sound is connected to `audio`: connect Load Audio, or choose another motion.")
    waveform = audio["waveform"]
    if len(waveform) > 1:
        raise ValueError(f"`audio` holds {len(waveform)} sounds, and the mouth follows one: connect one.")
    return speech(waveform.flatten(0, 1), audio["sample_rate"], motion["fps"], motion["frames"] or None)


def _told(motion: dict[str, Any], count: int) -> str:
    audio = motion["audio"]
    seconds = audio["waveform"].shape[-1] / audio["sample_rate"]
    return f"{count} frames, which are {min(seconds, count / motion['fps']):.1f} of {seconds:.1f} s of the sound at {motion['fps']:g} fps"


NODES: tuple[type[io.ComfyNode], ...] = (AnimateFace,)
