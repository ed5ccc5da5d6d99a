"""The face animator's files, its range of colours, its framing and its poses. What its networks compute is in the tha3 vectors."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from bench.animator_files import random_state
from kornia.color import linear_rgb_to_rgb, rgb_to_linear_rgb
from safetensors.torch import load_file, save_file
from stillguard.engine.animators.face import framing, poses
from stillguard.engine.animators.face.animator import FaceAnimator, as_network, as_picture, load_face_animator
from stillguard.engine.animators.face.framing import CHIN, EYES, HEAD, Framing, Reframing, around_face, around_head, moved_by, whole
from stillguard.engine.weights.filling import on_meta
from stillguard.engine.weights.reading import WeightsError
from torch import Tensor

SIDE = framing.SIDE
PHOTO = (2000, 3000)


def shapes() -> dict[str, dict[str, list[int]]]:
    return {name: {key: list(t.shape) for key, t in part.state_dict().items()} for name, part in on_meta(FaceAnimator).named_children()}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The five files as published, of random numbers."""
    folder = tmp_path_factory.mktemp("face")
    for name, part in shapes().items():
        torch.save(random_state({key: tuple(shape) for key, shape in part.items()}, len(name)), folder / f"{name}.pt")
    return {name: folder / f"{name}.pt" for name in shapes()}


def test_keys_shapes_and_poses_are_the_published_ones(shared: Path) -> None:
    manifest = json.loads((shared / "vectors" / "manifests" / "tha3.json").read_text(encoding="utf-8"))
    assert list(shapes().values()) == list(manifest["networks"].values())
    assert list(poses.NAMES) == manifest["pose_parameters"]


def test_five_files_and_one_are_the_same_animator(files: dict[str, Path], tmp_path: Path) -> None:
    five = load_face_animator(files)
    save_file({key: value.half() for key, value in five.state_dict().items()}, tmp_path / "one.safetensors")
    one = load_face_animator(tmp_path / "one.safetensors")
    for key, value in one.state_dict().items():
        assert torch.equal(value, five.state_dict()[key].half().float()), key
    for animator in (five, one):
        assert not animator.training
        assert not any(parameter.requires_grad for parameter in animator.parameters())
    with pytest.raises(ValueError, match="The portrait is 64x32: frame it to 512x512 with transparency first"):
        five.stages(torch.zeros(1, 4, 32, 64), torch.zeros(1, 45))


class _Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("harm",)


def test_wrong_files_say_what_they_are(files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=r"^editor\.pt is not the face animator's face_morpher, because it .*: choose another file\.$"):
        load_face_animator({**files, "face_morpher": files["editor"]})
    state = torch.load(files["editor"], weights_only=True)
    missing = state.popitem()[0]
    torch.save(state, tmp_path / "editor.pt")
    with pytest.raises(WeightsError, match=rf"^editor\.pt is not the face animator's editor, because it lacks {missing} "):
        load_face_animator({**files, "editor": tmp_path / "editor.pt"})
    torch.save({missing: _Harmful()}, tmp_path / "code.pt")
    with pytest.raises(WeightsError, match=r"^code\.pt holds program code instead of bare weights, and nothing of it was run"):
        load_face_animator({**files, "eyebrow_decomposer": tmp_path / "code.pt"})
    assert not (tmp_path / "harm").exists()
    save_file(torch.load(files["editor"], weights_only=True), tmp_path / "one.safetensors")
    with pytest.raises(WeightsError, match=r"^one\.safetensors is not the face animator, because it lacks .*: choose another file\.$"):
        load_face_animator(tmp_path / "one.safetensors")
    assert len(load_file(tmp_path / "one.safetensors")) == len(shapes()["editor"])


