"""Spaces of colour and of low frequencies, for the photos of a run."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ....engine.observation import WorkingSize
from ....engine.spaces import RGB, Alternating, Chroma, LowFrequency
from ..surrogates.run_surrogates import Surrogates
from .run import SpaceSpec


@dataclass(frozen=True)
class DualSetup:
    """What a STILLGUARD_SPACE carries from Dual Space: spaces that take turns. Their budget is that of the node that runs."""

    turns: tuple[Chroma | LowFrequency, ...]

    def spec(self, images: Tensor, *, pixels: RGB, longest: int, steps: int) -> SpaceSpec:
        if _grey(images) and any(isinstance(space, Chroma) for space in self.turns):
            raise ValueError(
                'The photo is greyscale and has no colour to change: connect a Dual Space with "low frequency" to `space`, '
                "or make the photo RGB."
            )

        def make(surrogates: Surrogates, index: int) -> Alternating:
            size = WorkingSize(longest=longest, multiple=surrogates.multiple)
            spaces = [replace(space, working_size=size) if isinstance(space, LowFrequency) else space for space in self.turns]
            return Alternating(tuple(replace(space, pixels=pixels) for space in spaces))

        return SpaceSpec(pixels.budget, make)


def _grey(images: Tensor) -> bool:
    """Whether one of IMAGE [B,H,W,C] has no colour; black-and-white photos come with three equal channels."""
    colour = images[..., :3]
    return any(torch.equal(photo, photo[..., :1].expand_as(photo)) for photo in colour)
