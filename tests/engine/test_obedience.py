"""Obedience in closed form, against SciPy's regression, of constructed landmarks, and as Compare Videos takes it."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import linregress
from stillguard.engine.metrics.compare import compare
from stillguard.engine.metrics.comparison import CLEAN, NOISE, PROTECTED, TRUTH, Comparison
from stillguard.engine.metrics.landmarks import landmark_measures
from stillguard.engine.metrics.measure import Measure
from stillguard.engine.metrics.obedience import (
    ROUNDING,
    SIDE,
    eye_opening,
    face_obedience_measures,
    head_turn,
    mouth_opening,
    obedience,
    obedience_measure,
    share_by_frame,
    share_of_change,
)
from stillguard.engine.metrics.video_clip import HeldClip
from torch import Tensor

FRAMES = 24


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def talking() -> Tensor:
    """A textured picture in which a patch opens and closes and another goes its own way, [N,3,48,64]."""
    video = 0.3 + 0.3 * torch.rand(1, 3, 48, 64, generator=generator(0)).repeat(FRAMES, 1, 1, 1)
    driving = torch.rand(FRAMES, 2, 1, 1, 1, generator=generator(1))
    video[:, :, 30:40, 20:44] += 0.4 * driving[:, 0]
    video[:, :, 8:12, 8:16] -= 0.3 * driving[:, 1]
    return video


@pytest.mark.parametrize("share", [1.0, 0.4, 0.0, -0.5, 1.7])
def test_a_part_of_the_change_is_that_share_whatever_stays_the_same(talking: Tensor, share: float) -> None:
    clean, perturbation = talking.double(), torch.rand(1, 3, 48, 64, generator=generator(2)).double()
    other = perturbation + share * (clean - clean[:1])
    assert float(obedience(clean, other).mean()) == pytest.approx(share, abs=1e-9)


def test_noise_of_each_frame_leaves_it_and_other_motion_is_none(talking: Tensor) -> None:
    noisy = talking + 0.1 * torch.randn(talking.shape, generator=generator(3))
    assert float(obedience(talking, noisy).mean()) == pytest.approx(1, abs=0.05)
    busy = talking[:1] + 0.1 * torch.randn(talking.shape, generator=generator(4))
    assert float(obedience(talking, busy).mean()) == pytest.approx(0, abs=0.05)


def test_values_by_frame_are_parts_of_the_slope_of_scipys_regression() -> None:
    clean, other = (torch.randn(50, 1, generator=generator(seed)).double() for seed in (5, 6))
    values = share_of_change(clean, other + 0.6 * clean, least=0)
    assert float(values.mean()) == pytest.approx(linregress(clean[:, 0].numpy(), (other + 0.6 * clean)[:, 0].numpy()).slope, rel=1e-9)
    # Its definition, of one frame.
    change = clean - clean.mean()
    expected = (other + 0.6 * clean - (other + 0.6 * clean).mean()) * change / change.square().mean()
    torch.testing.assert_close(values, expected[:, 0])


def test_values_for_the_interval_have_the_same_mean_and_the_spread_of_the_slope() -> None:
    """Of independent frames: White's standard error of a slope, which allows each frame its own scatter."""
    clean, scatter = (torch.randn(4000, 1, generator=generator(seed)).double() for seed in (7, 8))
    other = 0.5 * clean + scatter * (1 + clean.abs())
    even = share_by_frame(clean, other, least=0)
    assert float(even.mean()) == pytest.approx(float(share_of_change(clean, other, least=0).mean()), rel=1e-9)
    change, slope = clean - clean.mean(), float(even.mean())
    left = other - other.mean() - slope * change
    white = (change * left).square().sum().sqrt() / change.square().sum()
    assert float(even.std() / 4000**0.5) == pytest.approx(float(white), rel=1e-3)
    assert float(share_by_frame(clean, 0.3 * clean + 7, least=0).std()) == pytest.approx(0, abs=1e-9)


