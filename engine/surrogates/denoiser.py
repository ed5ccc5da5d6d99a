"""What losses may ask of a diffusion or flow model, and how they show it a picture."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol
from weakref import WeakMethod

import torch
from torch import Tensor

from ..draws import placed, stream
from ..observation import Features, LatentEncoder, Observation


def spread(least: float, count: int = 4) -> tuple[float, ...]:
    """Noise levels in the middle of as many equal parts of [least, 1]."""
    return tuple(least + (1 - least) * (index + 0.5) / count for index in range(count))


WHOLE, HIGH = "whole schedule", "high noise"
TIMESTEPS: Mapping[str, tuple[float, ...]] = {WHOLE: spread(0.0), HIGH: spread(0.8)}
"""Which noise levels a loss draws from. Three independent works find that the first, noisiest steps are where a protection counts."""
FIRST_STEPS = spread(0.95)
"""Those of BadWorld's losses, which find no effect elsewhere."""


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


Measuring = Callable[[Observation, Observation], Sequence[Measure]]
"""(clean, adversarial) -> the measure of each of a loss's taps at this look."""


@dataclass(frozen=True, eq=False)
class VideoSetup:
    """From which X_t a video model is asked for the clean and the adversarial picture: the clean picture's video, noised.

    levels: noise levels in [0,1], of which one is drawn at each look, the same for all terms of the setup. fresh: the noise is drawn
    at each look too; else each level has its own, and the clean picture is asked only once for each. Losses that want other levels or noise
    have a setup of their own over the same model, whose video of the clean picture they share.
    """

    model: VideoModel
    levels: tuple[float, ...] = TIMESTEPS[WHOLE]
    seed: int = 0
    fresh: bool = False
    _taps: list[Tap] = field(default_factory=list, repr=False)
    _lasting: set[Tap] = field(default_factory=set, repr=False)
    _measured: list[tuple[Sequence[Tap], WeakMethod[Measuring]]] = field(default_factory=list, repr=False)
    _uses: set[Literal["estimate"]] = field(default_factory=set, repr=False)

    @property
    def surrogates(self) -> tuple[object, ...]:
        return (self.model, self.model.conditioner)

    @property
    def taps(self) -> tuple[Tap, ...]:
        """All that losses have asked for."""
        return tuple(self._taps)

    @property
    def lasting_taps(self) -> tuple[Tap, ...]:
        """Those that are read of the clean picture too, and kept."""
        return self.taps[: len(self._lasting)]

    def listen(self, taps: Sequence[Tap], *, clean: bool = True, measured: Measuring | None = None) -> None:
        """Have these read too, before the first estimate is made: all losses of a setup share one estimate.

        clean: False where of the clean picture only numbers are needed, see `elsewhere`: tensors would be kept for each level. measured:
        of the adversarial picture only numbers are needed too; a method of a loss, which is not kept alive by it.
        """
        if measured is not None:
            # Held strongly, loss and setup would hold each other, and with them what the model was told, on the device.
            self._measured.append((taps, WeakMethod(measured)))
        self._lasting.update(taps if clean else ())
        # What is read of both pictures comes first, so that places are the same in both.
        self._taps[:] = [*sorted(self._lasting), *sorted({*self._taps, *taps} - self._lasting)]

    def use_estimate(self) -> None:
        """Have the model run to its end, before the first look: where all losses only listen, it stops at the last block that is read."""
        self._uses.add("estimate")

    @property
    def only_inside(self) -> bool:
        """Whether taps are all that losses want."""
        return bool(self._taps) and not self._uses

    def prior(self, clean: Observation) -> Tensor:
        """X_0, made once for each clean picture."""
        return clean.features(self.model, "prior", lambda: (self.model.prior(clean.image).float(),))[0]

    def level(self, adversarial: Observation) -> float:
        """The one that is drawn at this look."""
        return self.levels[self._index(adversarial)]

    def _index(self, adversarial: Observation) -> int:
        return adversarial.draws.integer("video", len(self.levels))

    def estimates(self, clean: Observation, adversarial: Observation) -> tuple[Tensor, Tensor]:
        """Of the clean and of the adversarial picture, from the same X_t. Raises RuntimeError as `estimate` does."""
        self._check_estimate()
        before, *_ = self._seen(clean, clean, adversarial, self.lasting_taps)
        return before, self.estimate(clean, adversarial)

    def estimate(self, clean: Observation, adversarial: Observation) -> Tensor:
        """Of the adversarial picture alone, from the noised video of the clean one.

        Raises RuntimeError where other losses listen and none has said that it uses this.
        """
        self._check_estimate()
        return self._seen(adversarial, clean, adversarial, self._compared(clean, adversarial))[0]

    def insides(self, clean: Observation, adversarial: Observation, taps: Sequence[Tap]) -> tuple[Features, Features]:
        """These taps of the clean and of the adversarial picture, from the same X_t; of the clean one those that are lasting."""
        before = self._tapped(self._seen(clean, clean, adversarial, self.lasting_taps), taps)
        return before, self.inside(clean, adversarial, taps)

    def inside(self, clean: Observation, adversarial: Observation, taps: Sequence[Tap]) -> Features:
        """These taps of the adversarial picture alone."""
        return self._tapped(self._seen(adversarial, clean, adversarial, self._compared(clean, adversarial)), taps)

    def _check_estimate(self) -> None:
        if self.only_inside:
            raise RuntimeError("A loss uses the estimate and has not said so (use_estimate), while others stop the model before its end.")

    def _compared(self, clean: Observation, adversarial: Observation) -> list[Tap]:
        """All taps, with the measures of this look."""
        measures: dict[Tap, Measure] = {}
        for taps, method in self._measured:
            measured = method()
            if measured is not None:
                measures |= zip(taps, measured(clean, adversarial), strict=True)
        return [replace(tap, measure=measures.get(tap)) for tap in self._taps]

    def _tapped(self, features: Features, taps: Sequence[Tap]) -> Features:
        first = 0 if self.only_inside else 1
        return tuple(features[first + self._taps.index(tap)] for tap in taps)

    def _seen(self, seen: Observation, clean: Observation, adversarial: Observation, taps: Sequence[Tap]) -> Features:
        """The estimate where it is used, then the taps."""
        index = self._index(adversarial)
        noisy, level, told = self.start(clean, adversarial, index), self.levels[index], self._told(seen)

        def ask() -> Features:
            return (self.model.read if self.only_inside else self.model.estimate)(noisy, level, told, taps=taps)

        return seen.features(self.model, ("estimate", id(self), index), ask, lasting=not self.fresh)

    def _told(self, seen: Observation) -> Features:
        return seen.features(self.model.conditioner, ("conditioning", id(self.model)), lambda: self.model.condition(seen.image))

    def elsewhere(
        self,
        clean: Observation,
        adversarial: Observation,
        taps: Sequence[Tap],
        *,
        key: Hashable,
        picture: Callable[[], Tensor] | None = None,
        lasting: bool = True,
    ) -> Features:
        """These taps, from the same X_t, where the model is told of the clean picture or of another one [1,3,H,W].

        Without gradient, and no further than these taps. key: whose. lasting: kept for each level of fixed noise, else for this look. Ask
        before `inside`, so that with low memory the adversarial picture's graph need not make room.
        """
        index = self._index(adversarial)
        noisy, level = self.start(clean, adversarial, index), self.levels[index]
        if picture is None:
            told = self._told(clean)
        else:
            told = clean.features(self.model.conditioner, ("conditioning", id(self.model), key), lambda: self.model.condition(picture()))

        def ask() -> Features:
            return self.model.read(noisy, level, told, taps=taps)

        return clean.features(self.model, ("elsewhere", id(self), key, index), ask, lasting=lasting and not self.fresh)

    def from_noise(self, adversarial: Observation) -> tuple[Tensor, Tensor]:
        """Noise of unit scale in place of a noised video, which then need not be made, and the estimate under the adversarial picture."""
        index, told = self._index(adversarial), self._told(adversarial)
        noise = self._noise(adversarial, self.model.shape(adversarial.image), index, adversarial.image)
        noisy = self.model.noised(torch.zeros_like(noise), noise, self.levels[index])

        def ask() -> Features:
            return self.model.estimate(noisy, self.levels[index], told, taps=())

        return noise, adversarial.features(self.model, ("from noise", id(self), index), ask)[0]

    def start(self, clean: Observation, adversarial: Observation, index: int) -> Tensor:
        """X_t at the level of that index; fresh noise is that of the adversarial picture's look."""

        def noised() -> Features:
            prior = self.prior(clean)
            noise = self._noise(adversarial, tuple(prior.shape), index, prior)
            return (self.model.noised(prior, noise, self.levels[index]),)

        return clean.features(self.model, ("start", id(self), index), noised, lasting=not self.fresh)[0]

    def _noise(self, adversarial: Observation, shape: tuple[int, ...], index: int, like: Tensor) -> Tensor:
        if self.fresh:
            return placed(adversarial.draws.normal("video noise", shape), like)
        return torch.randn(shape, generator=stream(self.seed, f"video {index}")).to(like)
