"""What protections of pictures against diffusion models of pictures maximise or minimise, one equation each.

z: the picture's latents; z_t = alpha z + sigma n: with noise n at a timestep t that is drawn at each look; e(z_t): the noise that the model
finds. Papers and codes disagree on means and sums; these are means, except where it is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..draws import placed
from ..observation import Features, ImageEncoder, LatentEncoder, Observation
from ..picture import resize
from ..surrogates.ddim import DDIM
from ..surrogates.denoiser import EVERY
from ..surrogates.picture_setup import Look, PictureSetup
from .known import with_gradients


@dataclass(frozen=True, eq=False)
class DenoisingError:
    """The model's own training loss, |e(z_t) - n|^2, or of its velocity where that is what it predicts.

    Maximised: AdvDM (Liang et al. 2023), Anti-DreamBooth (Van Le et al. 2023). Minimised: AdvDM(-) (Xue et al. 2024).
    """

    setup: PictureSetup
    levels: Sequence[float] = EVERY

    @property
    def surrogates(self) -> tuple[object, ...]:
        return self.setup.surrogates

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        look = self.setup.look(adversarial, self.levels)
        (estimate,) = self.setup.estimate(adversarial, look.noise, look.level)
        return training_loss(self.setup, look, estimate)


def training_loss(setup: PictureSetup, look: Look, estimate: Tensor) -> Tensor:
    """A scalar: what the model is trained with, of its own output, from its estimate of the clean latents at this look."""
    return ((estimate - look.latent) / setup.model.output_scale(look.level)).square().mean()


@dataclass(frozen=True, eq=False)
class ScoreDistillation:
    """|e(z_t) - n|^2, whose gradient takes e for a constant: d/dz = 2 (e(z_t) - n) / N (Xue et al. 2024, after Poole et al. 2023).

    The model is not differentiated, which makes a step cheaper: **this is not the derivative of the value**. Maximised or minimised, SDS(+)
    and SDS(-); the paper recommends to minimise.
    """

    setup: PictureSetup
    levels: Sequence[float] = EVERY

    @property
    def surrogates(self) -> tuple[object, ...]:
        return self.setup.surrogates

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        look = self.setup.look(adversarial, self.levels)
        still = look._replace(latent=look.latent.detach())

        def ask() -> Features:
            noisy = self.setup.model.noised(still.latent, still.noise, still.level)
            return self.setup.model.estimate(noisy, still.level)

        (estimate,) = adversarial.features(self.setup.model, ("score", look.level, id(self)), ask)
        difference = (self.setup.noise_of(estimate.detach(), still) - still.noise).detach()
        return with_gradients(difference.square().mean(), [2 * difference / difference.numel()], [look.latent])


@dataclass(frozen=True, eq=False)
class TargetScore:
    """|e(z_t) - z'|^2 with the latents z' of a target picture [1,3,H,W] in [0,1], minimised: ACE, Mist v2 (Zheng et al. 2023).

    noise: see PictureSetup.target.
    """

    setup: PictureSetup
    target: Tensor
    noise: Tensor | None = None
    levels: Sequence[float] = EVERY

    @property
    def surrogates(self) -> tuple[object, ...]:
        return self.setup.surrogates

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        found = self.setup.predicted_noise(adversarial, self.setup.look(adversarial, self.levels))
        return F.mse_loss(found, self.setup.target(clean, self.target, self.noise).expand_as(found))


@dataclass(frozen=True, eq=False)
class NoiseAlignment:
    """<e(z_t), n> / N, minimised: what Mist v2's mode "fused" has beside Texture."""

    setup: PictureSetup
    levels: Sequence[float] = EVERY

    @property
    def surrogates(self) -> tuple[object, ...]:
        return self.setup.surrogates

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        look = self.setup.look(adversarial, self.levels)
        return (self.setup.predicted_noise(adversarial, look) * look.noise).mean()


@dataclass(frozen=True, eq=False)
class Texture:
    """|z - z'|^2 with the latents z' of a target picture [1,3,H,W] in [0,1], minimised (Liang and Wu 2023, Mist's textual loss).

    noise: see PictureSetup.target. drawn: what for random numbers, in its place, are asked at each look, as in Mist's code.
    """

    setup: PictureSetup
    target: Tensor
    noise: Tensor | None = None
    drawn: str | None = None

    @property
    def surrogates(self) -> tuple[object, ...]:
        return (self.setup.vae,)

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        latent = self.setup.latent(adversarial)
        noise = self.noise if self.drawn is None else adversarial.draws.normal(self.drawn, tuple(latent.shape))
        return F.mse_loss(latent, self.setup.target(clean, self.target, noise).expand_as(latent))


