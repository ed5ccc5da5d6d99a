"""The talking head at work: a portrait and speech become a video, clip after clip, as Hallo's pipeline makes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ...draws import stream
from ...observation import LatentEncoder
from ...surrogates.reference_net import ReferenceNet
from ...surrogates.sd_unet import LATENT_SCALE
from ..motion_unet import Bank
from ..pose_animator import noise_schedule
from ..pose_sampler import Denoising
from .denoiser import Masks, Mode, Scale
from .head import TalkingHead

FRAMES_PER_SECOND = 25
CLIP = 16
"""Frames that are made at a time."""
BEFORE = 2
"""Frames before a clip that it is told of: the last ones of the clip before, or copies of the portrait."""


class VAE(LatentEncoder, Protocol):
    """An autoencoder whose latents Hallo reads."""

    def decode(self, latents: Tensor, /) -> Tensor:
        """[N,4,h,w] -> pictures [N,3,H,W] in [0,1]."""
        ...


@dataclass(frozen=True, eq=False)
class Portrait:
    """What stays the same over all clips.

    latent: the VAE's mean in the UNets' scale, [1,4,h,w]. face: the face's embedding [1,D], zeros without one. region: where it is, at
    the picture's size, [1 or frames,1,H,W] in [0,1]. masks: see TalkingHead.denoise.
    """

    latent: Tensor
    face: Tensor
    region: Tensor
    masks: Masks


@dataclass(frozen=True)
class Speaking:
    """State of clip `clip` of `clips`, both counted from 1. frames: [n,3,H,W] in [0,1] when it is done, else None."""

    clip: int
    clips: int
    state: Denoising
    frames: Tensor | None


@dataclass(frozen=True, eq=False)
class _Row:
    """One row of classifier-free guidance: what `TalkingHead.denoise` is told beside noisy latents and timestep."""

    context: Tensor
    face: Tensor
    audio: Tensor
    bank: Bank | None
    motion: Bank


@torch.no_grad()
def animate(
    net: ReferenceNet,
    head: TalkingHead,
    vae: VAE,
    portrait: Portrait,
    audio: Tensor,
    *,
    steps: int = 40,
    guidance: float = 3.5,
    scale: Scale = (1, 1, 1),
    clip: int = CLIP,
    mode: Mode = "faithful",
    as_published: bool = False,
    seed: int = 0,
) -> Iterator[Speaking]:
    """One state after each step, and the frames of each clip in its last one; deterministic by seed.

    audio: speech features [N,layers,channels], 25 a second; as many frames come out. The last clip is filled up with the last of them.
    scale: how much background, face and lips move. as_published: with the rows of classifier-free guidance mixed up as in Hallo's code, see
    `clip_states`. Raises ValueError without audio, and for a clip that is longer than the motion modules reach.
    """
    total = len(audio)
    if not total:
        raise ValueError("There is no speech: give at least one frame of it (1/25 s).")
    if not 1 <= clip <= head.longest - BEFORE:
        raise ValueError(f"The clip is {clip} frames: choose 1 to {head.longest - BEFORE}, which is as far as the motion modules reach.")
    before = portrait.latent.expand(BEFORE, -1, -1, -1)
    starts = range(0, total, clip)
    for number, start in enumerate(starts, start=1):
        heard = [min(frame, total - 1) for frame in range(start, start + clip)]
        tokens = head.audio_tokens(head.windows(audio, heard).to(portrait.latent.device))[None]
        noise = torch.randn(1, 4, clip, *portrait.latent.shape[2:], generator=stream(seed, f"clip {number}")).to(portrait.latent.device)
        states = clip_states(
            net, head, portrait, before, tokens, noise, steps=steps, guidance=guidance, scale=scale, mode=mode, as_published=as_published
        )
        for state in states:
            if state.done < state.total:
                yield Speaking(number, len(starts), state, None)
        frames = vae.decode(state.latents[0].transpose(0, 1) / LATENT_SCALE)
        if number < len(starts):
            before = vae.encode(frames[-BEFORE:]).float() * LATENT_SCALE
        yield Speaking(number, len(starts), state, frames[: total - start])


@torch.no_grad()
def clip_states(
    net: ReferenceNet,
    head: TalkingHead,
    portrait: Portrait,
    before: Tensor,
    audio: Tensor,
    noise: Tensor,
    *,
    steps: int,
    guidance: float,
    scale: Scale = (1, 1, 1),
    mode: Mode = "faithful",
    as_published: bool = False,
) -> Iterator[Denoising]:
    """DDIM (Song et al. 2021) of one clip with classifier-free guidance, a state after each step.

    before: latents of the frames before it [M,4,h,w]. audio: tokens [1,N,T,D]. noise: [1,4,N,h,w]. guidance 1 leaves the unconditional row
    out. as_published: Hallo's code mixes up the rows: of an even number of frames every second one reads the portrait as the unconditional
    row does, and the frames before are read with the context of the one row and of the other in turns.
    """
    rows = _rows(net, head, portrait, before, audio, as_published=as_published, free=guidance != 1)
    schedule = noise_schedule()
    schedule.set_timesteps(steps)
    latents = noise
    for done, timestep in enumerate(schedule.timesteps.tolist(), start=1):
        free, conditional = (
            head.denoise(latents, timestep, row.context, row.face, row.audio, portrait.masks, row.bank, row.motion, mode=mode, scale=scale)
            if row is not None
            else None
            for row in rows
        )
        assert conditional is not None
        velocity = conditional if free is None else free + guidance * (conditional - free)
        result = schedule.step(velocity, timestep, latents)
        latents = result.prev_sample
        yield Denoising(done, steps, latents, result.pred_original_sample)


def _rows(
    net: ReferenceNet, head: TalkingHead, portrait: Portrait, before: Tensor, audio: Tensor, *, as_published: bool, free: bool
) -> tuple[_Row | None, _Row]:
    """The unconditional row, where it is asked for, and the conditional one."""
    contexts = head.face_tokens(torch.zeros_like(portrait.face)), head.face_tokens(portrait.face)
    face = head.locate(portrait.region)
    own, frames = 1 + len(before), audio.shape[1]
    latents = torch.cat([portrait.latent, before])

    def read(told: Sequence[int]) -> Bank:
        """Rows of the portrait and of the frames before, each with the context of that row of guidance."""
        features = net(latents, 0, torch.cat([contexts[row] for row in told]))
        return dict(zip(net.names, features, strict=True))

    # The code repeats the two contexts in turns over the rows of both, and there are as many of each as `own`.
    told = [[(row * own + place) % 2 if as_published else row for place in range(own)] for row in (0, 1)]
    seen = read(told[1])
    bank = {name: feature[:1] for name, feature in seen.items()}
    unseen: Bank = {}
    if free:
        unseen = read(told[0])
        if as_published:
            both = {name: torch.cat([unseen[name][:1], bank[name]]) for name in bank}
            turns = [(frames + frame) % 2 for frame in range(frames)]
            bank = {name: pair[turns] for name, pair in both.items()}
    conditional = _Row(contexts[1], face, audio, bank, _motion(seen))
    if not free:
        return None, conditional
    return _Row(contexts[0], torch.zeros_like(face), torch.zeros_like(audio), None, _motion(unseen)), conditional


def _motion(features: Bank) -> Bank:
    return {name: feature[None, 1:] for name, feature in features.items()}
