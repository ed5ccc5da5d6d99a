"""What several test files share. The small surrogates are quick and exact; nothing is claimed about effect with them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Graph = dict[str, dict[str, object]]


def node(class_type: str, **inputs: object) -> dict[str, object]:
    """One node of an API prompt."""
    return {"class_type": class_type, "inputs": inputs}


class RandomEncoder(nn.Module):
    """A seeded two-layer convolutional encoder, stride 8."""

    def __init__(self, seed: int = 0, channels: int = 4) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = nn.Parameter(torch.randn(8, 3, 8, 8, generator=generator) / 8, requires_grad=False)
        self.second = nn.Parameter(torch.randn(channels, 8, 3, 3, generator=generator) / 8, requires_grad=False)

    def encode(self, image: Tensor) -> Tensor:
        return F.conv2d(torch.tanh(F.conv2d(image, self.first, stride=8)), self.second, padding=1)

    def embed(self, image: Tensor) -> Tensor:
        return self.encode(image).mean(dim=(2, 3))
