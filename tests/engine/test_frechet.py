"""Fréchet and kernel distances against SciPy, torchmetrics and closed forms; runs of frames and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import linalg
from stillguard.engine.metrics import video_sets
from stillguard.engine.metrics.frechet import frechet_distance, kernel_distance
from torch import Tensor
from torchmetrics.image.kid import poly_mmd

GENERATOR = torch.Generator().manual_seed(0)


def features(count: int, width: int, scale: float = 1.0) -> Tensor:
    """Correlated, like those of a network."""
    mixing = torch.randn(width, width, generator=GENERATOR)
    return scale * torch.randn(count, width, generator=GENERATOR) @ mixing / width**0.5 + torch.randn(width, generator=GENERATOR)


def by_matrix_square_root(first: Tensor, second: Tensor) -> float:
    a, b = first.double().numpy(), second.double().numpy()
    sigma, other = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(sigma @ other).real
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(sigma + other - 2 * root))


@pytest.mark.parametrize(("counts", "tolerance"), [((90, 70), 1e-9), ((90, 17), 1e-4), ((20, 15), 1e-4)])
def test_frechet_distance_equals_scipys_matrix_square_root(counts: tuple[int, int], tolerance: float) -> None:
    first, second = features(counts[0], 32), features(counts[1], 32, 1.5)
    assert float(frechet_distance(first, second)) == pytest.approx(by_matrix_square_root(first, second), rel=tolerance)


@pytest.mark.parametrize("count", [5, 200])
def test_frechet_distance_of_scaled_and_shifted_features_is_known(count: int) -> None:
    """With y = s x + d it is (s-1)^2 tr S + |m_y - m_x|^2, for singular covariances too."""
    first = features(count, 24).double()
    second = 3 * first + 1
    expected = 4 * first.var(0).sum() + (second.mean(0) - first.mean(0)).square().sum()
    assert float(frechet_distance(first, second)) == pytest.approx(float(expected), rel=1e-12)
    assert float(frechet_distance(first, first)) == pytest.approx(0, abs=1e-10)
    assert float(frechet_distance(first, second)) == pytest.approx(float(frechet_distance(second, first)), rel=1e-12)


def test_kernel_distance_equals_torchmetrics() -> None:
    first, second = features(30, 16).double(), features(30, 16, 1.3).double()
    assert float(kernel_distance(first, second)) == pytest.approx(float(poly_mmd(first, second)), rel=1e-12)


def test_kernel_distance_of_sets_of_different_sizes_is_the_definition() -> None:
    first, second = features(7, 16).double(), features(11, 16).double()

    def kernel(a: Tensor, b: Tensor) -> float:
        return (float(a @ b) / 16 + 1) ** 3

    own = [np.mean([kernel(a, b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]) for rows in (first, second)]
    cross = np.mean([kernel(a, b) for a in first for b in second])
    assert float(kernel_distance(first, second)) == pytest.approx(sum(own) - 2 * cross, rel=1e-10)


def test_kernel_distance_is_unbiased_where_frechets_is_not() -> None:
    pool = features(4000, 16)
    pairs = [pool[i : i + 40].split(20) for i in range(0, 4000, 40)]
    values = torch.stack([kernel_distance(*pair) for pair in pairs])
    assert abs(float(values.mean())) < 4 * float(values.std()) / len(values) ** 0.5
    assert min(float(frechet_distance(*pair)) for pair in pairs) > 1


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_single_descriptions_are_refused(distance: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(ValueError, match=r"at least two .* of each video: give longer videos"):
        distance(features(1, 4), features(9, 4))


@pytest.mark.parametrize("size", [(512, 300), (224, 224), (40, 64)])
def test_frames_are_squashed_as_pillow_does_and_not_clipped(astronaut: Tensor, size: tuple[int, int]) -> None:
    levels = np.array(Image.fromarray((astronaut[0] * 255).byte().permute(1, 2, 0).numpy()).resize(size[::-1]))
    frames = torch.from_numpy(levels).permute(2, 0, 1)[None].float() / 255
    for prepare, side, back in ((video_sets.fvd_frames, 224, lambda x: (x + 1) * 127.5), (video_sets.fid_vid_frames, 112, None)):
        bands = [Image.fromarray(levels[..., c].astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC) for c in range(3)]
        theirs = torch.stack([torch.from_numpy(np.array(band)) for band in bands])
        ours = prepare(frames)[0]
        ours = back(ours) if back else ours + torch.tensor([114.7748, 107.7354, 99.4750]).view(3, 1, 1)
        torch.testing.assert_close(ours, theirs, atol=5e-3, rtol=0)
    black_and_white = (torch.arange(64) // 8 % 2).float().expand(1, 3, 64, 64)
    assert float(video_sets.fvd_frames(black_and_white).amin()) < -1.05


def test_runs_cross_neither_gaps_nor_clips() -> None:
    names = [f"a_{i:03d}.png" for i in (*range(1, 18), *range(19, 40))] + [f"b_{i:03d}.png" for i in range(40, 60)]
    firsts = [run[0] for run in video_sets.whole_runs(list(reversed(names)))]
    assert firsts == [f"a_{i:03d}.png" for i in (1, 2, *range(19, 25))] + [f"b_{i:03d}.png" for i in range(40, 45)]
    assert all(len(run) == 16 for run in video_sets.whole_runs(names))


def test_frame_numbers_without_leading_zeros_count_on() -> None:
    (run,) = video_sets.whole_runs([f"clip7_{i}.png" for i in range(1, 17)])
    assert run == tuple(f"clip7_{i}.png" for i in range(1, 17))


def test_names_without_a_number_are_refused_and_not_dropped() -> None:
    with pytest.raises(ValueError, match=r"The file name cover.png holds no frame number"):
        video_sets.whole_runs(["cover.png"])


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (16, 1), (20, 2), (32, 2)])
def test_segments_repeat_the_last_frame(count: int, expected: int) -> None:
    cut = video_sets.segments(torch.arange(count)[:, None])
    assert cut.shape == (expected, 16, 1)
    assert cut.flatten().tolist() == [min(i, count - 1) for i in range(16 * expected)]
