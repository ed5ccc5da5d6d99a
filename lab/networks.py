"""The laboratory's networks that ship with the pack."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from .train_encoder import network, project


class LabEncoder:
    """The image encoder outside of ComfyUI, frozen."""

    def __init__(self, path: Path) -> None:
        self._network = network().eval().requires_grad_(False)
        self._network.load_state_dict({key: value.float() for key, value in load_file(path).items()}, strict=False)

    def embed(self, image: Tensor) -> Tensor:
        """[B,3,H,W] in [0,1] -> [B,64]."""
        return project(self._network, image)
