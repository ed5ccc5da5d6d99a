"""Check Copy."""

from __future__ import annotations

from comfy_api.latest import io, ui
from torch import Tensor

from ...engine.metrics.comparison import PROTECTED
from ...engine.metrics.visibility import NotMeasured, Visibility, copy_visibility
from ...engine.report.words import visibility_sentence
from ..bridge.progress import show_text

STOP, GO_ON = "stop", "go on"


class CheckCopy(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardCheckCopy",
            display_name="Check Copy",
            category="stillguard/attack test",
            description=(
                "Looks at a protected photo before it is attacked: is it a copy of the clean one, and which? JPEG files, smaller, larger "
                "and cropped copies and screenshots pass as they are; another photo stops the run before the victim's long work."
            ),
            search_aliases=["attack", "own photo", "jpeg", "crop", "screenshot", "compare"],
            inputs=[
                io.Image.Input("clean", tooltip="The photo before protection."),
                io.Image.Input("copy", tooltip="The protected photo, or any copy of it that others have."),
                io.Combo.Input(
                    "another_photo",
                    options=[STOP, GO_ON],
                    tooltip="What to do if the copy does not look like the clean photo. go on: for a copy that was changed a lot.",
                ),
            ],
            outputs=[io.Image.Output("image", display_name="image"), io.String.Output("report", display_name="report")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, clean: Tensor, copy: Tensor, another_photo: str) -> io.NodeOutput:
        for name, pictures in (("clean", clean), ("copy", copy)):
            if pictures.shape[0] != 1:
                raise ValueError(f"`{name}` has {pictures.shape[0]} pictures: choose one with Image From Batch.")
        seen = copy_visibility(clean.movedim(-1, 1), copy.movedim(-1, 1))
        if isinstance(seen, NotMeasured) and seen.other_photo and another_photo == STOP:
            raise ValueError(
                "The protected photo does not look like a copy of the clean one: choose two files of the same photo, or set "
                f'`another_photo` of Check Copy to "{GO_ON}" if this is a copy that was changed a lot.'
            )
        text = _sentence(seen)
        show_text(text, node_id=cls.hidden.unique_id)
        return io.NodeOutput(copy, text, ui=ui.PreviewText(text))


def _sentence(seen: Visibility | NotMeasured) -> str:
    if isinstance(seen, NotMeasured):
        return f"How visible the change of the copy is cannot be measured: {seen.why}"
    if seen.resized_from is None:
        return f"The copy shows the whole photo in its own size. {visibility_sentence(PROTECTED, seen)}"
    height, width = seen.resized_from
    return f"The copy shows the whole photo, with {width} × {height} pixels. {visibility_sentence(PROTECTED, seen)}"


NODES: tuple[type[io.ComfyNode], ...] = (CheckCopy,)
