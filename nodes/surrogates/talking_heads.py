"""Load Talking Head."""

from __future__ import annotations

from comfy_api.latest import io

from ...engine.weights.catalogue import catalogue
from ..bridge.model_files import choices, chosen_file
from ..bridge.surrogates.talking_head import talking_head_from
from ..inputs import precision_input
from ..sockets import TalkingHeadSocket

CATEGORY = "stillguard/surrogates"
ENTRY = "talking_head"


class LoadTalkingHead(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardLoadTalkingHead",
            display_name="Load Talking Head",
            category=CATEGORY,
            description="Hallo: makes a portrait speak what it hears. All of its networks from one file.",
            search_aliases=["hallo", "silencer", "audio", "speech", "lip sync", "portrait"],
            inputs=[
                io.Combo.Input("file", options=choices([catalogue()[ENTRY]]), tooltip="Hallo's net.pth, in models/stillguard."),
                precision_input(),
            ],
            outputs=[TalkingHeadSocket.Output("talking_head", display_name="talking_head")],
        )

    @classmethod
    def execute(cls, file: str, precision: str) -> io.NodeOutput:
        return io.NodeOutput(talking_head_from(chosen_file([catalogue()[ENTRY]], file), precision))


NODES: tuple[type[io.ComfyNode], ...] = (LoadTalkingHead,)
