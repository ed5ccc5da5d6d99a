"""Load Image Encoder."""

from __future__ import annotations

from comfy_api.latest import io

from ...engine.weights.catalogue import catalogue
from ..bridge.model_files import choices, chosen_file
from ..bridge.surrogates.clip_vision_files import image_encoder_from

ENTRY = "lab_encoder"


class LoadImageEncoder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardLoadImageEncoder",
            display_name="Load Image Encoder",
            category="stillguard/surrogates",
            description="A CLIP image encoder of any size, such as the small one that ships with the pack, as ComfyUI's own CLIP_VISION.",
            search_aliases=["clip vision", "embedding", "lab"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=choices([catalogue()[ENTRY]]),
                    tooltip="A safetensors file in models/stillguard whose metadata holds its configuration.",
                ),
            ],
            outputs=[io.ClipVision.Output("clip_vision", display_name="clip_vision")],
        )

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        return io.NodeOutput(image_encoder_from(chosen_file([catalogue()[ENTRY]], file)))


NODES: tuple[type[io.ComfyNode], ...] = (LoadImageEncoder,)
