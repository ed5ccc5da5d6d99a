"""A victim: a convolutional UNet that gets photo and pose as further channels of its input (as Stable Video Diffusion gets its image)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...compute.unpatched import unpatched
from ...packages import needed
from .autoencoder import CHANNELS
from .rectified_flow import Flow

_POSE_CHANNELS = 16


class VictimUNet(Flow):
    """For one frame."""

    def __init__(self) -> None:
        with needed("diffusers"):
            from diffusers import UNet2DModel
        super().__init__()
        self.guider = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, 32, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 32, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, _POSE_CHANNELS, 3, padding=1),
        )
        network = UNet2DModel(
            in_channels=2 * CHANNELS + _POSE_CHANNELS,
            out_channels=CHANNELS,
            block_out_channels=(64, 64, 96),
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            attention_head_dim=32,
        )
        self.unet = unpatched(network)
        nn.init.zeros_(self.unet.conv_out.weight)

    def predict(self, noisy: Tensor, time: Tensor, photo: Tensor, pose: Tensor) -> Tensor:
        seen = torch.cat([noisy, photo, self.guider(pose)], dim=1)
        predicted: Tensor = self.unet(seen, 1000 * time, return_dict=False)[0]
        return predicted
