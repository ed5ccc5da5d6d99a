"""Dormant (Zhou et al., USENIX Security 2025, arXiv 2409.14424). D is the mean squared error throughout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ..draws import placed
from ..observation import Features, ImageEncoder, LatentEncoder, Observation
from ..picture import resize
from ..surrogates.perceptual import PerceptualNetwork
from ..surrogates.sd_unet import LATENT_SCALE


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


class ReferenceReader(Protocol):
    """What the terms need of a ReferenceNet, see surrogates/reference_net.py."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def __call__(self, latent: Tensor, timestep: int, context: Tensor, /) -> tuple[Tensor, ...]: ...


@dataclass(frozen=True, eq=False)
class ReferenceSetup:
    """How a ReferenceNet is shown a picture.

    context: an image encoder, whose embedding [B,D] is read as one token, or a fixed text embedding [1,T,D], which the official
    code makes from the empty prompt. unconditional: also the row that classifier-free guidance would add, with zeros for
    context; only the official code's loss reads it. latent_scale: see sd_unet.LATENT_SCALE.
    """

    net: ReferenceReader
    vae: LatentEncoder
    context: ImageEncoder | Tensor
    latent_scale: float = LATENT_SCALE
    unconditional: bool = False

    @property
    def surrogates(self) -> tuple[object, ...]:
        return (self.net, self.vae) if isinstance(self.context, Tensor) else (self.net, self.vae, self.context)

    def tokens(self, seen: Observation) -> Tensor:
        """[B,T,D] for the picture."""
        if isinstance(self.context, Tensor):
            return self.context.to(seen.image.device).expand(seen.image.shape[0], -1, -1)
        return seen.embedding(self.context)[:, None]

    def features(self, seen: Observation, timestep: int) -> Features:
        """One [B,tokens,C] for each spatial block, or [2B,...] with the unconditional rows first; computed once per timestep."""

        def read() -> Features:
            latent, tokens = seen.latent(self.vae) * self.latent_scale, self.tokens(seen)
            if self.unconditional:
                latent, tokens = torch.cat([latent, latent]), torch.cat([torch.zeros_like(tokens), tokens])
            return self.net(latent, timestep, tokens)

        key = ("reference", timestep, self.unconditional, id(self.vae), id(self.context), self.latent_scale)
        return seen.features(self.net, key, read)

    def bank(self, seen: Observation, timestep: int) -> dict[str, Tensor]:
        """The conditional rows by block, as an animator's attention reads them."""
        rows = seen.image.shape[0]
        return {name: feature[-rows:] for name, feature in zip(self.net.names, self.features(seen, timestep), strict=True)}


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


class Denoiser(Protocol):
    """What Eq 10 needs of an animator, see surrogates/pose_animator.py."""

    def guide(self, pose: Tensor, /) -> Tensor: ...

    def denoise(
        self, noisy: Tensor, timestep: int, context: Tensor, pose: Tensor, bank: Mapping[str, Tensor] | None = None, /
    ) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class FrameIncoherence:
    """Eq 10: alignment * mean_i D(E(x), z_i) + consistency * mean_{i<j} D(z_i, z_j) over the frames that an animator predicts.

    z_i is the estimate of the clean frame i from one denoiser call at a drawn timestep, with classifier-free guidance.
    pose: pictures [frames,3,H,W] in [0,1], or one for all frames, resized to the working size. signal: cumulative alphas of the
    schedule, by timestep. noised: start from the noised clean latent, as animators do in their late steps; the official code
    starts from pure noise, of which the estimate at late steps is mostly made. guidance 1 leaves the unconditional row out.
    Raises ValueError for fewer than 2 frames, and for a number of pose pictures that is neither 1 nor that of the frames.
    """

    animator: Denoiser
    reference: ReferenceSetup
    pose: Tensor
    signal: Tensor
    timesteps: tuple[int, ...]
    frames: int = 5
    guidance: float = 3.5
    noised: bool = False
    alignment: float = 1.0
    consistency: float = 1.0

    def __post_init__(self) -> None:
        if self.frames < 2:
            raise ValueError(f"Frames cannot be incoherent when there is {self.frames}: choose 2 or more.")
        if self.pose.shape[0] not in (1, self.frames):
            raise ValueError(f"There are {self.pose.shape[0]} pose pictures for {self.frames} frames: give one, or one for each frame.")

    @property
    def surrogates(self) -> tuple[object, ...]:
        return (self.animator, *self.reference.surrogates)

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        target = clean.latent(self.reference.vae).float() * self.reference.latent_scale
        frames = self._frames(clean, adversarial, target[:, :, None])
        aligned = (frames - target[:, :, None]).square().mean()
        # The sum over pairs of squared distances is N times the sum of squared distances from the mean.
        scattered = (frames - frames.mean(dim=2, keepdim=True)).square().mean() * (2 * self.frames / (self.frames - 1))
        return self.alignment * aligned + self.consistency * scattered

    def _frames(self, clean: Observation, adversarial: Observation, target: Tensor) -> Tensor:
        """[B,4,frames,h,w]."""
        timestep = draw_timestep(adversarial, self.timesteps)
        noise = placed(adversarial.draws.normal("frames", (*target.shape[:2], self.frames, *target.shape[3:])), target)
        signal, rest = (float(value) ** 0.5 for value in (self.signal[timestep], 1 - self.signal[timestep]))
        noisy = signal * target + rest * noise if self.noised else noise
        size = (clean.image.shape[-2], clean.image.shape[-1])
        (pose,) = clean.features(
            self.animator, ("pose", id(self.pose)), lambda: (self.animator.guide(resize(self.pose.to(clean.image.device), size)),)
        )
        pose = pose.expand(self.frames, -1, -1, -1)
        # Read before the animator runs: its graph is then the newest, and freed first.
        tokens, bank = self.reference.tokens(adversarial), self.reference.bank(adversarial, 0)
        adversarial.make_room()
        free: Tensor | None = None
        if self.guidance != 1:
            with torch.no_grad():
                # Does not depend on the picture.
                free = self.animator.denoise(noisy, timestep, torch.zeros_like(tokens), pose)
        velocity = self.animator.denoise(noisy, timestep, tokens, pose, bank)
        velocity = velocity if free is None else free + self.guidance * (velocity - free)
        estimate: Tensor = signal * noisy - rest * velocity
        return estimate


def draw_timestep(adversarial: Observation, timesteps: tuple[int, ...]) -> int:
    """One of `timesteps`; terms that choose among the same draw the same."""
    return timesteps[0] if len(timesteps) == 1 else timesteps[adversarial.draws.integer("timestep", len(timesteps))]
