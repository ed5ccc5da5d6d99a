"""Chroma and low frequencies: against scikit-image, scipy and autograd, and the two in turn against a loop written out by hand."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn
from skimage.color import lab2rgb, rgb2lab
from stillguard.engine import RGB, Alternating, Chroma, LowFrequency, Normalised, Objective, Sign, Term, WorkingSize, picture, protect
from stillguard.engine.colour import chroma_gradient, lab_to_rgb, rgb_to_lab
from stillguard.engine.observation import Observation
from stillguard.engine.picture import largest_change, to_levels
from stillguard.engine.spaces.moved import Moved
from stillguard.engine.spaces.space import Space
from torch import Tensor

BANDS = ("triangle", "square")


def colours(count: int, *, low: float = 0.0, seed: int = 0) -> Tensor:
    """[1,3,1,count] fp64: a third of them dark, where curves are lines."""
    drawn = low + (1 - low) * torch.rand(1, 3, 1, count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    drawn[..., : count // 3] *= 0.05 if low == 0 else 1
    return drawn


def luminance(rgb: Tensor) -> Tensor:
    """Y of XYZ, curves written anew."""
    linear = torch.where(rgb > 0.04045, ((rgb.clamp_min(0.04) + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    return torch.einsum("c,bchw->bhw", torch.tensor([0.2126729, 0.7151522, 0.0721750], dtype=torch.float64), linear)


def test_lab_is_scikit_images_and_leads_back() -> None:
    rgb = colours(20_000)
    there = rgb_to_lab(rgb)
    assert np.abs(rgb2lab(rgb[0].numpy(), channel_axis=0) - there[0].numpy()).max() < 0.02
    assert np.abs(lab2rgb(there[0].numpy(), channel_axis=0) - rgb[0].numpy()).max() < 1e-3
    # sRGB's two pieces do not quite meet.
    assert float((lab_to_rgb(there) - rgb).abs().max()) < 1e-7
    greys = torch.linspace(0, 1, 256, dtype=torch.float64).expand(1, 3, 1, -1)
    assert float(rgb_to_lab(greys)[:, 1:].abs().max()) < 1e-12


def test_steps_in_colour_leave_luminance_alone() -> None:
    rgb = colours(20_000, low=0.2)
    step = torch.randint(0, 2, (1, 2, 1, 20_000), generator=torch.Generator().manual_seed(1)).double() * 2 - 1
    moved = Chroma().moved(rgb, step)
    # But for colours at which the two pieces of sRGB's curve do not quite meet.
    smooth = ((rgb - 0.04045).abs() > 1e-4) & ((moved - 0.04045).abs() > 1e-4)
    inside = ((moved >= 0) & (moved <= 1) & smooth).all(1)
    assert 0.5 < float(inside.double().mean()) < 1
    assert float((luminance(moved) - luminance(rgb))[inside].abs().max()) < 1e-12
    assert float((rgb_to_lab(moved) - rgb_to_lab(rgb))[:, 1:].sub(step).abs().max(1).values[inside].max()) < 1e-5


def test_closed_form_of_the_colour_gradient() -> None:
    rgb, along = colours(5000), torch.randn(1, 3, 1, 5000, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    lab = rgb_to_lab(rgb).requires_grad_()
    (found,) = torch.autograd.grad(lab_to_rgb(lab), lab, along)
    closed = chroma_gradient(lab.detach(), along)
    scale = found[:, 1:].abs().max()
    assert float((closed - found[:, 1:]).abs().max() / scale) < 1e-9
    small = 1e-5
    for place in (1, 2):
        moved = [lab.detach().clone() for _ in range(2)]
        moved[0][:, place] += small
        moved[1][:, place] -= small
        slope = ((lab_to_rgb(moved[0]) - lab_to_rgb(moved[1])) * along).sum(1) / (2 * small)
        # But for the few colours between which a curve's pieces meet.
        away = (slope - closed[:, place - 1]).abs() / scale > 1e-4
        assert float(away.double().mean()) < 0.001


@pytest.mark.parametrize("space", [Chroma(), LowFrequency(), LowFrequency(band="square", dc=False)], ids=["chroma", "triangle", "square"])
def test_gradients_of_the_spaces(space: Moved) -> None:
    picture = 0.2 + 0.6 * torch.rand(2, 3, 13, 18, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    step = torch.zeros_like(space.still(picture)).requires_grad_()
    assert torch.autograd.gradcheck(lambda step: space.moved(picture, step), (step,), eps=1e-6, atol=1e-6)
    assert torch.equal(space.moved(picture, step.detach()), picture)


@pytest.mark.parametrize("band", BANDS)
@pytest.mark.parametrize("dc", [True, False])
def test_only_the_band_changes_and_by_one_level_of_root_mean_square(band: str, dc: bool) -> None:
    height, width, reach = 40, 56, 0.3
    space = LowFrequency(RGB(64), band, reach, dc)  # type: ignore[arg-type]
    picture = torch.rand(1, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    step = torch.randn(space.still(picture).shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5)).sign() * space.unit
    change = (space.moved(picture, step) - picture).numpy()
    assert np.sqrt((change**2).mean()) * 255 == pytest.approx(1, abs=1e-9)
    u, v = np.arange(height)[:, None] / height, np.arange(width) / width
    inside = u + v < reach if band == "triangle" else np.maximum(u, v) < reach
    inside[0, 0] = dc
    found = np.abs(dctn(change, axes=(2, 3), norm="ortho"))
    assert found[..., ~inside].max() < 1e-12
    assert found[..., inside].min() == pytest.approx(found[..., inside].max(), rel=1e-9)


def test_normalised_steps_have_the_same_size() -> None:
    space, picture = LowFrequency(), torch.rand(1, 3, 48, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    step, gradient = space.still(picture), torch.randn(space.still(picture).shape, dtype=torch.float64)
    (moved, _) = Normalised(1.0).begin((step, picture), unit=space.unit)((step, picture), (gradient, torch.zeros_like(picture)))
    assert float((space.moved(picture, moved) - picture).square().mean().sqrt() * 255) == pytest.approx(1, abs=1e-9)


def test_a_large_photos_band_is_what_surrogates_see_of_it() -> None:
    """The same waves over the photo at any size, so that shrinking it to the working size keeps them."""
    space = LowFrequency(reach=0.25, working_size=WorkingSize(64))
    counts = {side: space.still(torch.zeros(1, 3, side, side)).shape[-1] for side in (64, 256, 1024)}
    assert len(set(counts.values())) == 1


class Curved:
    """See test_spaces.Curved."""

    surrogates = ()
    weights = torch.randn(1, 3, 40, 32, generator=torch.Generator().manual_seed(3))

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        return self.value(adversarial.image)

    @classmethod
    def value(cls, image: Tensor) -> Tensor:
        return torch.sin(30 * image + cls.weights).mean()


def by_hand(clean: Tensor, steps: int, budget: int, order: str) -> np.ndarray:
    """Anti-I2V's two steps: scipy's transform, and colour along differences of scikit-image's."""
    start = x = clean.double().numpy()
    height, width = clean.shape[-2:]
    inside = np.arange(height)[:, None] / height + np.arange(width) / width < 0.25
    for step in range(steps):
        leaf = torch.from_numpy(x).requires_grad_()
        Curved.value(leaf).backward()
        gradient = leaf.grad.numpy()
        if order[step % 2] == "c":
            lab = rgb2lab(x[0], channel_axis=0)
            slopes = [_slope(lab, place, gradient[0]) for place in (1, 2)]
            after = rgb_to_lab(torch.from_numpy(x)).numpy()[0]
            after[1:] += np.sign(np.stack(slopes))
            x = lab_to_rgb(torch.from_numpy(after)[None]).numpy()
        else:
            wanted = np.sign(dctn(gradient, axes=(2, 3), norm="ortho")) * inside
            x = x + idctn(wanted / np.sqrt(inside.mean()) / 255, axes=(2, 3), norm="ortho")
        x = np.clip(start + np.clip(x - start, -budget / 255, budget / 255), 0, 1)
    return x


