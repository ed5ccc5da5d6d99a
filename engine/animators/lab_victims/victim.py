"""Animators that no loss may see: how much of an effect reaches networks that the protection was not made with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ...draws import stream
from ...picture import resize
from ...weights.reading import load_own
from .autoencoder import CHANNELS, VictimAutoencoder
from .transformer import VictimTransformer
from .unet import VictimUNet

FILE = "stillguard_lab_victim_{}.safetensors"
SIDE = 128
NETWORKS: dict[str, type[nn.Module]] = {"transformer": VictimTransformer, "unet": VictimUNet}


class LabVictim:
    """One of NETWORKS with the autoencoder of all of them, frozen. It animates frame by frame, from the same noise in every frame."""

    def __init__(self, network: str, folder: Path) -> None:
        """Raises WeightsError as load_own does."""
        self._autoencoder = load_own(VictimAutoencoder(), folder / FILE.format("autoencoder"))
        self._network = load_own(NETWORKS[network](), folder / FILE.format(network))

    @torch.no_grad()
    def animation(
        self, photo: Tensor, poses: Tensor, *, steps: int = 20, seed: int = 0, after_step: Callable[[int], None] = lambda done: None
    ) -> Tensor:
        """photo [1,3,H,W] and poses [N,3,H,W] in [0,1], squashed to 128 pixels -> frames [N,3,128,128] in [0,1]; equal for equal seeds.

        Euler's method from time 1, noise, to 0 (Liu et al. 2023). after_step hears how many steps are done, and may raise.
        """
        photo, poses = (resize(x.float(), (SIDE, SIDE), by="bicubic").clamp(0, 1) for x in (photo, poses))
        seen = self._autoencoder.encode(photo)
        latents = torch.randn(1, CHANNELS, *seen.shape[2:], generator=stream(seed, "frames")).to(seen)
        latents, seen = (x.repeat(len(poses), 1, 1, 1) for x in (latents, seen))
        for step in range(steps, 0, -1):
            time = torch.full((len(poses),), step / steps, device=seen.device)
            latents = latents - self._network(latents, time, seen, poses) / steps
            after_step(steps - step + 1)
        frames: Tensor = self._autoencoder.decode(latents).clamp(0, 1)
        return frames
