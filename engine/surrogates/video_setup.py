"""From where and how a video model is asked for the clean and the adversarial picture, once for all losses that agree."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal
from weakref import WeakMethod

import torch
from torch import Tensor

from ..draws import placed, stream
from ..observation import Features, Observation
from .denoiser import TIMESTEPS, WHOLE, Measure, Tap, VideoModel

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
