"""Pointwise work on large pictures goes strip by strip: the same bits, in memory that does not grow with what lies between."""

from __future__ import annotations

import pytest
import torch
from bench.memory import peak_bytes
from stillguard.engine import RGB, Adam, LowFrequency, MomentumSign, Objective, Sign, Term, WorkingSize, picture, protect
from stillguard.engine.losses.dormant import VAELatent
from stillguard.engine.spaces import Space
from stillguard.engine.update import Update
from support import RandomEncoder
from torch import Tensor

OBJECTIVE = Objective((Term("latent", 1.0, VAELatent(RandomEncoder())),))


@pytest.mark.parametrize("strip", [1, 1000, 2**40])
def test_rows_of_strips_are_all_rows_once(strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "STRIP", strip)
    image = torch.arange(2 * 3 * 37 * 20.0).view(2, 3, 37, 20)
    parts = [image[..., rows, :] for rows in picture.strips(image)]
    assert torch.equal(torch.cat(parts, dim=-2), image)
    assert all(part.numel() <= max(strip, 2 * 3 * 20) for part in parts)


@pytest.mark.parametrize("update", [MomentumSign(), Sign(), Adam()])
@pytest.mark.parametrize("space", [RGB(), RGB(start_from="anywhere", truncated=True), LowFrequency(working_size=WorkingSize(32))])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_strips_change_no_bit(update: Update, space: Space, masked: bool, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    # Two pictures, the second of which has no gradient and is left as it is.
    clean = torch.rand(2, channels, 45, 31, generator=generator) * 1.2 - 0.1
    mask = torch.rand(1, 1, 45, 31, generator=generator) if masked else None

    def result(strip: int) -> Tensor:
        monkeypatch.setattr(picture, "STRIP", strip)
        *_, last = protect(clean, OBJECTIVE, space=space, update=update, working_size=WorkingSize(32), steps=4, mask=mask)
        return last.image

    assert torch.equal(result(200), result(2**40))


def test_a_large_photo_is_held_a_few_times_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables, momentum, gradient, new variables, and one more while they change: beside the photo, which is the caller's."""
    monkeypatch.setattr(picture, "STRIP", 2**14)
    clean = torch.rand(1, 3, 768, 1024)
    with peak_bytes() as peak:
        for step in protect(clean, OBJECTIVE, working_size=WorkingSize(32), steps=2):
            last = step
        assert last.image.shape == clean.shape
    assert peak() < 5.3 * clean.nbytes
