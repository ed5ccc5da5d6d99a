"""ADM, a diffusion model in pixel space, under ComfyUI's memory management."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from comfy.model_patcher import ModelPatcher

from ....engine.purify.adm import ADM, load_adm
from ..memory.devices import patched
from ..memory.precision import working_dtype

# Values held at most for each pixel and each channel of the first level, whatever the width, size and batch; counted with the
# allocator's events on the CPU at 128 and 256 px.
_FORWARD = 12


@dataclass(frozen=True, eq=False)
class LoadedADM:
    """What a STILLGUARD_ADM carries.

    `network(x [B,3,H,W] in [-1,1], t [B] 0-based steps of the linear schedule of 1000)` gives [B,6,H,W]: the noise in the
    first three channels, the variance's interpolation v in the last three. Published for 256x256.
    """

    network: ADM
    patcher: ModelPatcher
    name: str

    def memory_required(self, height: int, width: int, batch: int = 1) -> float:
        """Bytes of a pass without gradients."""
        unet = self.network.unet
        return float(_FORWARD * unet.dtype.itemsize * unet.config["block_out_channels"][0] * batch * height * width)


def adm_from(path: Path, precision: str) -> LoadedADM:
    """Raises WeightsError for a file that is none."""
    # Nodes run under inference mode, whose tensors autograd refuses later.
    with torch.inference_mode(False):
        network = load_adm(path, dtype=working_dtype(precision))
        return LoadedADM(network, patched(network), path.name)
