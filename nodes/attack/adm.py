"""Load ADM."""

from __future__ import annotations

from comfy_api.latest import io

from ...engine.weights.catalogue import catalogue
from ..bridge.attack.adm import adm_from
from ..bridge.model_files import choices, chosen_file
from ..inputs import precision_input
from ..sockets import ADMSocket

ENTRY = "adm_uncond"


class LoadADM(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardLoadADM",
            display_name="Load ADM (pixel diffusion)",
            category="stillguard/attack test",
            description="OpenAI's unconditional diffusion model in pixel space, with which DiffPure, DDSPure and GrIDPure were published.",
            search_aliases=["guided diffusion", "openai", "diffpure", "gridpure", "ddspure", "256x256_diffusion_uncond", "purify"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=choices([catalogue()[ENTRY]]),
                    tooltip="256x256_diffusion_uncond.pt in models/stillguard, or another unconditional model of its layout.",
                ),
                precision_input(),
            ],
            outputs=[ADMSocket.Output("adm", display_name="adm")],
        )

    @classmethod
    def execute(cls, file: str, precision: str) -> io.NodeOutput:
        return io.NodeOutput(adm_from(chosen_file([catalogue()[ENTRY]], file), precision))


NODES: tuple[type[io.ComfyNode], ...] = (LoadADM,)
