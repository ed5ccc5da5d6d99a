"""Landmark distances by construction; evaluation_eat's own figures are in the baseline vectors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from stillguard.engine.metrics import landmarks
from stillguard.engine.metrics.landmarks import FACE, MOUTH
from torch import Tensor


@pytest.fixture
def faces() -> Tensor:
    """Six frames of 68 points that wander."""
    return torch.randn(6, 68, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).cumsum(0) * 3 + 100


def test_where_the_face_is_does_not_count(faces: Tensor) -> None:
    elsewhere = faces + torch.arange(6.0, dtype=torch.float64).view(6, 1, 1) * torch.tensor([5.0, -2.0])
    for part in (MOUTH, FACE):
        torch.testing.assert_close(landmarks.landmark_distance(faces, elsewhere, part=part), torch.zeros(6, dtype=torch.float64))
    # Its velocity does: the same path with (5, -2) more a frame.
    velocity = landmarks.landmark_velocity_distance(faces, elsewhere)
    assert velocity.tolist() == pytest.approx([0] + [float(np.hypot(5, 2))] * 5)


def test_an_open_mouth_is_measured_in_pixels(faces: Tensor) -> None:
    # The last ten points of the mouth 4 px down and the first ten 4 px up: its centre stays.
    opened = faces.clone()
    opened[:, 48:58, 1] -= 4
    opened[:, 58:, 1] += 4
    assert landmarks.landmark_distance(faces, opened, part=MOUTH).tolist() == pytest.approx([4.0] * 6)
    assert landmarks.landmark_distance(faces, opened).tolist() == pytest.approx([4.0 * 20 / 68] * 6)


def test_frames_without_a_face_are_skipped_and_velocity_bridges_them(faces: Tensor) -> None:
    other, lost = faces.flip(0).clone(), faces.clone()
    lost[2] = float("nan")
    values = landmarks.landmark_distance(lost, other)
    assert values.isnan().tolist() == [False, False, True, False, False, False]
    bridged = landmarks.landmark_velocity_distance(lost, other)
    assert bridged.isnan().tolist() == values.isnan().tolist()
    kept = [0, 1, 3, 4, 5]
    torch.testing.assert_close(bridged[kept], landmarks.landmark_velocity_distance(faces[kept], other[kept]))
    assert landmarks.landmark_velocity_distance(torch.full_like(faces, float("nan")), other).isnan().all()


def test_videos_of_different_lengths_are_spread_over_each_other() -> None:
    first, second = landmarks.pairs(4, 10)
    assert (first.tolist(), second.tolist()) == ([0, 1, 2, 3], [0, 2, 5, 7])


def test_measures_share_the_landmarks_and_take_them_from_frames(faces: Tensor) -> None:
    shown = iter([faces, faces.flip(0)])

    def find(pictures: Tensor) -> list[Tensor | None]:
        return [*next(shown)[: len(pictures) - 1], None]

    measures = landmarks.landmark_measures(find)
    assert [one.name for one in measures] == ["M-LMD", "F-LMD", "M-LVD", "F-LVD"]
    (descriptor,) = {one.descriptor.key: one.descriptor for one in measures}.values()
    frames = torch.zeros(7, 1, 3, 8, 8, dtype=torch.float64)
    reference, generated = descriptor.describe(frames), descriptor.describe(frames)
    assert reference.shape == (7, 136)
    values = measures[0].compare(reference, generated)
    torch.testing.assert_close(values[:6], landmarks.landmark_distance(faces, faces.flip(0), part=MOUTH))
    assert bool(values[6].isnan())


def test_the_face_mesh_gives_each_of_the_68_points_once() -> None:
    # Numbers whose middles are no other's number.
    mesh = (torch.arange(478.0).view(1, 478, 1) ** 2).expand(2, -1, 3)
    points = landmarks.from_face_mesh(mesh)
    assert points.shape == (2, 68, 3)
    assert points[0, :, 0].unique().numel() == 68
    # What MediaPipe documents: the chin, the corners of the eyes and those of the mouth.
    assert points[1, [8, 36, 39, 42, 45, 48, 54], 0].sqrt().tolist() == [152, 33, 133, 362, 263, 61, 291]
    # Between two points of the mesh where none fits.
    assert float(points[0, 27, 0]) == (168**2 + 6**2) / 2
    torch.testing.assert_close(landmarks.from_face_mesh(mesh[:, :468]), points)
