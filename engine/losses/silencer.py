"""Silencer's first stage (Yuan et al., CVPR 2025, arXiv 2506.01591): a portrait that stays still whatever it is told to say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, cast

import torch
from torch import Tensor

from ..animators.motion_unet import Bank
from ..animators.talking_head.denoiser import Masks, Mode
from ..animators.talking_head.masks import located
from ..draws import placed, uniform
from ..observation import Features, LatentEncoder, Observation, PosteriorEncoder
from ..surrogates.sd_unet import LATENT_SCALE
from .known import summed
from .posed import ReferenceReader

Window = tuple[int, int]
"""Timesteps first <= t < end."""

REFERENCE: tuple[Window, ...] = ((200, 300),)
"""Where the paper draws its timesteps."""
SEVERAL: tuple[Window, ...] = ((0, 100), (100, 200), (300, 400), (900, 1000))
"""SyncBreaker's image stream (arXiv 2604.08405): a timestep of each at every step, summed. It costs as many passes."""

Sampled = Literal["nothing", "portrait", "everything"]
"""What is drawn from the VAE's distribution, and not its mean: "everything" as in Silencer's code, which also draws the still frames."""

Before = Literal["grey", "portrait"]
"""The frames that the talking head is told of: grey ones, as in Silencer's code, or the portrait, with which Hallo begins."""

_GREY = 0.5
# The earliest frame whose window of audio is whole, as Silencer's code has it.
_FIRST_AUDIO = 2


class Head(Protocol):
    """What the loss needs of a talking head, see engine/animators/talking_head/head.py."""

    @property
    def levels(self) -> int: ...

    def windows(self, features: Tensor, frames: Sequence[int] | None = None, /) -> Tensor: ...

    def audio_tokens(self, windows: Tensor, /) -> Tensor: ...

    def face_tokens(self, embedding: Tensor, /) -> Tensor: ...

    def locate(self, region: Tensor, /) -> Tensor: ...

    def denoise(
        self,
        noisy: Tensor,
        timestep: int | Tensor,
        context: Tensor,
        face: Tensor,
        audio: Tensor,
        masks: Masks,
        bank: Bank | None = None,
        motion: Bank | None = None,
        *,
        mode: Mode = "faithful",
    ) -> Tensor: ...


class Levels(Protocol):
    """The masks that a talking head reads, see engine/animators/talking_head/masks.py."""

    def levels(self, height: int, width: int, count: int, /) -> Masks: ...


