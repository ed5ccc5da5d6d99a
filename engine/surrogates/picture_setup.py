"""How a denoiser of pictures is shown one, once for all losses that agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

from torch import Tensor

from ..draws import placed
from ..observation import Features, LatentEncoder, Observation, PosteriorEncoder
from ..picture import resize
from .ddim import DDIM
from .denoiser import EVERY, PictureModel, Tap


class Look(NamedTuple):
    """What is drawn at one look at a picture: noise [B,C,...] and its level. latent: the picture's, as the model has it, like the noise."""

    latent: Tensor
    noise: Tensor
    level: float


@dataclass(frozen=True, eq=False)
class PictureSetup:
    """By its own latents, noised.

    posterior: what the random numbers are for with which latents are drawn from the VAE's distribution (Observation.drawn_latent), as the
    published codes have it; None takes the distribution's mean. Losses of setups that draw for other purposes see other latents.
    """

    model: PictureModel
    vae: LatentEncoder
    posterior: str | None = None

    @property
    def surrogates(self) -> tuple[object, ...]:
        return (self.model, self.vae)

    def latent(self, seen: Observation) -> Tensor:
        """[B,C,...], as the model has them."""
        latent = seen.latent(self.vae) if self.posterior is None else seen.drawn_latent(self.vae, self.posterior)
        return self.model.scaled(latent.float())

    def target(self, clean: Observation, picture: Tensor, noise: Tensor | None = None) -> Tensor:
        """Latents of another picture [1,3,H,W] in [0,1], shown at the clean one's size. noise: [1,C,...] of unit variance, with which they
        are drawn from the VAE's distribution; None takes its mean."""

        def shown() -> Tensor:
            return resize(picture.to(clean.image), (clean.image.shape[-2], clean.image.shape[-1]))

        if noise is None:
            (latent,) = clean.features(self.vae, ("target", id(picture)), lambda: (self.vae.encode(shown()).float(),))
            return self.model.scaled(latent)
        posterior = cast(PosteriorEncoder, self.vae).posterior
        mean, deviation = clean.features(self.vae, ("target's posterior", id(picture)), lambda: posterior(shown()))
        return self.model.scaled((mean + deviation * placed(noise, mean)).float())

    def look(self, seen: Observation, levels: Sequence[float] = EVERY) -> Look:
        """The same for all losses of one look that draw from as many levels."""
        latent = self.latent(seen)
        noise = placed(seen.draws.normal("noise", tuple(latent.shape)), latent)
        return Look(latent, noise, levels[seen.draws.integer("timestep", len(levels))])

    def estimate(self, seen: Observation, noise: Tensor, level: float, *, taps: Sequence[Tap] = (), negative: bool = False) -> Features:
        """Of the picture's latents with this noise at this level, then the taps; computed once for each level, prompt and choice of taps.

        The noise is the same for all losses of one look, as `Draws` gives it, and of the clean picture nothing stays after that look.
        """
        noisy = self.model.noised(self.latent(seen), noise, level)
        key = ("estimate", level, negative, tuple(taps), id(self.vae), self.posterior)
        return seen.features(self.model, key, lambda: self.model.estimate(noisy, level, taps=taps, negative=negative), lasting=False)

    def predicted_noise(self, seen: Observation, look: Look) -> Tensor:
        """The noise that the model finds at this look, [B,C,...] of unit variance, whatever the model's own output is."""
        (estimate,) = self.estimate(seen, look.noise, look.level)
        return self.noise_of(estimate, look)

    def noise_of(self, estimate: Tensor, look: Look) -> Tensor:
        """(z_t - alpha z_0) / sigma with an estimate of z_0 made at this look."""
        alpha, sigma, _ = DDIM(self.model).mixture(look.level, look.latent)
        return look.noise + alpha / sigma * (look.latent - estimate)
