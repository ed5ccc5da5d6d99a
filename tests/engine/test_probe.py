"""Pictures of features: components against NumPy's eigenvectors, planted patterns found again, and what has nothing to show."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stillguard.engine.contact_sheet import GAP, contact_sheet, labelled, strip_height
from stillguard.engine.probe import CLIPPED, principal_picture
from torch import Tensor

GRID = (3, 8, 10)
PLACES = 240


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def planted(channels: int = 48, noise: float = 0.05) -> tuple[Tensor, Tensor]:
    """Features [T,C] in which three patterns [T,3] hide, of deviations 4, 2 and 1, along orthogonal directions far from any channel."""
    _, rows, columns = np.mgrid[:3, :8, :10]
    patterns = torch.from_numpy(np.stack([columns, rows % 4, (rows + columns) % 2], axis=-1).reshape(-1, 3).astype(float))
    patterns = torch.linalg.qr(patterns - patterns.mean(0)).Q * PLACES**0.5
    directions = torch.linalg.qr(randn(channels, 3, seed=1)).Q
    return patterns, patterns * torch.tensor([4.0, 2.0, 1.0]) @ directions.mT + noise * randn(PLACES, channels, seed=2) + 7


def numpys(features: Tensor, fitted: slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
    """Scores [T,3] and shares by eigenvectors of the covariance, the largest weight of each positive."""
    x = features.double().numpy()
    centred = x - x[fitted].mean(0)
    values, vectors = np.linalg.eigh(np.cov(x[fitted].T))
    order = np.argsort(values)[::-1][:3]
    axes = vectors[:, order]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(3)])
    return centred @ axes, values[order] / values.sum()


def seen(picture: Tensor) -> np.ndarray:
    """[frames,3,h,w] -> [T,3]."""
    return picture.movedim(1, -1).reshape(-1, 3).numpy()


@pytest.mark.parametrize("frame", [None, 1])
@pytest.mark.parametrize("channels", [5, 48, 500])
def test_colours_are_the_scores_of_numpys_eigenvectors(channels: int, frame: int | None) -> None:
    """Fewer channels than are followed, more, and more than there are places; values above the bounds are clipped at them."""
    _, features = planted(channels)
    fitted = slice(None) if frame is None else slice(80, 160)
    scores, shares = numpys(features, fitted)
    found = principal_picture(features, GRID, frame=frame)
    assert found.picture.shape == (3, 3, 8, 10)
    assert found.picture.dtype == torch.float32
    assert found.shares == pytest.approx(shares, rel=1e-6)
    ordered = np.sort(scores[fitted], axis=0)
    cut = int(CLIPPED * len(ordered))
    low, high = ordered[cut], ordered[len(ordered) - 1 - cut]
    np.testing.assert_allclose(seen(found.picture), np.clip((scores - low) / (high - low), 0, 1), atol=1e-5)


def test_planted_patterns_are_found_again() -> None:
    """Each in a colour of its own, in the order of their variance, whichever way round."""
    patterns, features = planted()
    found = principal_picture(features, GRID)
    alike = np.corrcoef(patterns.numpy().T, seen(found.picture).T)[:3, 3:]
    np.testing.assert_allclose(np.abs(alike), np.eye(3), atol=0.02)
    assert found.shares == pytest.approx([16 / 21, 4 / 21, 1 / 21], abs=0.01)


def test_flat_spectra_are_close_too() -> None:
    """Noise has no gap between its components: the shares are right to a percent all the same."""
    features = randn(PLACES, 100, seed=5)
    _, shares = numpys(features)
    assert principal_picture(features, GRID).shares == pytest.approx(shares, rel=0.01)


def test_signs_do_not_depend_on_how_the_features_are_written() -> None:
    """Components have no sign: with all features turned round the picture is its negative, and in another dtype it is the same."""
    _, features = planted()
    picture = principal_picture(features, GRID).picture
    assert torch.equal(principal_picture(features.clone(), GRID).picture, picture)
    torch.testing.assert_close(principal_picture(features.float(), GRID).picture, picture, atol=1e-4, rtol=0)
    torch.testing.assert_close(principal_picture(features.half(), GRID).picture, picture, atol=0.01, rtol=0)
    torch.testing.assert_close(principal_picture(-features, GRID).picture, 1 - picture, atol=1e-5, rtol=0)
    torch.testing.assert_close(principal_picture(1000 * features, GRID).picture, picture, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("value", [0.0, 0.3, 1000.0])
def test_constant_features_give_a_plain_picture(dtype: torch.dtype, value: float) -> None:
    found = principal_picture(torch.full((PLACES, 40), value, dtype=dtype), GRID)
    assert torch.equal(found.picture, torch.full((3, 3, 8, 10), 0.5))
    assert found.shares == (0, 0, 0)


def test_what_varies_in_one_way_only_has_one_colour() -> None:
    """The rounding of fp32 is shown in no colour."""
    pattern = torch.arange(PLACES, dtype=torch.float64)
    found = principal_picture((pattern[:, None] * randn(1, 40, seed=3) + 5).float(), GRID)
    assert float(found.picture[:, 0].amax() - found.picture[:, 0].amin()) == 1
    assert torch.equal(found.picture[:, 1:], torch.full((3, 2, 8, 10), 0.5))
    assert found.shares == pytest.approx([1, 0, 0])


def test_a_single_huge_place_does_not_take_the_colours_from_all_others() -> None:
    _, features = planted()
    spoiled = features.clone()
    spoiled[17] *= 50
    colours = seen(principal_picture(spoiled, GRID).picture)
    assert (np.std(np.delete(colours, 17, axis=0), axis=0)[:2] > 0.1).all()


def test_one_place_among_equal_ones_is_still_seen() -> None:
    features = torch.zeros(PLACES, 4)
    features[17, 2] = 1
    red = principal_picture(features, GRID).picture[:, 0].flatten()
    assert red[17] == 1
    assert float(red.sum()) == 1


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 6), st.integers(0, 100))
def test_small_grids_have_numbers_only(frames: int, height: int, width: int, channels: int, seed: int) -> None:
    """A place, a channel or a frame alone too."""
    features = randn(frames * height * width, channels, seed=seed)
    found = principal_picture(features, (frames, height, width), frame=frames - 1)
    assert found.picture.shape == (frames, 3, height, width)
    assert bool(((found.picture >= 0) & (found.picture <= 1)).all())
    assert len(found.shares) == 3
    assert 0 <= sum(found.shares) <= 1 + 1e-9


def test_what_is_no_picture_is_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"Features of the shape \(7, 2\) do not lie on a grid of 1 frames of 4x2"):
        principal_picture(torch.zeros(7, 2), (1, 2, 4))
    with pytest.raises(ValueError, match="not numbers everywhere"):
        principal_picture(torch.full((8, 2), float("nan")), (1, 2, 4))


def test_a_label_stands_above_a_picture_of_squares() -> None:
    picture = torch.rand(3, 2, 4, generator=torch.Generator().manual_seed(0))
    shown = labelled(picture, "block 12: 97 %", (60, 120))
    top = strip_height(120)
    assert shown.shape == (3, 60 + top, 120)
    assert torch.equal(shown[:, top:], picture.repeat_interleave(30, 1).repeat_interleave(30, 2))
    strip = shown[:, :top]
    assert float(strip.max()) > 0.9
    # Nothing of a label that is too long for its letters is cut off.
    for label in ("block 12: 97 %", "a label that is far too long for so small a picture"):
        ink = labelled(picture, label, (60, 400))[0, : strip_height(400)].amax(0)
        assert float(ink[:2].max()) == float(ink[-2:].max()) == 0


@pytest.mark.parametrize(
    ("count", "height", "width", "rows", "columns"), [(1, 9, 5, 1, 1), (7, 10, 10, 3, 3), (42, 12, 18, 7, 6), (3, 5, 20, 3, 1)]
)
def test_a_sheet_holds_every_picture_once_and_is_about_square(count: int, height: int, width: int, rows: int, columns: int) -> None:
    pictures = torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))
    sheet = contact_sheet(pictures)
    assert sheet.shape == (3, rows * (height + GAP) - GAP, columns * (width + GAP) - GAP)
    cells = [
        sheet[:, top : top + height, left : left + width]
        for top in range(0, sheet.shape[1], height + GAP)
        for left in range(0, sheet.shape[2], width + GAP)
    ]
    for picture, cell in zip(pictures, cells, strict=False):
        assert torch.equal(cell, picture)
    assert all(bool((cell == 1).all()) for cell in cells[count:])
