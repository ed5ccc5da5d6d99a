"""Dual Space."""

from __future__ import annotations

from comfy_api.latest import io

from ...engine.spaces import Chroma, LowFrequency
from ...engine.spaces.low_frequency import Band
from ..bridge.protect.dual import DualSetup
from ..sockets import SpaceSocket

CHROMA_FIRST, FREQUENCY_FIRST, CHROMA, FREQUENCY = (
    "chroma, then low frequency",
    "low frequency, then chroma",
    "chroma",
    "low frequency",
)


class DualSpace(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardDualSpace",
            display_name="Dual Space",
            category="stillguard",
            description=(
                "Changes a photo's colours and its low frequencies in turn, as Anti-I2V does, instead of single pixels: connect it to "
                "`space` of Protect or of a method. The budget holds as before."
            ),
            search_aliases=["anti-i2v", "dsp", "lab", "chroma", "dct", "frequency", "smooth", "stillguard"],
            inputs=[
                io.Combo.Input(
                    "spaces",
                    options=[CHROMA_FIRST, FREQUENCY_FIRST, CHROMA, FREQUENCY],
                    tooltip="Which takes the first step, and the next by turns; or one alone.",
                ),
                io.Combo.Input(
                    "band",
                    options=["triangle", "square"],
                    tooltip="Low frequencies are those whose two numbers add up to less than the reach, or are both below it.",
                ),
                io.Float.Input(
                    "reach",
                    default=0.25,
                    min=0.01,
                    max=2.0,
                    step=0.01,
                    tooltip="How far the band goes, as a share of the highest frequency that the models see; a square of 1 is everything.",
                ),
                io.Boolean.Input("mean", default=True, advanced=True, tooltip="Whether a channel's mean may change too."),
                io.Float.Input(
                    "chroma_unit",
                    default=1.0,
                    min=0.01,
                    max=20.0,
                    step=0.01,
                    advanced=True,
                    tooltip="What a step of 1 is in colour, in units of a* and b*. A step of 1 in frequencies is 1 level on average.",
                ),
            ],
            outputs=[SpaceSocket.Output("space", display_name="space")],
        )

    @classmethod
    def execute(cls, spaces: str, band: Band, reach: float, mean: bool, chroma_unit: float) -> io.NodeOutput:
        return io.NodeOutput(dual_setup(spaces, band, reach, mean=mean, chroma_unit=chroma_unit))


def dual_setup(spaces: str, band: Band = "triangle", reach: float = 0.25, *, mean: bool = True, chroma_unit: float = 1.0) -> DualSetup:
    """spaces: one of the node's choices."""
    chroma, frequency = Chroma(size=chroma_unit), LowFrequency(band=band, reach=reach, dc=mean)
    turns: dict[str, tuple[Chroma | LowFrequency, ...]] = {
        CHROMA_FIRST: (chroma, frequency),
        FREQUENCY_FIRST: (frequency, chroma),
        CHROMA: (chroma,),
        FREQUENCY: (frequency,),
    }
    return DualSetup(turns[spaces])


NODES: tuple[type[io.ComfyNode], ...] = (DualSpace,)