def test_the_networks_colours_are_linear_and_lead_back() -> None:
    colours = (torch.arange(256.0) / 255).view(1, 1, 16, 16).expand(2, 3, 16, 16)
    alpha = torch.linspace(0, 1, 256).view(1, 1, 16, 16)
    made = as_network(colours, alpha)
    seen = alpha > 0
    torch.testing.assert_close((made[:, :3] + 1) / 2, rgb_to_linear_rgb(colours) * seen, atol=1e-6, rtol=0)
    torch.testing.assert_close(as_picture(made)[:, :3], linear_rgb_to_rgb((made[:, :3] + 1) / 2) * seen, atol=1e-6, rtol=0)
    torch.testing.assert_close(as_picture(made), torch.cat([colours * seen, alpha.expand(2, 1, 16, 16)], dim=1), atol=1e-5, rtol=0)


def test_colours_have_gradients_both_ways_and_at_the_ends() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(1, 4, 3, 3, generator=generator, dtype=torch.float64).mul(0.98).add(0.01).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: as_network(v[:, :3], v[:, 3:]), values)
    assert torch.autograd.gradcheck(as_picture, values.detach().mul(2).sub(1).requires_grad_())
    ends = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2).expand(1, 4, 2, 2).clone().requires_grad_()
    as_picture(as_network(ends[:, :3], ends[:, 3:])).sum().backward()
    assert ends.grad is not None
    assert bool(ends.grad.isfinite().all())


def places(size: tuple[int, int], within: tuple[int, int]) -> Tensor:
    """[1,2,*size]: x and y of each pixel's middle, in pixels of a photo of the size `within`. Bilinear filters keep a ramp as it is."""
    y, x = ((torch.arange(float(n)) + 0.5) * (full / n) for n, full in zip(size, within, strict=True))
    return torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1])[None]


def at(crop: Tensor, column: float, row: float) -> list[float]:
    """What a crop of `places` has there, which may lie between its pixels."""
    grid = torch.tensor([column, row]).view(1, 1, 1, 2) / SIDE * 2 - 1
    value: list[float] = torch.nn.functional.grid_sample(crop, grid, align_corners=False).flatten().tolist()
    return value


@pytest.fixture(scope="module")
def large() -> Tensor:
    return places(PHOTO, PHOTO)


def test_head_and_face_come_to_lie_where_the_networks_expect_them(large: Tensor) -> None:
    mask = torch.ones(1, 1, *PHOTO)
    left, top, right, bottom = 1300.0, 500.0, 1700.0, 1000.0
    crop = around_head((left, top, right, bottom), mask, PHOTO).crop(large)
    # The longer side fills the place of a head, the shorter one is in its middle.
    assert at(crop, SIDE / 2, HEAD[1]) == pytest.approx([1500, top], abs=0.1)
    assert at(crop, SIDE / 2, HEAD[3]) == pytest.approx([1500, bottom], abs=0.1)
    eyes, chin = (1400.0, 700.0), (1420.0, 900.0)
    crop = around_face(eyes, chin, mask, PHOTO).crop(large)
    assert at(crop, SIDE / 2, EYES) == pytest.approx(eyes, abs=0.1)
    distance = (200**2 + 20**2) ** 0.5
    assert at(crop, SIDE / 2, CHIN) == pytest.approx([eyes[0], eyes[1] + distance], abs=0.1)


def test_a_large_photo_and_its_working_size_give_the_same_square(large: Tensor) -> None:
    lies = around_head((1400, 700, 1600, 900), torch.ones(1, 1, 20, 30), PHOTO)
    height, width = (round(side * lies.working_size / max(PHOTO)) for side in PHOTO)
    assert lies.side * lies.working_size / max(PHOTO) == pytest.approx(SIDE, rel=1e-3)
    # The square lies inside the photo, so that every pixel can be compared; one of its own is one and a half of the photo's.
    torch.testing.assert_close(lies.crop(places((height, width), PHOTO)), lies.crop(large), atol=0.2, rtol=0)


