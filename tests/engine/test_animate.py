"""The animator as a victim: determinism, windows, and DDIM against diffusers' own loop."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from bench import animator_files
from stillguard.engine.animators.pose_animator import PoseAnimator, load_pose_animator, noise_schedule
from stillguard.engine.animators.pose_sampler import animate, windows
from stillguard.engine.draws import stream
from stillguard.engine.surrogates.reference_net import ReferenceNet, load_reference_net
from torch import Tensor

SETTINGS = {"steps": 3, "guidance": 2.0, "seed": 5}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return animator_files.animate_anyone(tmp_path_factory.mktemp("animate"))


@pytest.fixture(scope="module")
def animator(files: dict[str, Path]) -> PoseAnimator:
    return load_pose_animator(files["denoising_unet"], files["motion_module"], files["pose_guider"])


@pytest.fixture(scope="module")
def net(files: dict[str, Path]) -> ReferenceNet:
    return load_reference_net(files["reference_unet"])


@torch.no_grad()
def inputs(animator: PoseAnimator, net: ReferenceNet, *, frames: int = 6, shift: float = 0.0) -> dict[str, object]:
    generator = torch.Generator().manual_seed(1)
    pose = animator.guide(torch.rand(frames, 3, 128, 96, generator=generator))
    latent, tokens = torch.randn(1, 4, 16, 12, generator=generator) + shift, torch.randn(1, 1, 32, generator=generator)
    return {"tokens": tokens, "bank": dict(zip(net.names, net(latent, 0, tokens), strict=True)), "pose": pose}


def video(animator: PoseAnimator, given: dict[str, object], **settings: object) -> Tensor:
    *_, last = animate(animator, **given, **{**SETTINGS, **settings})
    assert last.done == last.total
    return last.latents


def test_same_seed_same_video_another_seed_another(animator: PoseAnimator, net: ReferenceNet) -> None:
    given = inputs(animator, net)
    first = video(animator, given)
    assert first.shape == (1, 4, 6, 16, 12)
    assert bool(torch.isfinite(first).all())
    assert torch.equal(first, video(animator, given))
    assert not torch.equal(first, video(animator, given, seed=6))


def test_another_portrait_or_pose_gives_another_video(animator: PoseAnimator, net: ReferenceNet) -> None:
    given = inputs(animator, net)
    first = video(animator, given)
    assert not torch.equal(first, video(animator, inputs(animator, net, shift=0.1)))
    assert not torch.equal(first, video(animator, {**given, "pose": given["pose"] * 1.01}))


def test_one_window_is_the_plain_loop(animator: PoseAnimator, net: ReferenceNet) -> None:
    given, schedule = inputs(animator, net), noise_schedule()
    schedule.set_timesteps(3)
    latents = torch.randn(1, 4, 6, 16, 12, generator=stream(5, "frames"))
    with torch.no_grad():
        for timestep in schedule.timesteps.tolist():
            free = animator.denoise(latents, timestep, torch.zeros_like(given["tokens"]), given["pose"])
            conditional = animator.denoise(latents, timestep, given["tokens"], given["pose"], given["bank"])
            latents = schedule.step(free + 2.0 * (conditional - free), timestep, latents).prev_sample
    torch.testing.assert_close(video(animator, given), latents, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("frames", "length", "overlap"), [(5, 24, 4), (24, 24, 4), (25, 24, 4), (60, 24, 4), (61, 16, 15), (40, 8, 0)])
def test_windows_cover_every_frame_with_their_overlap(frames: int, length: int, overlap: int) -> None:
    parts = windows(frames, length, overlap)
    assert set().union(*parts) == set(range(frames))
    assert all(len(part) == min(length, frames) for part in parts)
    assert all(a.stop - b.start >= overlap for a, b in itertools.pairwise(parts))
    assert len({part.start for part in parts}) == len(parts)


class OneNumberPerWindow:
    """In place of a denoiser: the first window predicts 1, the second 2, ..."""

    def __init__(self) -> None:
        self.calls = 0

    def denoise(self, noisy: Tensor, *_: object) -> Tensor:
        self.calls += 1
        return torch.full_like(noisy, float(self.calls))


def test_windows_are_blended_by_nearness() -> None:
    """At the last step's end the latents are the schedule's own answer to the blended prediction, frame by frame."""
    given = {"tokens": torch.zeros(1, 1, 4), "bank": {}, "pose": torch.zeros(9, 4, 2, 2)}
    *_, last = animate(OneNumberPerWindow(), **given, steps=1, guidance=1.0, window=6, overlap=3, seed=5)
    # Frames 0 to 2 are the first window's, 6 to 8 the second's; between, the shares are 3:1, 2:2 and 1:3 of 4.
    shares = [(3, 1), (2, 2), (1, 3)]
    expected = [1.0] * 3 + [(1 * a + 2 * b) / (a + b) for a, b in shares] + [2.0] * 3
    schedule = noise_schedule()
    schedule.set_timesteps(1)
    noise = torch.randn(1, 4, 9, 2, 2, generator=stream(5, "frames"))
    velocity = torch.tensor(expected)[None, None, :, None, None].expand_as(noise)
    torch.testing.assert_close(last.latents, schedule.step(velocity, 999, noise).prev_sample)


def test_a_long_sequence_of_one_constant_prediction_is_untouched_by_windows() -> None:
    class Constant:
        def denoise(self, noisy: Tensor, *_: object) -> Tensor:
            return torch.full_like(noisy, 0.5)

    given = {"tokens": torch.zeros(1, 1, 4), "bank": {}, "pose": torch.zeros(14, 4, 2, 2)}
    whole, parted = (list(animate(Constant(), **given, steps=2, window=w, overlap=3))[-1].latents for w in (14, 6))
    torch.testing.assert_close(whole, parted)


def test_progress_counts_every_denoiser_call(animator: PoseAnimator, net: ReferenceNet) -> None:
    states = list(animate(animator, **inputs(animator, net, frames=9), steps=2, window=4, overlap=1, guidance=1.0))
    assert [state.done for state in states] == list(range(1, 7))
    assert {state.total for state in states} == {6}


@pytest.mark.parametrize(("length", "overlap", "sentence"), [(33, 4, "choose 1 to 32"), (8, 8, "choose an overlap from 0 to 7")])
def test_windows_that_cannot_be(length: int, overlap: int, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        windows(40, length, overlap)
