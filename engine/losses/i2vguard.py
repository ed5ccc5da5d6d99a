"""I2VGuard (Gui et al., CVPR 2025). Distances are mean squared errors, which differ from the paper's squared norms by a constant factor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..observation import Features, LatentEncoder, Observation
from ..picture import resize
from ..surrogates.denoiser import Tap
from ..surrogates.video_setup import VideoSetup


@dataclass(frozen=True, eq=False)
class TargetLatent:
    """L_enc: the distance of E(I_a) from E(I_tg), to be minimised. target: picture [1,3,H,W] in [0,1], black in the paper."""

    vae: LatentEncoder
    target: Tensor

    @property
    def surrogates(self) -> tuple[object, ...]:
        return (self.vae,)

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        def aim() -> Features:
            return (self.vae.encode(_sized(self.target, clean)).float(),)

        (target,) = clean.features(self.vae, ("target", id(self)), aim)
        latent = adversarial.latent(self.vae).float()
        return F.mse_loss(latent, target.expand_as(latent))


@dataclass(frozen=True, eq=False)
class ContrastiveFrames:
    """L_con: |X0_adv - X_tg|^2 + max(0, tau - |X0_adv - X_0|^2), to be minimised.

    X0_adv: the model's estimate of the clean latents under the adversarial picture. target: picture [1,3,H,W] in [0,1] of which a
    still video is X_tg, black in the paper. reach: the paper does not give tau; here it is so many times the distance from X_0 of
    the estimate under the clean picture, at the same noise.
    """

    setup: VideoSetup
    target: Tensor
    reach: float = 2.0

    def __post_init__(self) -> None:
        self.setup.use_estimate()

    @property
    def surrogates(self) -> tuple[object, ...]:
        return self.setup.surrogates

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        before, after = self.setup.estimates(clean, adversarial)
        prior, target = self.setup.prior(clean), self._target(clean)
        near = self.reach * F.mse_loss(before.float(), prior)
        toward, away = F.mse_loss(after.float(), target), F.mse_loss(after.float(), prior)
        return toward + (near - away).clamp_min(0)

    def _target(self, clean: Observation) -> Tensor:
        def still() -> Features:
            return (self.setup.model.still(_sized(self.target, clean)).float(),)

        return clean.features(self.setup.model.conditioner, ("target", id(self)), still)[0]


@dataclass(frozen=True, eq=False)
class TemporalAttention:
    """|A_adv - A_src|^2, to be maximised: minus L_att up to tau_2, which has no gradient. A mean over the blocks' maps."""

    setup: VideoSetup
    blocks: tuple[int, ...]

    def __post_init__(self) -> None:
        self.setup.listen(self.taps)

    @property
    def taps(self) -> tuple[Tap, ...]:
        return tuple(Tap("attention", block) for block in self.blocks)

    @property
    def surrogates(self) -> tuple[object, ...]:
        return self.setup.surrogates

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        before, after = self.setup.insides(clean, adversarial, self.taps)
        return torch.stack([F.mse_loss(a.float(), b.float()) for a, b in zip(after, before, strict=True)]).mean()


@dataclass(frozen=True)
class L2Penalty:
    """|I_a - I_src|^2 of the untransformed pictures, to be minimised."""

    @property
    def surrogates(self) -> tuple[object, ...]:
        return ()

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        return F.mse_loss(adversarial.untransformed, clean.untransformed)


def _sized(picture: Tensor, like: Observation) -> Tensor:
    """At the working size of the clean picture, where that is."""
    return resize(picture.to(like.image.device), (like.image.shape[-2], like.image.shape[-1]))
