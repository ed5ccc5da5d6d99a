"""The pose-driven animator at work: a portrait and a sequence of poses become a video, as AnimateAnyone samples it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..draws import stream
from .motion_unet import LONGEST_CLIP
from .pose_animator import PoseAnimator, noise_schedule


@dataclass(frozen=True)
class Denoising:
    """State after `done` of `total` denoiser calls (one for each window and step).

    latents: [1,4,N,h,w], what the frames are now; the last state's are the result. estimate: of the clean frames, for a preview.
    """

    done: int
    total: int
    latents: Tensor
    estimate: Tensor


def windows(frames: int, length: int, overlap: int) -> list[range]:
    """Windows of at most `length` frames that cover all of them, neighbours sharing at least `overlap`.

    Raises ValueError when the overlap is not smaller than the length, or a window is longer than the motion modules reach.
    """
    if not 1 <= length <= LONGEST_CLIP:
        raise ValueError(f"The window is {length} frames: choose 1 to {LONGEST_CLIP}, which is as far as the motion modules reach.")
    if not 0 <= overlap < length:
        raise ValueError(f"The overlap is {overlap} frames and the window {length}: choose an overlap from 0 to {length - 1}.")
    if frames <= length:
        return [range(frames)]
    starts = [*range(0, frames - length, length - overlap), frames - length]
    return [range(start, start + length) for start in starts]


@torch.no_grad()
def animate(
    animator: PoseAnimator,
    *,
    tokens: Tensor,
    bank: Mapping[str, Tensor],
    pose: Tensor,
    steps: int = 30,
    guidance: float = 3.5,
    window: int = 24,
    overlap: int = 4,
    seed: int = 0,
) -> Iterator[Denoising]:
    """DDIM (Song et al. 2021) with classifier-free guidance, one state after each denoiser call; deterministic by seed.

    tokens: [1,T,D], the portrait's embedding. bank: the portrait's reference features, see PoseAnimator.denoise. pose: from
    PoseAnimator.guide, [N,C,h,w], and as many frames come out. More frames than `window` are denoised in overlapping windows
    whose predictions are averaged, each frame's nearest window counting most. guidance 1 leaves the unconditional row out.
    Raises ValueError as `windows` does.
    """
    schedule = noise_schedule()
    schedule.set_timesteps(steps)
    frames, parts = pose.shape[0], windows(pose.shape[0], window, overlap)
    latents = torch.randn(1, 4, frames, *pose.shape[2:], generator=stream(seed, "frames")).to(pose.device)
    done, estimate = 0, latents
    for timestep in schedule.timesteps.tolist():
        total, weight = torch.zeros_like(latents), torch.zeros(frames, device=latents.device)
        for part in parts:
            inside, own = slice(part.start, part.stop), _shares(part, overlap).to(latents)
            velocity = guided(animator, latents[:, :, inside], timestep, tokens, pose[inside], bank, guidance)
            total[:, :, inside] += velocity * own[:, None, None]
            weight[inside] += own
            done += 1
            if part is not parts[-1]:
                yield Denoising(done, steps * len(parts), latents, estimate)
        result = schedule.step(total / weight[:, None, None], timestep, latents)
        latents, estimate = result.prev_sample, result.pred_original_sample
        yield Denoising(done, steps * len(parts), latents, estimate)


def guided(
    animator: PoseAnimator, noisy: Tensor, timestep: int, tokens: Tensor, pose: Tensor, bank: Mapping[str, Tensor], guidance: float
) -> Tensor:
    """The prediction with classifier-free guidance (Ho and Salimans 2022), see PoseAnimator.denoise."""
    conditional = animator.denoise(noisy, timestep, tokens, pose, bank)
    if guidance == 1:
        return conditional
    free = animator.denoise(noisy, timestep, torch.zeros_like(tokens), pose)
    return free + guidance * (conditional - free)


def _shares(part: range, overlap: int) -> Tensor:
    """How much a window says about each of its frames: less towards its ends."""
    place = torch.arange(len(part), dtype=torch.float32)
    return torch.minimum(place + 1, len(part) - place).clamp(max=overlap + 1)
