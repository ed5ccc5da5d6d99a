"""Protections against editors that repaint a part of a picture: what such a diffusion model makes of the part that it is left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from torch import Tensor
from torch.nn import functional as F

from ..draws import Draws, placed
from ..observation import Features, LatentEncoder, Observation
from ..picture import resize
from ..surrogates.ddim import DDIM, Predict
from ..surrogates.denoiser import EVERY, PictureModel
from .baselines import shown

FOUR_STEPS = tuple(EVERY[timestep] for timestep in (751, 501, 251, 1))
"""The levels of four DDIM steps as the published codes take them; what follows the last is EVERY[0]."""
_GREY = 0.5

Varied = Callable[[Tensor, Draws], Tensor]
"""(mask [1,1,H,W] of 0 and 1, random numbers of one look) -> another mask, which an editor might have drawn."""


class InpaintingModel(PictureModel, Protocol):
    """A model that repaints. Its prompt is fixed."""

    def unscaled(self, latents: Tensor, /) -> Tensor:
        """The inverse of `scaled`."""
        ...

    def repainted(self, noisy: Tensor, level: float, mask: Tensor, left: Tensor, /) -> Tensor:
        """The estimate [B,C,h,w] of the clean latents, fp32. mask: [1,1,h,w], 1 where it repaints. left: latents [1 or B,C,h,w], as its VAE
        gives them, of the picture that is grey there."""
        ...


class Decoder(LatentEncoder, Protocol):
    def decode(self, latents: Tensor, /) -> Tensor:
        """Latents [B,C,h,w] as `encode` gives them -> pictures [B,3,H,W], black at 0 and white at 1. What the network gives beyond is not
        clamped: it would have no gradient, and it is what is to go."""
        ...


@dataclass(frozen=True, eq=False)
class InpaintingSetup:
    """How a model that repaints is shown a picture, for one loss, since a setup knows one thing that is left of it.

    mask: [1,1,H,W], 1 where it repaints, at any size of the picture's shape. posterior: see PictureSetup.
    """

    model: InpaintingModel
    vae: Decoder
    mask: Tensor
    posterior: str | None = None

    @property
    def surrogates(self) -> tuple[object, ...]:
        return (self.model, self.vae)

    def at(self, image: Tensor) -> Tensor:
        """The mask at this picture's size, of 0 and 1. Raises ValueError for a mask of another shape."""
        (height, width), (tall, wide) = image.shape[-2:], self.mask.shape[-2:]
        # Working sizes are rounded, and short sides lengthened.
        if min(height, width) > 64 and not 0.9 < tall * width / (wide * height) < 1.1:
            raise ValueError(
                f"The mask of what is repainted is {wide}x{tall}, and the picture has another shape ({width}x{height} as models see it): "
                "give a mask of the picture's size."
            )
        return (resize(self.mask.to(image), (image.shape[-2], image.shape[-1])) >= 0.5).to(image)

    def left(self, seen: Observation, mask: Tensor) -> Tensor:
        """Latents [B,C,h,w], as the VAE gives them, of the picture where the mask is 0 and of grey elsewhere."""

        def encoded() -> Features:
            image = seen.image * (1 - mask) + _GREY * mask
            if self.posterior is None:
                return (self.vae.encode(image).float(),)
            mean, deviation = self.vae.posterior(image)  # type: ignore[attr-defined]
            return ((mean + deviation * placed(seen.draws.normal(self.posterior, tuple(mean.shape)), mean)).float(),)

        return seen.features(self.vae, ("left", id(self)), encoded, lasting=False)[0]

    def predict(self, mask: Tensor, left: Tensor) -> Predict:
        small = F.interpolate(mask, left.shape[-2:])
        return lambda noisy, level: self.model.repainted(noisy, level, small, left)


@dataclass(frozen=True, eq=False)
class EarlyNoise:
    """|e(n, t)| / B over B of pure noise n, at the first step of sampling t, maximised: DiffusionGuard (Choi et al. 2025).

    varied: how the mask is changed at each look, so that it holds for masks that nobody has seen. samples: B.
    """

    setup: InpaintingSetup
    varied: Varied | None = None
    level: float = FOUR_STEPS[0]
    samples: int = 1

    @property
    def surrogates(self) -> tuple[object, ...]:
        return self.setup.surrogates

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        setup, mask = self.setup, self.setup.at(adversarial.image)
        if self.varied is not None:
            mask = self.varied(mask, adversarial.draws)
        left = setup.left(adversarial, mask)
        noise = placed(adversarial.draws.normal("latents", (self.samples, *left.shape[1:])), left)
        adversarial.make_room()
        found = DDIM(setup.model).noise(noise, self.level, setup.predict(mask, left))
        return found.square().sum().sqrt() / self.samples


@dataclass(frozen=True, eq=False)
class Repainted:
    """|D(z) - x'| of what a few steps of sampling make of the picture, minimised: PhotoGuard's diffusion attack (Salman et al. 2023).

    target: picture x' [1,3,H,W] in [0,1]; grey without one. levels: of the steps, ancestral ones from pure noise; the whole chain is
    differentiated, of which low memory keeps one step's activations at a time. The norm is of pictures in [-1,1], as in the code, over all
    pixels.
    """

    setup: InpaintingSetup
    target: Tensor | None = None
    levels: Sequence[float] = FOUR_STEPS

    @property
    def surrogates(self) -> tuple[object, ...]:
        return self.setup.surrogates

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        setup, mask = self.setup, self.setup.at(adversarial.image)
        left = setup.left(adversarial, mask)
        latents = placed(adversarial.draws.normal("latents", tuple(left.shape)), left)
        for index in range(len(self.levels)):
            # A feature each, which low memory computes again where Scales see it: a checkpoint of torch's would do so in autograd's thread.
            step = partial(self._step, adversarial.draws, latents, setup.predict(mask, left), index)
            (latents,) = adversarial.features(setup.model, ("repainted", id(self), index), step)
        sampled = latents
        (picture,) = adversarial.features(setup.vae, ("repainted", id(self)), lambda: (self._decoded(sampled),))
        wanted = _GREY if self.target is None else shown(self.target, clean)
        return 2 * (picture - wanted).square().sum().sqrt()

    def _step(self, draws: Draws, latents: Tensor, predict: Predict, index: int) -> Features:
        ddim, level, to = DDIM(self.setup.model), self.levels[index], (*self.levels[1:], EVERY[0])[index]
        fresh = placed(draws.normal(f"step {index}", tuple(latents.shape)), latents)
        return (ddim.ancestral(latents, ddim.noise(latents, level, predict), level, to, fresh),)

    def _decoded(self, latents: Tensor) -> Tensor:
        return self.setup.vae.decode(self.setup.model.unscaled(latents)).float()
