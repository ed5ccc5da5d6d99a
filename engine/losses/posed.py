"""What a ReferenceNet reads in a picture, and the clip that a pose animator predicts of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..draws import placed
from ..observation import Features, ImageEncoder, LatentEncoder, Observation
from ..picture import resize
from ..surrogates.sd_unet import LATENT_SCALE


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


class Denoiser(Protocol):
    """What a clip needs of an animator, see animators/pose_animator.py."""

    def guide(self, pose: Tensor, /) -> Tensor: ...

    def denoise(
        self, noisy: Tensor, timestep: int, context: Tensor, pose: Tensor, bank: Mapping[str, Tensor] | None = None, /
    ) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class PosedClip:
    """Frames that an animator predicts: the estimate of each clean frame from one denoiser call at a drawn timestep, with guidance.

    pose: pictures [P,3,H,W] in [0,1], one for all frames or as many as frames, resized to the working size; any number from that of the
    frames on where they are `drawn`: then each look has as many that follow each other. signal: cumulative alphas of the schedule, by
    timestep. noised: start from the noised clean latent, as animators do in their late steps; Dormant's official code starts from pure
    noise, of which the estimate at late steps is mostly made. guidance: classifier-free; 1 leaves the unconditional row out.
    Raises ValueError for fewer than 2 frames, and for a number of pose pictures that does not fit.
    """

    animator: Denoiser
    reference: ReferenceSetup
    pose: Tensor
    signal: Tensor
    timesteps: tuple[int, ...]
    frames: int = 5
    guidance: float = 3.5
    noised: bool = False
    drawn: bool = False

    def __post_init__(self) -> None:
        if self.frames < 2:
            raise ValueError(f"Frames cannot be incoherent when there is {self.frames}: choose 2 or more.")
        poses = self.pose.shape[0]
        if self.drawn and poses < self.frames:
            raise ValueError(f"There are {poses} pose pictures for {self.frames} frames: give more of them, or choose fewer frames.")
        if not self.drawn and poses not in (1, self.frames):
            raise ValueError(f"There are {poses} pose pictures for {self.frames} frames: give one, or one for each frame.")

    @property
    def surrogates(self) -> tuple[object, ...]:
        return (self.animator, *self.reference.surrogates)

    def photo(self, clean: Observation) -> Tensor:
        """The clean picture's latent in every frame, [B,4,1,h,w]."""
        return (clean.latent(self.reference.vae).float() * self.reference.latent_scale)[:, :, None]

    def frames_of(self, clean: Observation, adversarial: Observation) -> Tensor:
        """[B,4,frames,h,w], of the adversarial picture; with draws of its own, so the same for whoever asks in one look."""
        target, timestep = self.photo(clean), draw_timestep(adversarial, self.timesteps)
        noise = placed(adversarial.draws.normal("frames", (*target.shape[:2], self.frames, *target.shape[3:])), target)
        signal, rest = (float(value) ** 0.5 for value in (self.signal[timestep], 1 - self.signal[timestep]))
        noisy = signal * target + rest * noise if self.noised else noise
        pose = self._guided(clean, adversarial)
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

    def _guided(self, clean: Observation, adversarial: Observation) -> Tensor:
        """What the animator's pose guider makes of this look's poses."""
        first = adversarial.draws.integer("first pose", len(self.pose) - self.frames + 1) if self.drawn else 0
        chosen = self.pose[first : first + self.frames]
        size = (clean.image.shape[-2], clean.image.shape[-1])

        def guide() -> Features:
            return (self.animator.guide(resize(chosen.to(clean.image.device), size)),)

        (pose,) = clean.features(self.animator, ("pose", id(self.pose), first), guide, lasting=not self.drawn)
        return pose.expand(self.frames, -1, -1, -1)


def draw_timestep(adversarial: Observation, timesteps: tuple[int, ...]) -> int:
    """One of `timesteps`; terms that choose among the same draw the same."""
    return timesteps[0] if len(timesteps) == 1 else timesteps[adversarial.draws.integer("timestep", len(timesteps))]
