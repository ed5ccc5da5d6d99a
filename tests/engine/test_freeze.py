"""What is predicted stays the photo: on the small pose animator, and on a video model whose answer is known."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import pytest
import torch
from bench import animator_files
from stillguard.engine.animators.pose_animator import last_timesteps, load_pose_animator, noise_schedule
from stillguard.engine.attack import protect
from stillguard.engine.draws import SeededDraws
from stillguard.engine.losses.freeze import FrozenClip, FrozenVideo
from stillguard.engine.losses.posed import PosedClip, ReferenceSetup
from stillguard.engine.objective import Objective, Term
from stillguard.engine.observation import Features, Observation
from stillguard.engine.spaces.rgb import RGB
from stillguard.engine.surrogates.denoiser import Tap
from stillguard.engine.surrogates.reference_net import load_reference_net
from stillguard.engine.surrogates.video_setup import VideoSetup
from support import RandomEncoder
from torch import Tensor, nn


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> PosedClip:
    files = animator_files.animate_anyone(tmp_path_factory.mktemp("freeze"))
    animator = load_pose_animator(*(files[name] for name in ("denoising_unet", "motion_module", "pose_guider")))
    setup = ReferenceSetup(load_reference_net(files["reference_unet"]), RandomEncoder(), RandomEncoder(1, channels=32))
    poses = torch.rand(4, 3, 128, 128, generator=torch.Generator().manual_seed(3))
    return PosedClip(animator, setup, poses, noise_schedule().alphas_cumprod, last_timesteps(), 2, 1.0, noised=True, drawn=True)


def test_a_clip_is_frozen_on_draws_that_no_step_had(clip: PosedClip, astronaut: Tensor) -> None:
    photo, loss = astronaut[..., 0:128, 64:192], FrozenClip(clip)
    with contextlib.closing(protect(photo, Objective((Term("freeze", -1.0, loss),)), space=RGB(16), steps=8, seed=4)) as run:
        *_, last = run

    def left(picture: Tensor) -> float:
        with torch.no_grad():
            return sum(float(loss(Observation(photo), Observation(picture, draws=SeededDraws(900 + seed)))) for seed in range(4))

    assert left(last.image) < left(photo)


def test_each_look_draws_frames_of_the_movement_that_follow_each_other(clip: PosedClip, astronaut: Tensor) -> None:
    asked: list[Tensor] = []

    class Watched(nn.Module):
        def guide(self, pose: Tensor) -> Tensor:
            asked.append(pose)
            return clip.animator.guide(pose)

        def denoise(self, *arguments: object) -> Tensor:
            return clip.animator.denoise(*arguments)

    photo, watched = astronaut[..., 0:128, 64:192], PosedClip(Watched(), *_settings(clip))
    clean = Observation(photo)
    with torch.no_grad():
        for seed in range(12):
            watched.frames_of(clean, Observation(photo, draws=SeededDraws(seed)))
    firsts = [next(i for i, pose in enumerate(clip.pose) if torch.allclose(pose, drawn[0], atol=1e-5)) for drawn in asked]
    for first, drawn in zip(firsts, asked, strict=True):
        assert torch.allclose(drawn, clip.pose[first : first + clip.frames], atol=1e-5)
    assert set(firsts) == set(range(len(clip.pose) - clip.frames + 1))


def _settings(clip: PosedClip) -> tuple[object, ...]:
    return (clip.reference, clip.pose, clip.signal, clip.timesteps, clip.frames, clip.guidance, clip.noised, clip.drawn)


class Following(nn.Module):
    """Foresees the picture, and a movement as large as the picture is bright."""

    def __init__(self) -> None:
        super().__init__()
        self.conditioner = self

    def prior(self, image: Tensor) -> Tensor:
        return self.still(image) + image.mean() * torch.arange(3.0).view(1, 1, 3, 1, 1)

    def still(self, image: Tensor) -> Tensor:
        return image[:, :, None].expand(-1, -1, 3, -1, -1)

    def noised(self, latents: Tensor, noise: Tensor, level: float) -> Tensor:
        return (1 - level) * latents + level * noise

    def condition(self, image: Tensor) -> Features:
        return (image,)

    def estimate(self, noisy: Tensor, level: float, conditioning: Features, *, taps: Sequence[Tap] = ()) -> Features:
        return (self.prior(conditioning[0]),)


def test_a_video_is_compared_with_the_still_photo() -> None:
    photo, darker = torch.full((1, 3, 8, 8), 0.5), torch.full((1, 3, 8, 8), 0.25)
    loss, clean = FrozenVideo(VideoSetup(Following())), Observation(photo)
    for picture, level in ((photo, 0.5), (darker, 0.25)):
        # Frame i of the video is `level * (1 + i)`, of the still 0.5.
        expected = sum((level * (1 + i) - 0.5) ** 2 for i in range(3)) / 3
        assert float(loss(clean, Observation(picture))) == pytest.approx(expected)
