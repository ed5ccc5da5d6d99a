"""What a measure is: a name and pure functions. Values are per item (frame, transition or window), so that intervals can be given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Higher = Literal["more alike", "less alike", "more obedient", "better", "more motion", "smoother"]
"""What a higher value says: of two videos, or of one by itself."""

SHARE = "share"
"""The unit of shares of 1, which reports show in per cent."""

BYTES_PER_PIXEL = 1024
"""What measures without a figure of their own take at most, for each pixel of what they are given."""


@dataclass(frozen=True)
class PairMeasure:
    """Frame against frame. compare: [N,3,H,W], [N,3,H,W] in [0,1] -> [N].

    see: what a network makes of frames, [n,3,H,W] -> anything; `compare` then gets that, and each video is seen once however many it is
    compared with. bytes_per_pixel: memory that this takes for each pixel of a frame. large: so much that it is one frame at a time
    where nobody says how much there is.
    """

    name: str
    unit: str
    higher: Higher
    compare: Callable[[Any, Any], Tensor]
    see: Callable[[Tensor], Any] | None = None
    bytes_per_pixel: int = BYTES_PER_PIXEL
    large: bool = False


@dataclass(frozen=True)
class Descriptor:
    """What a network says of runs of `span` frames, every `stride`-th: describe is [n,span,3,H,W] in [0,1] -> [n,D].

    Measures with an equal key share what was computed. prepare: what becomes of each frame before runs are made of them,
    [n,3,H,W] -> [n,...], so that a frame in many runs is resized once; describe then gets [n,span,...]. bytes_per_pixel, large: as in
    PairMeasure, for each pixel of a run and for runs. kept: what the numbers are held as until all frames were seen.
    """

    key: str
    describe: Callable[[Tensor], Tensor]
    span: int = 1
    stride: int = 1
    prepare: Callable[[Tensor], Tensor] | None = None
    bytes_per_pixel: int = BYTES_PER_PIXEL
    large: bool = False
    kept: torch.dtype = torch.float32


@dataclass(frozen=True)
class ClipMeasure:
    """Of one video by itself. score: descriptions [M,D] -> [K]."""

    name: str
    unit: str
    higher: Higher
    descriptor: Descriptor
    score: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class SetMeasure:
    """Of two videos by what a network says of each. compare: [M,D] of the reference, [M',D] -> [K], or one number.

    least: below so many descriptions of either the number says more of the sample than of the videos, and is withheld.
    """

    name: str
    unit: str
    higher: Higher
    descriptor: Descriptor
    compare: Callable[[Tensor, Tensor], Tensor]
    least: int = 1


Measure = PairMeasure | ClipMeasure | SetMeasure


@dataclass(frozen=True)
class Unavailable:
    """A measure that cannot be taken here. why: one sentence that says what to do."""

    name: str
    why: str
