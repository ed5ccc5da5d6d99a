"""What losses may ask of a diffusion or flow model, and how they show it a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from ..draws import placed, stream
from ..observation import Features, LatentEncoder, Observation


@dataclass(frozen=True, order=True)
class Tap:
    """A place inside of a denoiser that a loss reads. block: its number in the order in which the blocks run, from 0.

    kind: "attention" is the block's first attention map, rows adding up to 1: of a video model [..., F, F] between frames, of a model of
    pictures [..., T, T] between tokens. "output" is what the block gives, [..., T, C] over the tokens of the picture or video.
    """

    kind: Literal["attention", "output"]
    block: int


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

    def estimate(self, noisy: Tensor, level: float, /, *, taps: Sequence[Tap] = (), negative: bool = False) -> Features:
        """The estimate of the clean latents, fp32 and shaped like `noisy`, then each tap. negative: under the negative prompt."""
        ...


class VideoModel(Denoiser, Protocol):
    """An image-to-video model behind its own conditioning: gradients flow through what it is told of the picture."""

    @property
    def conditioner(self) -> object:
        """Owner of what `condition` computes: its networks are other ones than the denoiser and need not be resident with it."""
        ...

    def condition(self, image: Tensor, /) -> Features:
        """What the denoiser is told of a picture [1,3,H,W] in [0,1]: the tensors through which gradients flow."""
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


@dataclass(frozen=True, eq=False)
class PictureSetup:
    """How a denoiser of pictures is shown one: by its own latents, noised."""

    model: PictureModel
    vae: LatentEncoder

    @property
    def surrogates(self) -> tuple[object, ...]:
        return (self.model, self.vae)

    def latent(self, seen: Observation) -> Tensor:
        """[B,C,...], as the model has them."""
        return self.model.scaled(seen.latent(self.vae).float())

    def estimate(self, seen: Observation, noise: Tensor, level: float, *, taps: Sequence[Tap] = (), negative: bool = False) -> Features:
        """Of the picture's latents with this noise at this level, then the taps; computed once for each level, prompt and choice of taps.

        The noise is the same for all losses of one look, as `Draws` gives it, and of the clean picture nothing stays after that look.
        """
        noisy = self.model.noised(self.latent(seen), noise, level)
        key = ("estimate", level, negative, tuple(taps), id(self.vae))
        return seen.features(self.model, key, lambda: self.model.estimate(noisy, level, taps=taps, negative=negative), lasting=False)


@dataclass(frozen=True, eq=False)
class VideoSetup:
    """From which X_t a video model is asked for the clean and the adversarial picture: the clean picture's video, noised.

    levels: noise levels in [0,1], of which one is drawn at each look, the same for all terms of the setup. fresh: the noise is drawn
    at each look too; else each level has its own, and the clean picture is asked only once for each. Losses that want other levels or noise
    have a setup of their own over the same model, whose video of the clean picture they share.
    """

    model: VideoModel
    levels: tuple[float, ...] = (0.125, 0.375, 0.625, 0.875)
    seed: int = 0
    fresh: bool = False
    _taps: list[Tap] = field(default_factory=list, repr=False)

    @property
    def surrogates(self) -> tuple[object, ...]:
        return (self.model, self.model.conditioner)

    @property
    def taps(self) -> tuple[Tap, ...]:
        """All that losses have asked for."""
        return tuple(self._taps)

    def listen(self, taps: Sequence[Tap]) -> None:
        """Have these read too, before the first estimate is made: all losses of a setup share one estimate."""
        self._taps[:] = sorted({*self._taps, *taps})

    def tapped(self, features: Features, taps: Sequence[Tap]) -> Features:
        """Of what `estimates` gives for one picture, these taps."""
        return tuple(features[1 + self._taps.index(tap)] for tap in taps)

    def prior(self, clean: Observation) -> Tensor:
        """X_0, made once for each clean picture."""
        return clean.features(self.model, "prior", lambda: (self.model.prior(clean.image).float(),))[0]

    def estimates(self, clean: Observation, adversarial: Observation) -> tuple[Features, Features]:
        """Of the clean and of the adversarial picture, from the same X_t."""
        index = adversarial.draws.integer("video", len(self.levels))
        noisy, level, taps = self.start(clean, adversarial, index), self.levels[index], self.taps

        def estimate(seen: Observation) -> Features:
            conditioning = seen.features(self.model.conditioner, ("conditioning", id(self.model)), lambda: self.model.condition(seen.image))
            key, lasting = ("estimate", id(self), index), not self.fresh
            return seen.features(self.model, key, lambda: self.model.estimate(noisy, level, conditioning, taps=taps), lasting=lasting)

        return estimate(clean), estimate(adversarial)

    def start(self, clean: Observation, adversarial: Observation, index: int) -> Tensor:
        """X_t at the level of that index; fresh noise is that of the adversarial picture's look."""

        def noised() -> Features:
            prior = self.prior(clean)
            if self.fresh:
                noise = placed(adversarial.draws.normal("video noise", tuple(prior.shape)), prior)
            else:
                noise = torch.randn(prior.shape, generator=stream(self.seed, f"video {index}")).to(prior)
            return (self.model.noised(prior, noise, self.levels[index]),)

        return clean.features(self.model, ("start", id(self), index), noised, lasting=not self.fresh)[0]