def _slope(lab: np.ndarray, place: int, gradient: np.ndarray) -> np.ndarray:
    """By finite differences of scikit-image."""
    moved = [lab.copy(), lab.copy()]
    moved[0][place] += 0.5
    moved[1][place] -= 0.5
    there, back = (lab2rgb(one, channel_axis=0) for one in moved)
    return ((there - back) * gradient).sum(0)


@pytest.mark.parametrize("order", ["cf", "fc"])
@pytest.mark.filterwarnings("ignore:Conversion from CIE-LAB")
def test_the_two_in_turn_are_a_loop_written_out_by_hand(order: str) -> None:
    clean = to_levels(torch.rand(1, 3, 40, 32, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.3) / 255
    spaces: dict[str, Space] = {"c": Chroma(RGB(6, start_from="clean")), "f": LowFrequency(RGB(6, start_from="clean"))}
    turns = Alternating(tuple(spaces[name] for name in order))
    *_, last = protect(clean, Objective((Term("curved", 1.0, Curved()),)), space=turns, update=Sign(1.0), steps=6)
    assert largest_change(clean, last.image) == turns.budget == 6
    wanted = torch.from_numpy(by_hand(clean, 6, 6, order))
    assert float((to_levels(last.image) != to_levels(wanted)).float().mean()) < 0.02
    elsewhere = torch.from_numpy(by_hand(clean, 6, 6, order[::-1]))
    assert float((to_levels(last.image) != to_levels(elsewhere)).float().mean()) > 0.2


@pytest.mark.parametrize("space", [Chroma(), LowFrequency()], ids=["chroma", "low frequency"])
def test_what_a_mask_keeps_has_no_say_in_a_step(space: Moved) -> None:
    generator = torch.Generator().manual_seed(8)
    clean, along = torch.rand(1, 3, 24, 40, generator=generator), torch.randn(1, 3, 24, 40, generator=generator)
    mask = torch.zeros(1, 1, 24, 40)
    mask[..., 4:12, 6:20] = 0.5
    found = []
    for elsewhere in (0.0, 100.0):
        leaves = tuple(part.detach().requires_grad_() for part in space.variables(clean, mask, clean))
        (space.render(clean, mask, leaves) * torch.where(mask > 0, along, elsewhere * along)).sum().backward()
        found.append(leaves[0].grad)
    assert torch.equal(*found)
    assert float(found[0].abs().max()) > 0


def test_colour_goes_strip_by_strip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the rounding of powers, which depends on where in memory a value lies."""
    generator = torch.Generator().manual_seed(7)
    image, along = torch.rand(2, 3, 45, 31, generator=generator), torch.randn(2, 3, 45, 31, generator=generator)

    def both(strip: int) -> tuple[Tensor, Tensor]:
        monkeypatch.setattr(picture, "STRIP", strip)
        step = torch.ones(2, 2, 45, 31, requires_grad=True)
        moved = Chroma().moved(image, step)
        (gradient,) = torch.autograd.grad(moved, step, along)
        return moved.detach(), gradient

    for few, all_at_once in zip(both(200), both(2**40), strict=True):
        assert float((few - all_at_once).abs().mean() / all_at_once.abs().mean()) < 1e-5


def test_what_has_no_colour_and_what_has_no_band() -> None:
    with pytest.raises(ValueError, match="greyscale"):
        deque(protect(torch.rand(1, 1, 40, 32), Objective((Term("curved", 1.0, Curved()),)), space=Chroma(), steps=1))
    with pytest.raises(ValueError, match="raise its reach"):
        LowFrequency(reach=0.01, dc=False).still(torch.zeros(1, 3, 40, 32))
    for reach in (0.0, 2.5):
        with pytest.raises(ValueError, match="up to 2"):
            LowFrequency(reach=reach)