def test_large_frames_are_compared_small_as_the_measure_does(talking: Tensor) -> None:
    large, torn = (torch.nn.functional.interpolate(one, scale_factor=4) for one in (talking, 0.6 * talking.flip(-1) + 0.3 * talking))
    result = compared({CLEAN: large, PROTECTED: torn}, obedience_measure())
    (row,) = result.rows
    assert (row.unit, row.higher, row.reference) == ("share", "more obedient", CLEAN)
    found = row.readings[PROTECTED]
    assert found.value == pytest.approx(float(obedience(large, torn).mean()), abs=2e-4)
    assert obedience_measure().descriptor.describe(large[:, None]).shape == (FRAMES, 3 * SIDE * SIDE * 48 // 64)
    assert found.low < found.value < found.high


def test_all_are_measured_against_clean_and_truth_with_intervals(talking: Tensor) -> None:
    halved = talking.mean(0, keepdim=True) + 0.5 * (talking - talking.mean(0, keepdim=True))
    noisy = (talking + 8 / 255 * torch.randn(talking.shape, generator=generator(9)).sign()).clamp(0, 1)
    frozen = (talking[:1] + 0.03).expand(FRAMES, -1, -1, -1)
    result = compared({CLEAN: talking, PROTECTED: frozen, NOISE: noisy, TRUTH: halved}, obedience_measure())
    against = {row.reference: row.readings for row in result.rows}
    assert against[CLEAN][PROTECTED].value == pytest.approx(0, abs=1e-9)
    noise = against[CLEAN][NOISE]
    assert 0.9 < noise.low <= noise.value <= noise.high < 1.1
    assert against[TRUTH][CLEAN].value == pytest.approx(2, abs=1e-3)
    assert against[TRUTH][CLEAN].high - against[TRUTH][CLEAN].low < 0.01


def test_a_clean_video_that_does_not_move_has_nothing_to_obey(talking: Tensor) -> None:
    still = talking[:1].repeat(FRAMES, 1, 1, 1)
    flicker = ROUNDING * torch.randn(still.shape, generator=generator(10))
    assert float(obedience(still + 1.2 * flicker, still + 1.2 * flicker).mean()) == pytest.approx(1)
    for clean in (still, still + 0.8 * flicker):
        with pytest.raises(ValueError, match=r"nothing to obey.*use a driving that moves the face"):
            obedience(clean, talking)
        reading = compared({CLEAN: clean, PROTECTED: talking}, obedience_measure()).rows[0].readings[PROTECTED]
        assert reading.value is None
        assert "use a driving that moves the face" in reading.why
    with pytest.raises(ValueError, match="give videos of one size and length"):
        obedience(talking, talking[:1])
    assert "at least 2 frames" in compared({CLEAN: still[:1], PROTECTED: still[:1]}, obedience_measure()).rows[0].readings[PROTECTED].why


def face(mouth: float = 0.0, left: float = 6.0, right: float = 6.0, nose: float = 0.0) -> Tensor:
    """68 points with the eyes 40 px apart at the height 50, and in px how far lips and lids are apart and the nose is off the middle."""
    points = torch.zeros(68, 2, dtype=torch.float64)
    points[36:42] = torch.tensor([[70, 50], [76, 50], [84, 50], [90, 50], [84, 50], [76, 50]], dtype=torch.float64)
    points[42:48] = points[36:42] + torch.tensor([40.0, 0.0])
    points[[37, 38], 1] -= left / 2
    points[[40, 41], 1] += left / 2
    points[[43, 44], 1] -= right / 2
    points[[46, 47], 1] += right / 2
    points[30] = torch.tensor([100 + nose, 70.0])
    points[60:68] = torch.tensor([[88, 90], [94, 90], [100, 90], [106, 90], [112, 90], [106, 90], [100, 90], [94, 90]], dtype=torch.float64)
    points[65:68, 1] += mouth
    return points


def test_openings_and_turn_are_read_from_the_points_however_the_head_lies() -> None:
    points = torch.stack([face(), face(mouth=8, left=2, right=4, nose=-5)])
    turned = torch.tensor([[0.8, 0.6], [-0.6, 0.8]], dtype=torch.float64)
    for seen in (points, points @ turned + 12):
        torch.testing.assert_close(mouth_opening(seen), torch.tensor([[0.0], [8.0]]).double(), atol=1e-9, rtol=0)
        torch.testing.assert_close(eye_opening(seen), torch.tensor([[6.0, 6.0], [2.0, 4.0]]).double(), atol=1e-9, rtol=0)
        torch.testing.assert_close(head_turn(seen), torch.tensor([[0.0], [-5.0]]).double(), atol=1e-9, rtol=0)


def faces_of(videos: dict[float, list[Tensor | None]]) -> tuple[Measure, ...]:
    """Measures whose frames hold in their first pixel which video they are of, and in their second which frame."""

    def find(pictures: Tensor) -> list[Tensor | None]:
        return [videos[round(float(one[0, 0, 0]), 1)][round(float(one[0, 0, 1]) * FRAMES)] for one in pictures]

    return (*face_obedience_measures(find), *landmark_measures(find))


def numbered(video: float) -> Tensor:
    frames = torch.full((FRAMES, 3, 8, 8), video)
    frames[:, :, 0, 1] = torch.arange(FRAMES).view(-1, 1) / FRAMES
    return frames


def test_mouth_eyes_and_head_obey_by_themselves_in_faces_of_any_size() -> None:
    driving = torch.rand(FRAMES, 4, generator=generator(12)).double() * torch.tensor([12.0, 6.0, 6.0, 16.0])
    clean: list[Tensor | None] = [face(*row.tolist()) for row in driving]
    half = [2 * face(0.5 * m, left, right, 3) for m, left, right, _ in driving.tolist()]
    lost = [None if index in (3, 17) else one for index, one in enumerate(half)]
    branches = {CLEAN: numbered(0.2), PROTECTED: numbered(0.4), NOISE: numbered(0.6)}
    result = compared(branches, *faces_of({0.2: clean, 0.4: half, 0.6: lost}))
    readings = {row.name: row.readings for row in result.rows}
    assert list(readings) == ["Obedience, mouth", "Obedience, eyes", "Obedience, head", "M-LMD", "F-LMD", "M-LVD", "F-LVD"]
    for branch, count in ((PROTECTED, FRAMES), (NOISE, FRAMES - 2)):
        for part, share in (("mouth", 0.5), ("eyes", 1.0), ("head", 0.0)):
            found = readings[f"Obedience, {part}"][branch]
            assert found.value == pytest.approx(share, abs=1e-5)
            assert found.n == count
    assert any("Obedience, mouth of noise against clean stands on 22 of 24 values" in note for note in result.notes)


def test_parts_that_do_not_move_and_faces_that_are_not_found_say_so() -> None:
    driving = torch.rand(FRAMES, generator=generator(13)).tolist()
    clean = [face(mouth=10 * opening, nose=0.3 * opening) for opening in driving]
    branches = {CLEAN: numbered(0.2), PROTECTED: numbered(0.4)}
    readings = {row.name: row.readings[PROTECTED] for row in compared(branches, *faces_of({0.2: clean, 0.4: [None] * FRAMES})).rows}
    assert "no face is found" in readings["Obedience, mouth"].why
    points = [torch.full((68, 2), 5.0)] * FRAMES
    readings = {row.name: row.readings[PROTECTED] for row in compared(branches, *faces_of({0.2: points, 0.4: clean})).rows}
    assert "no face is found" in readings["Obedience, head"].why
    readings = {row.name: row.readings[PROTECTED] for row in compared(branches, *faces_of({0.2: clean, 0.4: clean})).rows}
    assert readings["Obedience, mouth"].value == pytest.approx(1, abs=1e-9)
    assert "use a driving that moves the eyes" in readings["Obedience, eyes"].why
    assert "use a driving that moves the head" in readings["Obedience, head"].why


def compared(branches: dict[str, Tensor], *measures: Measure) -> Comparison:
    clips = {branch: HeldClip(frames.movedim(1, -1)) for branch, frames in branches.items()}
    *_, end = compare(clips, measures, victim="test")
    assert end.comparison is not None
    return end.comparison
