"""What losses may ask of a diffusion or flow model, and how they show it a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import Tensor

from ..observation import Features


def spread(least: float, count: int = 4) -> tuple[float, ...]:
    """Noise levels in the middle of as many equal parts of [least, 1]."""
    return tuple(least + (1 - least) * (index + 0.5) / count for index in range(count))


WHOLE, HIGH = "whole schedule", "high noise"
TIMESTEPS: Mapping[str, tuple[float, ...]] = {WHOLE: spread(0.0), HIGH: spread(0.8)}
"""Which noise levels a loss draws from. Three independent works find that the first, noisiest steps are where a protection counts."""
FIRST_STEPS = spread(0.95)
"""Those of BadWorld's losses, which find no effect elsewhere."""
EVERY = tuple(index / 999 for index in range(1000))
"""The timesteps of Stable Diffusion's training, 0 to 999."""


Measure = Callable[[Tensor], Tensor]


@dataclass(frozen=True, order=True)
class Tap:
    """A place inside of a denoiser that a loss reads. block: its number in the order in which the blocks run, from 0.

    kind: "attention" is the block's first attention map, rows adding up to 1: of a video model [..., F, F] between frames, of a model of
    pictures [..., T, T] between tokens. "output" is what the block gives, [..., T, C] over the tokens of the picture or video. "map" is the
    same in its places, [..., h, w, C]: blocks of a UNet differ in these. measure: what is kept in place of that, computed as soon as it is
    there. of: whose measure, since that of another loss is another number.
    """

    kind: Literal["attention", "output", "map"]
    block: int
    of: int = 0
    measure: Measure | None = field(default=None, compare=False, repr=False)

    def read(self, tensor: Tensor) -> Tensor:
        """What is kept of it: a copy, since the next block of some models goes on in the same tensor."""
        return tensor.clone() if self.measure is None else self.measure(tensor)


class Denoiser(Protocol):
    """A frozen model of a schedule of noise levels, each a share from 0 (clean) to 1 (noise) of the schedule."""

    def noised(self, latents: Tensor, noise: Tensor, level: float, /) -> Tensor:
        """X_t from clean latents, as the model has them."""
        ...


class PictureModel(Denoiser, Protocol):
    """A denoiser of pictures behind its prompt, which is fixed: gradients flow through the noisy latents."""

    def scaled(self, latents: Tensor, /) -> Tensor:
        """Latents as its VAE gives them, in the scale that the model has them."""
        ...

    def output_scale(self, level: float, /) -> float:
        """See VideoModel."""
        ...

    def estimate(self, noisy: Tensor, level: float, /, *, taps: Sequence[Tap] = (), negative: bool = False) -> Features:
        """The estimate of the clean latents, fp32 and shaped like `noisy`, then each tap. negative: under the negative prompt."""
        ...


class VideoModel(Denoiser, Protocol):
    """An image-to-video model behind its own conditioning: gradients flow through what it is told of the picture."""

    @property
    def conditioner(self) -> object:
        """Owner of what `condition` computes: its networks are other ones than the denoiser and need not be resident with it."""
        ...

    @property
    def sampled(self) -> Tensor | None:
        """Of the latents, 1 where the model makes the video and 0 where the picture itself stands; None where it makes all of them."""
        ...

    def condition(self, image: Tensor, /) -> Features:
        """What the denoiser is told of a picture [1,3,H,W] in [0,1]: the tensors through which gradients flow."""
        ...

    def shape(self, image: Tensor, /) -> tuple[int, ...]:
        """Of a video's latents, without making one: as `prior` gives them."""
        ...

    def output_scale(self, level: float, /) -> float:
        """|d estimate / d output of the network| at that level: errors of the estimate divided by it are the network's own, such as v."""
        ...

    def prior(self, image: Tensor, /) -> Tensor:
        """X_0: latents [1,C,F,h,w] or [F,C,h,w], as the model has them, of a video that it made of the picture [1,3,H,W]."""
        ...

    def still(self, image: Tensor, /) -> Tensor:
        """Latents like X_0 of a video that shows the picture [1,3,H,W] in every frame."""
        ...

    def estimate(self, noisy: Tensor, level: float, conditioning: Features, /, *, taps: Sequence[Tap] = ()) -> Features:
        """The estimate of the clean latents, fp32 and shaped like `noisy`, then each tap."""
        ...

    def read(self, noisy: Tensor, level: float, conditioning: Features, /, *, taps: Sequence[Tap]) -> Features:
        """These taps alone, one or more: the same numbers and gradients, for which no block behind the last of them has to run."""
        ...
