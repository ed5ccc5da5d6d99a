"""How much moves: known motions of a real photo, scikit-image's TV-L1, and real videos, moving and frozen."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from stillguard.engine.metrics.optical_flow import flow_measure, lucas_kanade
from stillguard.engine.metrics.video_clip import HeldClip, windows
from torch import Tensor
from torch.nn import functional as F
from video_frames import video_frames


@pytest.fixture(scope="module")
def photo() -> Tensor:
    """At the size that videos have."""
    from skimage import data

    return torch.from_numpy(data.astronaut()).permute(2, 0, 1)[None].float() / 255


def moved(photo: Tensor, *, turn: float = 0.0, zoom: float = 1.0, shift: tuple[float, float] = (0.0, 0.0)) -> tuple[Tensor, Tensor]:
    """The photo turned by degrees, zoomed and shifted (x, y), on the 8-bit grid; and where each of its pixels went, [1,2,H,W]."""
    middle = (photo.shape[-1] - 1) / 2
    y, x = torch.meshgrid(*[torch.arange(photo.shape[-1]) - middle] * 2, indexing="ij")
    cos, sin = zoom * math.cos(math.radians(turn)), zoom * math.sin(math.radians(turn))
    went = torch.stack([cos * x - sin * y + shift[0] - x, sin * x + cos * y + shift[1] - y])[None]
    u, v = x - shift[0], y - shift[1]
    source = torch.stack([cos * u + sin * v, cos * v - sin * u], dim=-1) / zoom**2
    grid = (2 * (source + middle) + 1) / photo.shape[-1] - 1
    after = F.grid_sample(photo, grid[None], mode="bicubic", padding_mode="reflection", align_corners=False)
    return (after * 255).round().clamp(0, 255) / 255, went


@pytest.mark.parametrize(
    "motion",
    [
        {"shift": (2.3, -1.1)},
        {"shift": (-20.0, 10.0)},
        {"shift": (30.0, 0.0)},
        {"turn": 8.0, "shift": (4.0, 2.0)},
        {"zoom": 1.05},
    ],
)
def test_known_motions_are_found(photo: Tensor, motion: dict[str, float]) -> None:
    after, went = moved(photo, **motion)
    flow = F.interpolate(lucas_kanade(photo, after), size=photo.shape[-2:], mode="bilinear")
    assert float(flow.norm(dim=1).mean()) == pytest.approx(float(went.norm(dim=1).mean()), rel=0.05)
    # Where each pixel went, not only how far.
    assert float((flow - went).norm(dim=1).mean()) < max(0.3, 0.05 * float(went.norm(dim=1).mean()))


def test_half_a_pixel_is_motion_and_noise_is_not(photo: Tensor) -> None:
    measure = flow_measure()
    after, went = moved(photo, shift=(0.4, 0.3))
    slight = measure.score(measure.descriptor.describe(torch.stack([photo, after], dim=1)))
    assert float(slight) == pytest.approx(float(went.norm(dim=1).mean()), rel=0.25)
    noise = torch.randn(photo.shape, generator=torch.Generator().manual_seed(0)) * 2 / 255
    noisy = measure.score(measure.descriptor.describe(torch.stack([photo, (photo + noise).clamp(0, 1)], dim=1)))
    assert float(noisy) < 0.05


def test_lengths_are_in_pixels_of_the_video_whatever_its_size(photo: Tensor) -> None:
    after, _ = moved(photo, shift=(6.0, 0.0))
    small = [F.interpolate(frame, size=(192, 256), mode="area") for frame in (photo, after)]
    assert float(lucas_kanade(*small)[:, 0].mean()) == pytest.approx(3.0, rel=0.05)
    wide = [F.interpolate(frame, size=(512, 1024), mode="bilinear") for frame in (photo, after)]
    assert float(lucas_kanade(*wide)[:, 0].mean()) == pytest.approx(12.0, rel=0.05)
    tiny = [torch.rand(1, 3, 5, 7, generator=torch.Generator().manual_seed(i)) for i in (0, 1)]
    assert bool(torch.isfinite(lucas_kanade(*tiny)).all())


def test_relative_lengths_share_the_flow_and_divide_by_the_diagonal(photo: Tensor) -> None:
    pixels, relative = flow_measure(), flow_measure(relative=True)
    assert pixels.descriptor.key == relative.descriptor.key
    described = pixels.descriptor.describe(torch.stack([photo, moved(photo, turn=2.0)[0]], dim=1))
    assert float(relative.score(described)) == pytest.approx(100 * float(pixels.score(described)) / math.hypot(512, 512))


def lengths(frames: Tensor) -> Tensor:
    """As a whole clip is measured."""
    measure = flow_measure()
    runs = windows(HeldClip(frames.movedim(1, -1)).read(), measure.descriptor.span, measure.descriptor.stride)
    return measure.score(torch.cat([measure.descriptor.describe(run) for run in runs]))


def test_a_dance_moves_and_the_same_dance_frozen_does_not(shared: Path) -> None:
    frames = video_frames(shared / "media" / "videos" / "dance_animatex3.mp4", range(0, 8, 2))
    values = lengths(frames)
    assert values.shape == (3,)
    assert values.min() > 0.5
    assert lengths(frames[:1].expand(4, -1, -1, -1)).tolist() == [0, 0, 0]


def test_videos_move_about_as_much_as_scikit_image_finds(shared: Path) -> None:
    from skimage.registration import optical_flow_tvl1

    ours, found = [], []
    for name in ("carphone.mp4", "dance_animatex3.mp4", "talk_hdtf_aoc.mp4"):
        frames = video_frames(shared / "media" / "videos" / name, (10, 14))
        scale = min(1.0, 256 / max(frames.shape[-2:]))
        small = F.interpolate(frames, scale_factor=scale, mode="area").mean(1).numpy()
        ours.append(float(lengths(frames)))
        found.append(float(np.linalg.norm(optical_flow_tvl1(*small), axis=0).mean()) / scale)
    # The two differ where pictures are flat and where things come into sight.
    assert ours == pytest.approx(found, rel=0.3)
