"""Videos as measures read them: in order, a few frames at a time, so that their length costs no memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..conversions import in_colour

CHUNK = 8
"""Frames that are looked at together."""


class Clip(Protocol):
    """A video that can be read as often as asked."""

    @property
    def frames(self) -> int:
        """How many there are."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        ...

    def read(self) -> Iterator[Tensor]:
        """All frames in order, [n,3,H,W] fp32 in [0,1] with n of at most CHUNK."""
        ...


@dataclass(frozen=True)
class HeldClip:
    """Frames that are in memory already, [N,H,W,C] with 1, 3 or 4 channels in [0,1] as ComfyUI holds them; alpha is left out."""

    pictures: Tensor

    @property
    def frames(self) -> int:
        return int(self.pictures.shape[0])

    @property
    def size(self) -> tuple[int, int]:
        return int(self.pictures.shape[1]), int(self.pictures.shape[2])

    def read(self) -> Iterator[Tensor]:
        for chunk in self.pictures.split(CHUNK):
            yield in_colour(chunk.movedim(-1, 1)).clamp(0, 1)


def windows(chunks: Iterator[Tensor], span: int, stride: int) -> Iterator[Tensor]:
    """[n,3,H,W] in order -> [m,span,3,H,W]: every `stride`-th run of `span` frames; frames of an unfinished last run are left out."""
    held: Tensor | None = None
    for chunk in chunks:
        held = chunk if held is None else torch.cat([held, chunk])
        count = (held.shape[0] - span) // stride + 1 if held.shape[0] >= span else 0
        if count:
            # Views of one buffer: neighbouring runs share their frames.
            yield held.unfold(0, span, stride).movedim(-1, 1)[:count]
            held = held[count * stride :]