@dataclass(frozen=True, eq=False)
class TargetShift:
    """|z_{t-1} - z'_{t-1}|^2, minimised: what Anti-DreamBooth's variant with a target picture [1,3,H,W] in [0,1] has beside DenoisingError.

    z_{t-1}: one ancestral step from z_t, with fresh noise; z'_{t-1}: the target's latents with noise n. Where t is the first timestep, the
    target's comes from the last one: levels wrap around, as in the code.
    """

    setup: PictureSetup
    target: Tensor
    levels: Sequence[float] = EVERY

    @property
    def surrogates(self) -> tuple[object, ...]:
        return self.setup.surrogates

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        setup, look = self.setup, self.setup.look(adversarial, self.levels)
        (estimate,) = setup.estimate(adversarial, look.noise, look.level)
        index, ddim = self.levels.index(look.level), DDIM(setup.model)
        before = self.levels[index - 1]
        stepped = estimate
        if index:
            alpha, sigma, _ = ddim.mixture(look.level, look.latent)
            noisy, fresh = alpha * look.latent + sigma * look.noise, adversarial.draws.normal("ancestral step", tuple(look.latent.shape))
            stepped = ddim.ancestral(noisy, setup.noise_of(estimate, look), look.level, before, placed(fresh, noisy))
        alpha, sigma, _ = ddim.mixture(before, look.latent)
        return F.mse_loss(stepped, (alpha * setup.target(clean, self.target) + sigma * look.noise).expand_as(stepped))


@dataclass(frozen=True, eq=False)
class LatentNorm:
    """|E(x) - E(x')|, a norm over the whole latent, minimised: PhotoGuard's encoder attack (Salman et al. 2023).

    target: picture x' [1,3,H,W] in [0,1]; without one the latent is drawn to zero.
    """

    vae: LatentEncoder
    target: Tensor | None = None

    @property
    def surrogates(self) -> tuple[object, ...]:
        return (self.vae,)

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        latent = adversarial.latent(self.vae).float()
        if (picture := self.target) is not None:
            latent = latent - clean.features(self.vae, ("target", id(self)), lambda: (self.vae.encode(shown(picture, clean)).float(),))[0]
        return latent.flatten(1).square().sum(1).sqrt().mean()


@dataclass(frozen=True, eq=False)
class EmbeddingAngle:
    """1 - cos(C(x), C(x')) of an image encoder's embeddings (VGMShield, Pang et al. 2024).

    target: picture x' [1,3,H,W] in [0,1], towards which it is minimised; without one x' is the clean picture, and it is maximised.
    """

    encoder: ImageEncoder
    target: Tensor | None = None

    @property
    def surrogates(self) -> tuple[object, ...]:
        return (self.encoder,)

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        picture = self.target
        if picture is None:
            wanted = clean.embedding(self.encoder)
        else:
            (wanted,) = clean.features(self.encoder, ("target", id(self)), lambda: (self.encoder.embed(shown(picture, clean)),))
        return (1 - F.cosine_similarity(adversarial.embedding(self.encoder).float(), wanted.float())).mean()


@dataclass(frozen=True, eq=False)
class LatentAngle:
    """1 - cos(E(x + s n), E(x' + s n')) of whole latents (VGMShield, as SVD is told of a picture: with some noise).

    target: as of EmbeddingAngle. spread: s, of pixels in [0,1]. n is drawn at each look, n' once, or it is `noise` [1,3,H,W].
    """

    vae: LatentEncoder
    target: Tensor | None = None
    spread: float = 0.01
    noise: Tensor | None = None

    @property
    def surrogates(self) -> tuple[object, ...]:
        return (self.vae,)

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        def noised(image: Tensor, noise: Tensor) -> Features:
            return (self.vae.encode(image + self.spread * placed(noise, image)).float(),)

        def aimed() -> Features:
            image = clean.image if self.target is None else shown(self.target, clean)
            return noised(image, clean.draws.normal("conditioning noise", tuple(image.shape)) if self.noise is None else self.noise)

        drawn = adversarial.draws.normal("conditioning noise", tuple(adversarial.image.shape))
        (latent,) = adversarial.features(self.vae, ("with noise", self.spread), lambda: noised(adversarial.image, drawn))
        (aim,) = clean.features(self.vae, ("with noise", id(self)), aimed)
        return (1 - F.cosine_similarity(latent.flatten(1), aim.flatten(1).expand_as(latent.flatten(1)))).mean()


def shown(picture: Tensor, clean: Observation) -> Tensor:
    """At the size of the clean one."""
    return resize(picture.to(clean.image), (clean.image.shape[-2], clean.image.shape[-1]))


def pattern(side: int = 512) -> Tensor:
    """[1,3,side,side] in [0,1]: rings and stripes in black and white, of which Mist's authors found that they disturb most: repeated, of
    high contrast. Drawn, not theirs."""
    along = torch.arange(side) / side
    down, across = along[:, None], along[None]
    rings = torch.sin(2 * torch.pi * 16 * ((down % 0.25 - 0.125).square() + (across % 0.25 - 0.125).square()).sqrt() * 2)
    stripes = torch.sin(2 * torch.pi * 8 * (down + across))
    return ((rings * stripes) > 0).float().expand(1, 3, side, side)