def test_an_attackers_square_and_a_moved_one(large: Tensor) -> None:
    lies = Framing(PHOTO, (1500.0, 1000.0), 1024.0, torch.ones(1, 1, 4, 6))
    crop = lies.crop(large, Reframing(scale=0.8, right=0.1, down=-0.05))
    # The photo's (1600, 1100), which is (100, 100) of 1024 from the centre.
    column, row = SIDE * (0.5 + 0.8 * 100 / 1024 + 0.1), SIDE * (0.5 + 0.8 * 100 / 1024 - 0.05)
    assert at(crop, column, row) == pytest.approx([1600, 1100], abs=0.1)
    moved = moved_by(lies, right=0.25, down=-0.125, scale=1.5).crop(large)
    assert at(moved, SIDE / 2, SIDE / 2) == pytest.approx([1500 + 256, 1000 - 128], abs=0.1)
    assert at(moved, SIDE * 0.75, SIDE / 2) == pytest.approx([1500 + 256 + 384, 1000 - 128], abs=0.1)


def test_a_framed_picture_stays_as_it_is() -> None:
    picture = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    lies = whole(torch.ones(1, 1, SIDE, SIDE), (SIDE, SIDE))
    assert lies.working_size == SIDE
    torch.testing.assert_close(lies.crop(picture), picture, atol=1e-4, rtol=0)


def test_outside_of_photo_and_person_is_nothing() -> None:
    mask = torch.zeros(1, 1, 200, 150)
    mask[..., 75:] = 1
    portrait = whole(mask, (400, 300)).portrait(torch.full((2, 3, 400, 300), 0.5))
    assert portrait.shape == (2, 4, SIDE, SIDE)
    # 300 of 400 columns, in the middle of the square; the person is the right half of them.
    assert bool((portrait[..., :60] == -1).all())
    assert bool((portrait[..., -60:] == -1).all())
    assert bool((portrait[..., 70:220] == -1).all())
    torch.testing.assert_close(portrait[:, 3, 4:-4, 300:440], torch.ones(2, SIDE - 8, 140))


def test_gradients_reach_the_photo_at_its_own_size_and_only_the_square(large: Tensor) -> None:
    photo = (large[:, :1].expand(1, 3, *PHOTO) / 3000).clone().requires_grad_()
    lies = around_head((1400, 700, 1600, 900), torch.ones(1, 1, 20, 30), PHOTO)
    lies.portrait(photo).sum().backward()
    assert photo.grad is not None
    left, top = (round(c - lies.side / 2) for c in lies.centre)
    inside = photo.grad[..., top : top + round(lies.side), left : left + round(lies.side)]
    assert bool((inside[..., 8:-8, 8:-8] > 0).all())
    assert float(inside.sum()) == pytest.approx(float(photo.grad.sum()), rel=1e-2)
    # Every pixel of the square counts once: the sum over the square of the slope of the sRGB curve, times 2.
    slope = torch.autograd.functional.jvp(rgb_to_linear_rgb, lies.crop(photo.detach()), torch.ones(1, 3, SIDE, SIDE))[1]
    assert float(photo.grad.sum()) == pytest.approx(2 * float(slope.sum()), rel=1e-3)


def test_framings_that_cannot_be() -> None:
    mask = torch.ones(1, 1, 4, 4)
    with pytest.raises(ValueError, match="The head's box is empty: give left, top, right and bottom"):
        around_head((10, 10, 10, 20), mask, PHOTO)
    with pytest.raises(ValueError, match="The face lies on its side or upside down: turn the photo first"):
        around_face((100, 100), (120, 90), mask, PHOTO)


def test_drawn_poses_are_in_range_and_have_one_mouth() -> None:
    generator = torch.Generator().manual_seed(0)
    numbers = [torch.zeros(16), torch.ones(16), *torch.rand(60, 16, generator=generator)]
    made = torch.stack([poses.drawn(one) for one in numbers])
    lower = torch.tensor([-1.0 if name in poses.TURNS else 0.0 for name in poses.NAMES])
    assert bool(((made >= lower) & (made <= 1)).all())
    mouths = [poses.NAMES.index(name) for name in poses.MOUTHS]
    assert (made[:, mouths] > 0).sum(1).tolist() == [1] * len(made)
    assert set((made[:, mouths] > 0).int().argmax(1).tolist()) == set(range(len(mouths)))
    assert poses.pose({"head_x": -0.5})[poses.NAMES.index("head_x")] == -0.5
    with pytest.raises(KeyError):
        poses.pose({"nose": 1.0})
