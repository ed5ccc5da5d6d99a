"""Dormant (Zhou et al., USENIX Security 2025, arXiv 2409.14424). D is the mean squared error throughout."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..observation import ImageEncoder, LatentEncoder, Observation
from ..surrogates.perceptual import PerceptualNetwork
from .posed import PosedClip, ReferenceSetup, draw_timestep


@dataclass(frozen=True)
class VAELatent:
    """Eq 7: D(E(x), E(x_a)) of latents times `scale`.

    scale: the factor to about unit variance that denoisers see (0.18215 for the VAE of SD 1.5, as in the official code);
    None divides by the standard deviation of each clean latent instead, which makes one weight fit every VAE.
    """

    vae: LatentEncoder
    scale: float | None = None

    @property
    def surrogates(self) -> tuple[object, ...]:
        return (self.vae,)

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        target = clean.latent(self.vae).float()
        scale = self._automatic_scale(clean) if self.scale is None else self.scale
        return ((adversarial.latent(self.vae).float() - target) * scale).square().mean()

    def _automatic_scale(self, clean: Observation) -> Tensor:
        """[B,1,...], kept with the clean picture's features."""

        def inverse_spread() -> tuple[Tensor]:
            latent = clean.latent(self.vae).float()
            return (1 / latent.std(dim=tuple(range(1, latent.ndim)), keepdim=True).clamp_min(1e-6),)

        return clean.features(self.vae, "inverse spread", inverse_spread)[0]


@dataclass(frozen=True)
class CLIPSemantic:
    """Eq 8: D(C(x), C(x_a)) of the projected image embeddings."""

    encoder: ImageEncoder

    @property
    def surrogates(self) -> tuple[object, ...]:
        return (self.encoder,)

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        return F.mse_loss(adversarial.embedding(self.encoder).float(), clean.embedding(self.encoder).float())


@dataclass(frozen=True)
class LPIPSPenalty:
    """Eq 11: max(LPIPS(x, x_a) - threshold, 0) per picture, on the untransformed picture. Give it a negative weight."""

    network: PerceptualNetwork
    threshold: float = 16 / 255

    @property
    def surrogates(self) -> tuple[object, ...]:
        return (self.network,)

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        target, seen = (self._activations(observation) for observation in (clean, adversarial))
        return (self.network.distance(seen, target) - self.threshold).clamp_min(0).mean()

    def _activations(self, observation: Observation) -> tuple[Tensor, ...]:
        return observation.features(self.network, "untransformed", lambda: self.network.activations(observation.untransformed))


@dataclass(frozen=True, eq=False)
class ReferenceFeature:
    """Eq 9 for one ReferenceNet: the mean over its blocks of D(R(x), R(x_a)). An ensemble is one term for each net.

    timesteps: one is drawn at each step, the same for all terms that draw from as many; a net that is always asked at 0 gets (0,).
    """

    setup: ReferenceSetup
    timesteps: tuple[int, ...] = (0,)

    @property
    def surrogates(self) -> tuple[object, ...]:
        return self.setup.surrogates

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        timestep = draw_timestep(adversarial, self.timesteps)
        pairs = zip(self.setup.features(adversarial, timestep), self.setup.features(clean, timestep), strict=True)
        return torch.stack([F.mse_loss(seen.float(), target.float()) for seen, target in pairs]).mean()


@dataclass(frozen=True, eq=False)
class FrameIncoherence:
    """Eq 10: alignment * mean_i D(E(x), z_i) + consistency * mean_{i<j} D(z_i, z_j) over the frames z_i of a clip."""

    clip: PosedClip
    alignment: float = 1.0
    consistency: float = 1.0

    @property
    def surrogates(self) -> tuple[object, ...]:
        return self.clip.surrogates

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        target, frames = self.clip.photo(clean), self.clip.frames_of(clean, adversarial)
        aligned = (frames - target).square().mean()
        # The sum over pairs of squared distances is N times the sum of squared distances from the mean.
        scattered = (frames - frames.mean(dim=2, keepdim=True)).square().mean() * (2 * self.clip.frames / (self.clip.frames - 1))
        return self.alignment * aligned + self.consistency * scattered
