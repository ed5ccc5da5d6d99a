"""I2VGuard (Gui et al., CVPR 2025). Distances are mean squared errors, which differ from the paper's squared norms by a constant factor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ..draws import stream
from ..observation import Features, LatentEncoder, Observation
from ..picture import resize


class VideoModel(Protocol):
    """An image-to-video model behind its own conditioning, frozen."""

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

    def noised(self, latents: Tensor, noise: Tensor, level: float, /) -> Tensor:
        """X_t from clean latents at a noise level, a share from 0 (clean) to 1 (noise) of the model's schedule."""
        ...

    def estimate(self, noisy: Tensor, level: float, conditioning: Features, /) -> Features:
        """The estimate of the clean latents, shaped like `noisy`, then the tapped attention maps [...,F,F], rows adding up to 1."""
        ...


@dataclass(frozen=True, eq=False)
class VideoSetup:
    """From which X_t a video model is asked for the clean and the adversarial picture: the clean picture's video, noised.

    levels: noise levels in [0,1]; each has its own fixed noise, so that the clean picture is asked only once for each. One is drawn
    at each step, the same for all terms.
    """

    model: VideoModel
    levels: tuple[float, ...] = (0.125, 0.375, 0.625, 0.875)
    seed: int = 0

    @property
    def surrogates(self) -> tuple[object, ...]:
        return (self.model, self.model.conditioner)

    def prior(self, clean: Observation) -> Tensor:
        """X_0, made once for each clean picture."""
        return clean.features(self.model, "prior", lambda: (self.model.prior(clean.image).float(),))[0]

    def estimates(self, clean: Observation, adversarial: Observation) -> tuple[Features, Features]:
        """Of the clean and of the adversarial picture, from the same X_t."""
        index = adversarial.draws.integer("video", len(self.levels))
        noisy, level = self.start(clean, index), self.levels[index]

        def estimate(seen: Observation) -> Features:
            conditioning = seen.features(self.model.conditioner, ("conditioning", id(self.model)), lambda: self.model.condition(seen.image))
            return seen.features(self.model, ("estimate", id(self), index), lambda: self.model.estimate(noisy, level, conditioning))

        return estimate(clean), estimate(adversarial)

    def start(self, clean: Observation, index: int) -> Tensor:
        """X_t at the level of that index."""

        def noised() -> Features:
            prior = self.prior(clean)
            noise = torch.randn(prior.shape, generator=stream(self.seed, f"video {index}")).to(prior)
            return (self.model.noised(prior, noise, self.levels[index]),)

        return clean.features(self.model, ("start", id(self), index), noised)[0]


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

    @property
    def surrogates(self) -> tuple[object, ...]:
        return self.setup.surrogates

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        (before, *_), (after, *_) = self.setup.estimates(clean, adversarial)
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
    """|A_adv - A_src|^2, to be maximised: minus L_att up to tau_2, which has no gradient. A mean over the tapped maps."""

    setup: VideoSetup

    @property
    def surrogates(self) -> tuple[object, ...]:
        return self.setup.surrogates

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        (_, *before), (_, *after) = self.setup.estimates(clean, adversarial)
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
