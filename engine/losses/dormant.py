"""Dormant (Zhou et al., USENIX Security 2025, arXiv 2409.14424). D is the mean squared error throughout."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from ..observation import ImageEncoder, LatentEncoder, Observation
from ..surrogates.perceptual import PerceptualNetwork


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
