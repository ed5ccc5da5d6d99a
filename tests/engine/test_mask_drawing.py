"""Masks that are drawn anew at each look."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from stillguard.engine.draws import SeededDraws
from stillguard.engine.losses.mask_drawing import Redrawn, signed_distance
from torch import Tensor

LOOKS = 40


def disc(side: int, radius: float = 0.3) -> Tensor:
    """Everything but a disc is repainted."""
    places = (torch.arange(side) + 0.5) / side - 0.5
    return ((places[:, None].square() + places.square()).sqrt() > radius).float()[None, None]


def drawn(mask: Tensor, redrawn: Redrawn) -> list[Tensor]:
    return [redrawn(mask, SeededDraws(seed)) for seed in range(LOOKS)]


def thin(kind: str) -> Tensor:
    mask = torch.zeros(1, 1, 200, 130)
    if kind == "pixel":
        mask[..., 70, 40] = 1
    elif kind == "line":
        mask[..., 100, :] = 1
    else:
        mask[..., ::2, 1::2] = 1
    return mask


@pytest.mark.parametrize("shape", [(1, 1, 24, 31), (1, 1, 17, 5)])
def test_distances_are_scipys(shape: tuple[int, ...]) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) > 0.8
    ours = signed_distance(mask)
    outside, inside = (ndimage.distance_transform_edt(part) for part in (~mask[0, 0].numpy(), mask[0, 0].numpy()))
    assert torch.allclose(ours[0, 0], torch.from_numpy(np.maximum(outside - 0.5, 0) - np.maximum(inside - 0.5, 0)).float(), atol=1e-5)


def test_the_editor_repaints_all_of_the_mask_and_sometimes_much_more() -> None:
    mask = disc(256)
    kept = 1 - mask
    masks = drawn(mask, Redrawn())
    assert all(bool((one >= mask).all()) for one in masks)
    shares = sorted(float((1 - one).sum() / kept.sum()) for one in masks)
    assert shares[0] < 0.3
    assert shares[-1] > 0.8
    assert len(set(shares)) > LOOKS // 2
    # In one piece, and no circle: a contour that is longer than that of a disc of its area.
    whole = [ndimage.label(one[0, 0].numpy() == 0)[1] for one in masks]
    assert sorted(whole)[LOOKS // 2] == 1
    middle = masks[shares.index(shares[LOOKS // 2])]
    assert not torch.equal(middle, middle.flip(-1))


def test_either_way_repaints_more_or_less() -> None:
    mask = disc(128)
    areas = [float(one.mean() - mask.mean()) for one in drawn(mask, Redrawn(either_way=True))]
    assert min(areas) < -0.05
    assert max(areas) > 0.05


@pytest.mark.parametrize("either_way", [False, True])
@pytest.mark.parametrize("mask", [thin("pixel"), 1 - thin("pixel"), thin("line"), 1 - thin("line"), thin("grid"), disc(64, 0.02), disc(40)])
def test_never_nothing_and_never_everything(mask: Tensor, either_way: bool) -> None:
    for one in drawn(mask, Redrawn(either_way)):
        assert one.shape == mask.shape
        assert set(one.unique().tolist()) == {0.0, 1.0}


def test_it_follows_from_the_draws_at_every_size() -> None:
    small, large = disc(128), disc(512)
    redrawn = Redrawn()
    assert torch.equal(redrawn(small, SeededDraws(3)), redrawn(small, SeededDraws(3)))
    for seed in range(5):
        areas = [float(redrawn(mask, SeededDraws(seed)).mean()) for mask in (small, large)]
        assert areas[0] == pytest.approx(areas[1], abs=0.02)


@pytest.mark.parametrize("either_way", [False, True])
def test_nothing_is_read_from_the_device(either_way: bool) -> None:
    """On the meta device, which has no numbers, that would be an error."""
    assert Redrawn(either_way)(disc(200).to("meta"), SeededDraws(0)).is_meta
