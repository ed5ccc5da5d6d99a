"""Load Face Animator and Frame Portrait."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...engine.weights.catalogue import catalogue
from ..bridge.model_files import choices, chosen_file
from ..bridge.progress import show_text
from ..bridge.surrogates.face_animator import face_animator_from
from ..bridge.surrogates.portrait import Place, already_framed, by_box, by_hand, by_landmarks, frame_portrait
from ..sockets import FaceAnimatorSocket, FramingSocket

CATEGORY = "stillguard/surrogates"
ENTRY = "face_animator"


class LoadFaceAnimator(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardLoadFaceAnimator",
            display_name="Load Face Animator",
            category=CATEGORY,
            description=(
                "Talking Head(?) Anime 3 by Pramook Khungurn: moves face, head and body of one portrait, on a CPU in seconds a frame. "
                "Models CC BY 4.0."
            ),
            search_aliases=["tha3", "talking head anime", "face", "wink", "mouth", "animator"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=choices([catalogue()[ENTRY]]),
                    tooltip="In models/stillguard: one safetensors file, or any of the five of separable_float, which stands for all.",
                ),
            ],
            outputs=[FaceAnimatorSocket.Output("face_animator", display_name="face_animator")],
        )

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        return io.NodeOutput(face_animator_from(chosen_file([catalogue()[ENTRY]], file)))


def _share(name: str, default: float, tooltip: str, *, low: float = 0.0, high: float = 1.0) -> io.Float.Input:
    return io.Float.Input(name, default=default, min=low, max=high, step=0.005, tooltip=tooltip)


def _place_input() -> io.DynamicCombo.Input:
    detector = io.Custom("FACE_DETECTION_MODEL").Input(
        "face_detection_model", tooltip="From Load Face Detection Model (MediaPipe). It finds faces of people, not of drawings."
    )
    box = [
        _share("left", 0.35, "Where the head begins, ears and hair inside, in shares of the photo's width."),
        _share("top", 0.1, "Where the hair begins, in shares of the photo's height."),
        _share("width", 0.3, "In shares of the photo's width."),
        _share("height", 0.4, "From the top of the hair to the chin, in shares of the photo's height."),
    ]
    bounding = io.BoundingBox.Input("box", force_input=True, tooltip="Of the whole head with hair and chin, in pixels: from Bounding Box.")
    hand = [
        _share("x", 0.5, "The head's middle, in shares of the photo's width."),
        _share("y", 0.3, "The head's middle, in shares of the photo's height."),
        _share("height", 0.3, "From the top of the hair to the chin, in shares of the photo's height."),
    ]
    return io.DynamicCombo.Input(
        "place",
        options=[
            # One without sockets comes first: ComfyUI's page cannot make a node whose first choice brings some.
            io.DynamicCombo.Option("head box", box),
            io.DynamicCombo.Option("face landmarks", [detector]),
            io.DynamicCombo.Option("bounding box", [bounding]),
            io.DynamicCombo.Option("by hand", hand),
            io.DynamicCombo.Option("already framed", []),
        ],
        tooltip="How the head is found, which the animator expects in one place of its square.",
    )


class FramePortrait(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardFramePortrait",
            display_name="Frame Portrait",
            category=CATEGORY,
            description="The square of a photo that the face animator sees, with the head where it expects one. The photo keeps its size.",
            search_aliases=["crop", "face", "tha3", "talking head anime", "align"],
            inputs=[
                io.Image.Input("image", tooltip="One photo or drawing of a person who faces the viewer."),
                _place_input(),
                _share("right", 0.0, "Moves the head to the right, by shares of the square's side.", low=-0.5, high=0.5),
                _share("down", 0.0, "Moves the head down, by shares of the square's side.", low=-0.5, high=0.5),
                io.Float.Input("size", default=1.0, min=0.25, max=4.0, step=0.01, tooltip="Makes the head this many times as large."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White on the person. Load Image's mask marks transparency: invert it. An RGBA picture needs none.",
                ),
            ],
            outputs=[
                io.Image.Output("framed", display_name="framed"),
                FramingSocket.Output("framing", display_name="framing"),
                io.Int.Output("working_size", display_name="working_size"),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, image: Tensor, place: dict[str, Any], right: float, down: float, size: float, mask: Tensor | None = None
    ) -> io.NodeOutput:
        node_id = cls.hidden.unique_id
        framed = frame_portrait(image, mask, _place(place, image), right=right, down=down, size=size, node_id=node_id)
        show_text(framed.told, node_id=node_id)
        return io.NodeOutput(framed.picture, framed.framing, framed.working_size)


def _place(choice: dict[str, Any], image: Tensor) -> Place:
    tall, wide = image.shape[1:3]
    match choice["place"]:
        case "face landmarks":
            return by_landmarks(choice.get("face_detection_model"))
        case "head box":
            return by_box(choice["left"] * wide, choice["top"] * tall, choice["width"] * wide, choice["height"] * tall)
        case "bounding box":
            return by_box(**_one_box(choice.get("box")))
        case "by hand":
            return by_hand(choice["x"], choice["y"], choice["height"])
        case _:
            return already_framed


def _one_box(boxes: Any) -> dict[str, float]:
    """Core's nodes give one box, or for each picture a list of them."""
    while isinstance(boxes, list) and len(boxes) == 1:
        boxes = boxes[0]
    if not isinstance(boxes, dict):
        many = f"{len(boxes)} boxes" if isinstance(boxes, list) else "no box"
        raise ValueError(f'`box` holds {many}, and the head has one: connect Bounding Box with the head\'s, or choose "head box".')
    return {"left": boxes["x"], "top": boxes["y"], "width": boxes["width"], "height": boxes["height"]}


NODES: tuple[type[io.ComfyNode], ...] = (LoadFaceAnimator, FramePortrait)