@dataclass(frozen=True, eq=False)
class TalkingSetup:
    """How a talking head is shown a portrait, from which it then has to make one frame.

    audio: speech features [N,layers,channels], 25 a second, of which each look draws a frame. face: the clean portrait's embedding [1,D],
    or zeros. region: where the face is, [1,1,H,W] in [0,1]. regions: background, face and lips. mode: which of the two networks, see
    talking_head.denoiser. frames_before: how many frames it is told of. latent_scale: see sd_unet.LATENT_SCALE.
    """

    net: ReferenceReader
    head: Head
    vae: LatentEncoder
    audio: Tensor
    face: Tensor
    region: Tensor
    regions: Levels
    mode: Mode = "faithful"
    sampled: Sampled = "portrait"
    before: Before = "grey"
    frames_before: int = 2
    latent_scale: float = LATENT_SCALE

    @property
    def surrogates(self) -> tuple[object, ...]:
        return (self.head, self.net, self.vae)

    def told(self, clean: Observation) -> tuple[Tensor, Tensor, Masks]:
        """Tokens of the face [1,T,D], features of where it is [1,C,h,w] and the masks: the same for every look."""

        def compute() -> Features:
            height, width = clean.image.shape[-2:]
            region = located(self.region, height, width).to(clean.image)
            masks = self.regions.levels(height // 8, width // 8, self.head.levels)
            tokens = self.head.face_tokens(self.face.to(clean.image))
            return tokens, self.head.locate(region), *(level.to(clean.image) for level in masks)

        tokens, located_face, *masks = clean.features(self.head, ("told", id(self)), compute)
        return tokens, located_face, tuple(masks)

    def heard(self, adversarial: Observation, *, dropped: float) -> Tensor:
        """Tokens of a drawn frame's audio [B,1,T,D], or zeros with the probability `dropped`."""
        image, first = adversarial.image, min(_FIRST_AUDIO, len(self.audio) - 1)
        at = first + adversarial.draws.integer("audio frame", len(self.audio) - first)
        tokens = self.head.audio_tokens(placed(self.head.windows(self.audio, [at]), image))
        silent = float(uniform(adversarial.draws, "audio dropped", ())) < dropped
        return (torch.zeros_like(tokens) if silent else tokens)[None].expand(len(image), -1, -1, -1)

    def latent(self, adversarial: Observation, purpose: str) -> Tensor:
        """[B,4,h,w] in the UNets' scale, drawn anew for each purpose unless nothing is."""
        if self.sampled == "nothing":
            return adversarial.latent(self.vae).float() * self.latent_scale
        return adversarial.drawn_latent(self.vae, purpose).float() * self.latent_scale

    def banks(self, clean: Observation, adversarial: Observation) -> tuple[Bank, Bank]:
        """What the denoiser reads of the portrait, [B,tokens,C] by block, and of the frames before, [1 or B,M,tokens,C]."""
        tokens = self.told(clean)[0]
        motion = self._grey(clean, adversarial, tokens) if self.before == "grey" else None

        def read() -> Features:
            latent = self.latent(adversarial, "portrait's latent")
            return self.net(latent, 0, tokens.expand(len(latent), -1, -1))

        portrait = adversarial.features(self.net, ("portrait", id(self)), read)
        return self._named(portrait), self._named(self._repeated(portrait) if motion is None else motion)

    def _grey(self, clean: Observation, adversarial: Observation, tokens: Tensor) -> Features:
        """Constant, and so computed once for a run, unless they are drawn."""
        drawn, grey = self.sampled == "everything", torch.full_like(clean.image[:1], _GREY)

        def read() -> Features:
            if not drawn:
                (mean,) = clean.features(self.vae, "grey", lambda: (self.vae.encode(grey),))
                return self._repeated(self.net(mean.float() * self.latent_scale, 0, tokens))
            mean, deviation = clean.features(self.vae, "grey posterior", lambda: cast(PosteriorEncoder, self.vae).posterior(grey))
            noise = adversarial.draws.normal("motion frames' latents", (self.frames_before, *mean.shape[1:]))
            latents = (mean + deviation * placed(noise, mean)).float() * self.latent_scale
            return tuple(feature[None] for feature in self.net(latents, 0, tokens.expand(len(latents), -1, -1)))

        return clean.features(self.net, ("grey frames", id(self)), read, lasting=not drawn)

    def _repeated(self, features: Features) -> Features:
        return tuple(feature[:, None].expand(-1, self.frames_before, -1, -1) for feature in features)

    def _named(self, features: Features) -> Bank:
        return dict(zip(self.net.names, features, strict=True))


@dataclass(frozen=True, eq=False)
class AudioNullifying:
    """How far the talking head's prediction is from the portrait itself, whatever it hears. Minimised: give it a negative weight.

    min(SNR + 1, gamma) / (SNR + 1) * mean |v(z_t, t; x, a) - v*|^2 over one frame, with z_t = sqrt(s) z_0 + sqrt(1 - s) n,
    v* = sqrt(s) n - sqrt(1 - s) z_0, n = N(0,1) + offset * N(0,1) for each channel, SNR = s / (1 - s), s = signal[t]; z_0 is the picture's
    own latent without gradient, which reaches the picture through the reference x alone. Of each window a timestep is drawn and the losses
    are summed. signal: cumulative alphas of the schedule that the head was trained with. dropped: how often it hears nothing.
    """

    setup: TalkingSetup
    signal: Tensor
    windows: tuple[Window, ...] = REFERENCE
    gamma: float = 5.0
    offset: float = 0.05
    dropped: float = 0.05

    @property
    def surrogates(self) -> tuple[object, ...]:
        return self.setup.surrogates

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        setup = self.setup
        bank, motion = setup.banks(clean, adversarial)
        target = setup.latent(adversarial, "target's latent").detach()[:, :, None]
        (tokens, face, masks), audio = setup.told(clean), setup.heard(adversarial, dropped=self.dropped)
        adversarial.make_room()
        rows = tokens.expand(len(target), -1, -1)

        def one(index: int) -> Tensor:
            timestep, noise = self._drawn(adversarial, index, target)
            signal = float(self.signal[timestep])
            noisy = signal**0.5 * target + (1 - signal) ** 0.5 * noise
            velocity = setup.head.denoise(noisy, timestep, rows, face, audio, masks, bank, motion, mode=setup.mode)
            wanted = signal**0.5 * noise - (1 - signal) ** 0.5 * target
            # SNR + 1 = 1 / (1 - s).
            loss: Tensor = (velocity - wanted).square().mean() * min(1.0, self.gamma * (1 - signal))
            return loss

        passes = [lambda index=index: one(index) for index in range(len(self.windows))]
        return passes[0]() if len(passes) == 1 else summed(passes, list(bank.values()))

    def _drawn(self, adversarial: Observation, index: int, target: Tensor) -> tuple[int, Tensor]:
        """Timestep and noise [B,4,1,h,w] of one window."""
        draws, (first, end) = adversarial.draws, self.windows[index]
        noise = draws.normal(f"noise {index}", tuple(target.shape))
        offset = draws.normal(f"noise offset {index}", (*target.shape[:2], 1, 1, 1))
        return first + draws.integer(f"timestep {index}", end - first), placed(noise + self.offset * offset, target)
