"""The laboratory's training scripts: data, resuming, and files that the pack's own loaders read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from stillguard.engine.surrogates.pose_animator import load_pose_animator
from stillguard.engine.surrogates.reference_net import load_reference_net
from stillguard.lab import train_animator, train_encoder
from stillguard.lab.pairs import load_pairs, openpose
from stillguard.lab.pose_pictures import COLOURS, draw_pose
from stillguard.lab.training import Loss, Training


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four pairs of 96x64: 009 and 010 move, 011 is one picture twice, 012 has no pose for its second picture."""
    generator, poses = np.random.default_rng(0), {}
    for number in (9, 10, 11, 12):
        first = generator.integers(0, 255, (64, 96, 3), np.uint8)
        second = first if number == 11 else generator.integers(0, 255, (64, 96, 3), np.uint8)
        for half, picture in enumerate((first, second)):
            name = f"{number:03}_{half}.jpg"
            Image.fromarray(picture).save(tmp_path / name, quality=100)
            if (number, half) != (12, 1):
                poses[name] = np.column_stack([generator.uniform(0.3, 0.7, (33, 2)), np.ones(33)])
    np.savez(tmp_path / "poses.npz", **poses)
    return tmp_path


def test_pairs_are_moving_posed_and_split_by_number(folder: Path) -> None:
    assert [pair.number for pair in load_pairs(folder, side=32, held_out=False)] == [9]
    (held_out,) = load_pairs(folder, side=32, held_out=True)
    assert held_out.number == 10
    assert held_out.pictures.shape == (2, 3, 32, 32)
    assert held_out.poses().shape == (2, 3, 32, 32)


def test_keypoints_lie_where_the_picture_was_cut(folder: Path) -> None:
    (pair,) = load_pairs(folder, side=64, held_out=True)
    marks = np.load(folder / "poses.npz")["010_0.jpg"]
    # 96x64 at its own height: only moved sideways, by a whole number of pixels, and not scaled.
    shift = marks[0, 0] * 96 - pair.keypoints[0, 0, 0]
    assert shift == pytest.approx(round(shift))
    assert pair.keypoints[0, 0, 1] == pytest.approx(marks[0, 1] * 64)
    whole = np.array(Image.open(folder / "010_0.jpg").convert("RGB"))
    assert np.array_equal(pair.pictures[0].permute(1, 2, 0).numpy(), whole[:, round(shift) : round(shift) + 64])


def test_a_mirrored_person_keeps_right_and_left(folder: Path) -> None:
    """The right shoulder of a mirrored person is drawn where the left one was, and twice mirrored is the same."""
    (pair,) = load_pairs(folder, side=64, held_out=True)
    mirrored = pair.mirrored()
    assert torch.equal(mirrored.pictures, pair.pictures.flip(-1))
    assert mirrored.keypoints[0, 2, 0] == pytest.approx(63 - pair.keypoints[0, 5, 0])
    np.testing.assert_allclose(mirrored.mirrored().keypoints, pair.keypoints)


def test_openpose_order_and_visibility() -> None:
    marks = np.column_stack([np.arange(33), np.arange(33), np.ones(33)]).astype(float)
    marks[16, 2] = 0.1
    points = openpose(marks)
    assert points[1, 0] == (11 + 12) / 2  # the neck
    assert points[2, 0] == 12  # the right shoulder
    assert points[4, 2] == 0  # a hidden wrist


def test_pose_pictures_have_openposes_colours() -> None:
    points = np.zeros((18, 3))
    points[0], points[4] = (10, 10, 1), (40, 20, 1)
    picture = (draw_pose(points, 48, 64, line=2) * 255).round().long()
    assert tuple(picture[:, 10, 10].tolist()) == COLOURS[0] == (255, 0, 0)
    assert tuple(picture[:, 20, 40].tolist()) == COLOURS[4] == (170, 255, 0)
    assert int(picture[:, 15, 25].sum()) == 0  # no limb between points that no limb joins


def steps(training: Training, loss: Loss, count: int) -> list[float]:
    values = []
    for _ in range(count):
        training.seconds = training.steps * 10.0  # the schedule follows measured time, which no two runs share
        values.append(training.step(loss, budget=1000.0, peak=1e-3))
    return values


def encoder_training() -> tuple[Training, Loss]:
    torch.manual_seed(3)
    pictures = torch.randint(0, 256, (6, 2, 3, 128, 128), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return Training(train_encoder.network(), seed=3), train_encoder.contrast(pictures)


def test_a_resumed_training_equals_an_uninterrupted_one_and_follows_the_seed(tmp_path: Path) -> None:
    (whole, loss), (first, _), (second, _) = encoder_training(), encoder_training(), encoder_training()
    curve = steps(whole, loss, 4)
    assert steps(first, loss, 2) == pytest.approx(curve[:2])
    first.save(tmp_path / "state.pt")
    second.load(tmp_path / "state.pt")
    assert steps(second, loss, 2) == pytest.approx(curve[2:])
    for key, value in whole.average.items():
        torch.testing.assert_close(second.average[key], value)


def test_the_animators_files_are_read_by_the_packs_loaders_and_predict_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = train_animator.Animator().eval()
    for parameter in trained.parameters():  # nothing may be zero, or a mix-up could hide
        torch.nn.init.normal_(parameter, std=0.1) if not parameter.any() else None
    paths = {name: tmp_path / f"{name}.safetensors" for name in ("reference_unet", "denoising_unet", "motion_module", "pose_guider")}
    for name, state in train_animator.files(trained.state_dict(), train_animator.reference_tail()).items():
        save_file(state, paths[name])
    net = load_reference_net(paths["reference_unet"])
    assert net.format.name == "AnimateAnyone"
    animator = load_pose_animator(paths["denoising_unet"], paths["motion_module"], paths["pose_guider"])
    trained.load_state_dict({key: value.half().float() for key, value in trained.state_dict().items()})
    generator = torch.Generator().manual_seed(0)
    noisy, reference = torch.randn(1, 4, 2, 16, 16, generator=generator), torch.randn(1, 4, 16, 16, generator=generator)
    tokens, poses = torch.randn(1, 1, 64, generator=generator), torch.rand(1, 2, 3, 128, 128, generator=generator)
    with torch.no_grad():
        expected = trained(noisy, torch.tensor([500]), reference, tokens, poses, guided=True)
        bank = dict(zip(net.names, net(reference, 0, tokens), strict=True))
        ours = animator.denoise(noisy, 500, tokens, animator.guide(poses[0]), bank)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-3)
