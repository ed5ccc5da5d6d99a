"""Animators that no loss may see: how much of an effect reaches networks that the protection was not made with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..draws import stream
from ..weights.reading import WeightsError, read_weights
from .autoencoder import CHANNELS, VictimAutoencoder
from .concat_unet import VictimUNet
from .transformer import VictimTransformer

FILE = "stillguard_lab_victim_{}.safetensors"
SIDE = 128
Network = TypeVar("Network", bound=nn.Module)
NETWORKS: dict[str, type[nn.Module]] = {"transformer": VictimTransformer, "unet": VictimUNet}


class LabVictim:
    """One of NETWORKS with the autoencoder of all of them, frozen. It animates frame by frame, from the same noise in every frame."""

    def __init__(self, network: str, folder: Path) -> None:
        """Raises WeightsError when a file of `folder` is missing, damaged or not its network's."""
        self._autoencoder = load_network(VictimAutoencoder(), folder / FILE.format("autoencoder"))
        self._network = load_network(NETWORKS[network](), folder / FILE.format(network))

    @torch.no_grad()
    def animation(
        self, photo: Tensor, poses: Tensor, *, steps: int = 20, seed: int = 0, after_step: Callable[[int], None] = lambda done: None
    ) -> Tensor:
        """photo [1,3,H,W] and poses [N,3,H,W] in [0,1], squashed to 128 pixels -> frames [N,3,128,128] in [0,1]; equal for equal seeds.

        Euler's method from time 1, noise, to 0 (Liu et al. 2023). after_step hears how many steps are done, and may raise.
        """
        photo, poses = (F.interpolate(x.float(), size=(SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 1) for x in (photo, poses))
        seen = self._autoencoder.encode(photo)
        latents = torch.randn(1, CHANNELS, *seen.shape[2:], generator=stream(seed, "frames")).to(seen)
        latents, seen = (x.repeat(len(poses), 1, 1, 1) for x in (latents, seen))
        for step in range(steps, 0, -1):
            time = torch.full((len(poses),), step / steps, device=seen.device)
            latents = latents - self._network(latents, time, seen, poses) / steps
            after_step(steps - step + 1)
        frames: Tensor = self._autoencoder.decode(latents).clamp(0, 1)
        return frames


def load_network(network: Network, path: Path) -> Network:
    """Fill it from a file of fp16 weights, frozen, in eval mode. Raises WeightsError when the file is missing, damaged or another's."""
    if not path.is_file():
        raise WeightsError(f"The file {path.name} of the laboratory is missing: restore it from the pack's engine/weights/lab folder.")
    state = {key: value.float() for key, value in read_weights(path).items()}
    # fp16 files hold no counters, and nothing reads them.
    wanted = {key for key, value in network.state_dict().items() if value.is_floating_point()}
    if wanted != set(state):
        raise WeightsError(f"{path.name} is not the laboratory's file: restore it from the pack's engine/weights/lab folder.")
    network.load_state_dict(state, strict=False)
    return network.eval().requires_grad_(False)
