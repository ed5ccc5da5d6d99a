"""Random numbers of one look at a picture: the same for every loss that asks for the same purpose."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

SEEDS = 2**64
"""Seeds are 0 to SEEDS - 1, as ComfyUI's own nodes and PyTorch's generators take them."""


def stream(seed: int, purpose: str) -> torch.Generator:
    """A generator of its own for each purpose, so that drawing more of one thing never changes another."""
    return torch.Generator().manual_seed((seed ^ (zlib.crc32(purpose.encode()) << 20)) % SEEDS)


def following(seed: int, index: int) -> int:
    """The seed `index` places after this one; the first follows the last."""
    return (seed + index) % SEEDS


def placed(drawn: Tensor, like: Tensor) -> Tensor:
    """Numbers from the CPU with the device and dtype of `like`, without waiting for what the device has yet to do.

    CUDA has read pageable memory when the call returns; elsewhere the copy has to be waited for.
    """
    return drawn.to(like, non_blocking=like.is_cuda)


class Draws(Protocol):
    """Asked twice for one purpose, it answers the same; different purposes are independent."""

    def integer(self, purpose: str, below: int) -> int:
        """Uniform in 0 ... below - 1."""
        ...

    def normal(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        """Standard normal, fp32, on the CPU so that a seed gives the same numbers on every device."""
        ...


def uniform(draws: Draws, purpose: str, shape: tuple[int, ...]) -> Tensor:
    """In [0,1], fp32, on the CPU."""
    numbers: Tensor = torch.special.ndtr(draws.normal(purpose, shape))
    return numbers


class SeededDraws:
    """Draws that follow from one seed."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def integer(self, purpose: str, below: int) -> int:
        return int(torch.randint(below, (), generator=stream(self._seed, purpose)))

    def normal(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=stream(self._seed, purpose))


def seeded_draws(seed: int) -> Iterator[Draws]:
    """Fresh draws without end, one for each look at the picture."""
    generator = stream(seed, "draws")
    while True:
        yield SeededDraws(int(torch.randint(2**62, (), generator=generator)))
