"""A small ADM in the layout of OpenAI's file, whose outputs by OpenAI's own code lie in tests/data/adm.

official.safetensors holds pictures `x`, steps `t` and the `output` of guided_diffusion.unet.UNetModel of github.com/openai/guided-diffusion
at commit 22e0df8, in fp32 on the CPU, with model_channels 32, channel_mult (1, 2, 4), num_res_blocks 2, attention_resolutions (2, 4),
num_head_channels 64, out_channels 6, use_scale_shift_norm and resblock_updown; its metadata has the shapes of that network's tensors in
their order. The weights are `small_state`: NumPy guarantees that a RandomState draws the same numbers for ever.
256x256_diffusion_uncond.json has the names and shapes of the same class with the settings that the repository's README gives for that file.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

DATA = Path(__file__).parent / "data" / "adm"


def small_state() -> dict[str, Tensor]:
    """Weights that neither damp nor amplify; norms near the identity, and no weight zero as before training."""
    with safe_open(DATA / "official.safetensors", "pt") as file:
        shapes = json.loads(file.metadata()["shapes"])
    draws = np.random.RandomState(0)

    def tensor(key: str, shape: list[int]) -> Tensor:
        drawn = draws.standard_normal(shape).astype(np.float32)
        if len(shape) > 1:
            return torch.from_numpy(drawn / np.sqrt(np.prod(shape[1:])).astype(np.float32))
        scales = key.endswith(("norm.weight", "layers.0.weight")) or key == "out.0.weight"
        return torch.from_numpy(drawn * np.float32(0.1) + np.float32(scales))

    return {key: tensor(key, shape) for key, shape in shapes.items()}


def small_adm(folder: Path) -> Path:
    """The small network as a file of 18 MB. Takes pictures whose sides are multiples of 4."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(small_state(), folder / "small_adm.safetensors")
    return folder / "small_adm.safetensors"


def published_shapes() -> dict[str, Tensor]:
    """The published file's names and shapes, without its numbers."""
    shapes = json.loads((DATA / "256x256_diffusion_uncond.json").read_text())
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
