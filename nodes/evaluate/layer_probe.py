"""Layer Probe."""

from __future__ import annotations

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ...engine.contact_sheet import contact_sheet
from ...engine.draws import SEEDS
from ..bridge.evaluate.probe import ALL, BlockPicture, ProbeSettings, probe_blocks
from ..bridge.progress import show_text
from ..bridge.video.model import VideoSurrogate
from ..inputs import surrogate_input, working_size_input

TOGETHER, ALONE = "all frames", "this frame"


class LayerProbe(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardLayerProbe",
            display_name="Layer Probe",
            category="stillguard/evaluate",
            description=(
                "Which blocks of your own video model hold meaning: what each gives for a picture, by its three principal components as "
                "colours. For choosing the layers of losses that look into the model."
            ),
            search_aliases=["pca", "features", "layers", "anti-i2v", "representation", "blocks"],
            is_output_node=True,
            inputs=[
                io.Image.Input("image", tooltip="One photo, as it will be protected."),
                surrogate_input(),
                io.Float.Input(
                    "level", default=0.5, min=0.0, max=1.0, step=0.01, tooltip="Noise in what the model is given: 0 none, 1 only noise."
                ),
                io.String.Input("blocks", default=ALL, tooltip="All, or indices from 0 with commas between them, such as 3, 27, 28, 29."),
                io.Int.Input("frame", default=0, min=0, max=1000, tooltip="Which frame of the latents is shown, from 0."),
                io.Int.Input("size", default=256, min=32, max=2048, step=8, tooltip="Longer side of each picture; its label comes on top."),
                working_size_input(),
                io.Combo.Input(
                    "components",
                    options=[TOGETHER, ALONE],
                    advanced=True,
                    tooltip="Whose principal components: of all frames, so that a colour means the same in each, or of the one shown.",
                ),
                io.Int.Input("seed", default=0, min=0, max=SEEDS - 1, advanced=True, tooltip="Of the noise."),
            ],
            outputs=[
                io.Image.Output("pictures", display_name="pictures"),
                io.Image.Output("sheet", display_name="sheet"),
                io.String.Output("shares", display_name="shares"),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        i2v_surrogate: VideoSurrogate,
        level: float,
        blocks: str,
        frame: int,
        size: int,
        working_size: int,
        components: str,
        seed: int,
    ) -> io.NodeOutput:
        settings = ProbeSettings(level, blocks, frame, components == TOGETHER, working_size, size, seed)
        found = probe_blocks(image, i2v_surrogate, settings, node_id=cls.hidden.unique_id)
        pictures = torch.stack([one.picture for one in found])
        sheet = contact_sheet(pictures)[None].movedim(1, -1)
        table = _table(i2v_surrogate.family.name, settings, found)
        show_text(table, node_id=cls.hidden.unique_id)
        shown = {**ui.PreviewImage(sheet).as_dict(), "text": (table,)}
        return io.NodeOutput(pictures.movedim(1, -1), sheet, table, ui=shown)


def _table(family: str, settings: ProbeSettings, found: list[BlockPicture]) -> str:
    """What the three components explain of the features' variance, block by block."""
    whose = "all frames" if settings.together else "this frame"
    head = f"{family} at noise level {settings.level:g}, frame {settings.frame}; shares of the variance of {whose}."
    lines = ["| block | grid | red | green | blue | together |", "| --- | --- | --- | --- | --- | --- |"]
    for one in found:
        _, height, width = one.grid
        cells = [str(one.block), f"{width}x{height}", *(f"{share:.1%}" for share in (*one.shares, sum(one.shares)))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([head, "", *lines])


NODES: tuple[type[io.ComfyNode], ...] = (LayerProbe,)
