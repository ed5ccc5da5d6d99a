"""The laboratory's training scripts: data, resuming, and files that the pack's own loaders read."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention
from PIL import Image
from safetensors.torch import load_file, save_file
from stillguard.engine.animators.lab_victims.autoencoder import VictimAutoencoder
from stillguard.engine.animators.lab_victims.victim import FILE, NETWORKS, LabVictim
from stillguard.engine.animators.pose_animator import load_pose_animator
from stillguard.engine.surrogates.reference_net import load_reference_net
from stillguard.engine.surrogates.tiny_autoencoder import load_tiny_autoencoder
from stillguard.engine.weights.reading import WeightsError
from stillguard.lab import animator, train_animator, train_encoder, train_measure, train_victims
from stillguard.lab.pairs import Pair, load_pairs, openpose
from stillguard.lab.pose_pictures import COLOURS, draw_pose
from stillguard.lab.training import Loss, Training, shipped


def write_pairs(folder: Path, numbers: Iterable[int], *, still: int | None = None, poseless: int | None = None) -> None:
    """Pairs of 96x64 noise with random poses; one may be one picture twice, and one without a pose for its second picture."""
    generator, poses = np.random.default_rng(0), {}
    for number in numbers:
        first = generator.integers(0, 255, (64, 96, 3), np.uint8)
        second = first if number == still else generator.integers(0, 255, (64, 96, 3), np.uint8)
        for half, picture in enumerate((first, second)):
            name = f"{number:03}_{half}.jpg"
            Image.fromarray(picture).save(folder / name, quality=100)
            if (number, half) != (poseless, 1):
                poses[name] = np.column_stack([generator.uniform(0.3, 0.7, (33, 2)), np.ones(33)])
    np.savez(folder / "poses.npz", **poses)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four pairs: 009 and 010 move, 011 is one picture twice, 012 has no pose for its second picture."""
    write_pairs(tmp_path, (9, 10, 11, 12), still=11, poseless=12)
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
        values.append(training.step(loss, progress=training.steps / 100, peak=1e-3))
    return values


def random_pictures() -> torch.Tensor:
    return torch.randint(0, 256, (6, 2, 3, 128, 128), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def encoder_training() -> tuple[Training, Loss]:
    return Training(train_encoder.network(), seed=3), train_encoder.contrast(random_pictures())


def measure_training() -> tuple[Training, Loss]:
    return Training(train_measure.Measure(), seed=3), train_encoder.contrast(random_pictures(), train_measure.embed)


def autoencoder_training() -> tuple[Training, Loss]:
    return Training(VictimAutoencoder(), seed=3, muon_from=64), train_victims.rebuilding(random_pictures()[:, 0])


def victim_training(name: str) -> tuple[Training, Loss]:
    latents = torch.randn(6, 2, 8, 16, 16, generator=torch.Generator().manual_seed(1))
    return Training(NETWORKS[name](), seed=3), train_victims.flow(train_victims.Photos(latents, random_pictures()), frames=4)


def animator_training() -> tuple[Training, Loss]:
    generator = torch.Generator().manual_seed(1)
    latents, tokens = torch.randn(6, 2, 4, 16, 16, generator=generator), torch.randn(6, 2, 1, 64, generator=generator)
    data = train_animator.Clips(latents, random_pictures(), tokens)
    return Training(animator.Animator(), seed=3), train_animator.denoising(data, frames=8)


TRAININGS = {
    "encoder": encoder_training,
    "measure": measure_training,
    "victims' autoencoder": autoencoder_training,
    "transformer": lambda: victim_training("transformer"),
    "unet": lambda: victim_training("unet"),
    "animator": animator_training,
}


@pytest.mark.parametrize("name", TRAININGS)
def test_a_resumed_training_equals_an_uninterrupted_one_and_follows_the_seed(tmp_path: Path, name: str) -> None:
    def begun() -> tuple[Training, Loss]:
        torch.manual_seed(3)
        return TRAININGS[name]()

    (whole, loss), (first, _), (second, _) = begun(), begun(), begun()
    curve = steps(whole, loss, 3)  # the first has a learning rate of 0
    assert steps(first, loss, 2) == pytest.approx(curve[:2])
    first.save(tmp_path / "state.pt")
    second.load(tmp_path / "state.pt")
    assert steps(second, loss, 1) == pytest.approx(curve[2:])
    other = begun()[0]
    other.generator.manual_seed(4)
    assert steps(other, loss, 1) != pytest.approx(curve[:1])
    for key, value in whole.average.items():
        torch.testing.assert_close(second.average[key], value)


@pytest.mark.parametrize("kind", ["another network's", "cut off", "not one"])
def test_a_checkpoint_that_is_no_use_is_told_in_one_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "state.pt"
    measure_training()[0].save(path)
    if kind == "another network's":
        training = encoder_training()[0]
    else:
        training = measure_training()[0]
        path.write_bytes(path.read_bytes()[:9000] if kind == "cut off" else b"hello")
    with pytest.raises(SystemExit, match=r"state\.pt is damaged or another network's checkpoint: delete it to train anew"):
        training.load(path)


@pytest.mark.parametrize("content", [None, b"no picture"])
def test_a_picture_that_cannot_be_read_is_told_by_name(folder: Path, content: bytes | None) -> None:
    file = folder / "009_1.jpg"
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(SystemExit, match=r"009_1\.jpg is missing or no picture: restore it, or take the pair 009 out"):
        load_pairs(folder, side=32, held_out=False)


def test_the_animators_files_are_read_by_the_packs_loaders_and_predict_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = animator.Animator().eval()
    for parameter in trained.parameters():  # nothing may be zero, or a mix-up could hide
        torch.nn.init.normal_(parameter, std=0.1) if not parameter.any() else None
    paths = {name: tmp_path / f"{name}.safetensors" for name in ("reference_unet", "denoising_unet", "motion_module", "pose_guider")}
    for name, state in animator.files(trained.state_dict(), animator.reference_tail()).items():
        save_file(state, paths[name])
    net = load_reference_net(paths["reference_unet"])
    assert net.format.name == "AnimateAnyone"
    loaded = load_pose_animator(paths["denoising_unet"], paths["motion_module"], paths["pose_guider"])
    trained.load_state_dict({key: value.half().float() for key, value in trained.state_dict().items()})
    generator = torch.Generator().manual_seed(0)
    noisy, reference = torch.randn(1, 4, 2, 16, 16, generator=generator), torch.randn(1, 4, 16, 16, generator=generator)
    tokens, poses = torch.randn(1, 1, 64, generator=generator), torch.rand(1, 2, 3, 128, 128, generator=generator)
    with torch.no_grad():
        expected = trained(noisy, torch.tensor([500]), reference, tokens, poses, guided=True)
        bank = dict(zip(net.names, net(reference, 0, tokens), strict=True))
        ours = loaded.denoise(noisy, 500, tokens, loaded.guide(poses[0]), bank)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("width", "tokens"), [(64, 256), (96, 64)])
def test_attention_begins_at_the_same_place_where_features_tell_it(width: int, tokens: int) -> None:
    """Features that hold their place exactly, in some directions of many: half of the heads find it, the others are as they were."""
    code = animator.places(tokens)
    assert len({tuple(row.tolist()) for row in code}) == tokens
    directions = torch.linalg.qr(torch.randn(width, code.shape[1], generator=torch.Generator().manual_seed(0))).Q
    attention = Attention(width, heads=8, dim_head=width // 8)
    before = attention.to_q.weight.detach().clone()
    animator._look_at_own_place(attention, directions.T)
    features = code @ directions.T
    query, key = (part(features).unflatten(1, (8, -1)).transpose(0, 1) for part in (attention.to_q, attention.to_k))
    looked = (query @ key.mT / (width // 8) ** 0.5).softmax(dim=2)
    assert torch.equal(looked[:4].argmax(dim=2), torch.arange(tokens).expand(4, -1))
    assert torch.equal(attention.to_q.weight[width // 2 :], before[width // 2 :])


def test_settling_teaches_features_their_place_by_seed() -> None:
    def settled(steps: int) -> tuple[float, torch.Tensor]:
        torch.manual_seed(0)
        network = animator.Animator()
        animator.settle(network, seed=1, steps=steps)
        generator = torch.Generator().manual_seed(9)
        shapes = (2, 4, 1, 16, 16), (2, 4, 16, 16), (2, 1, animator.CONTEXT)
        noisy, reference, tokens = (torch.randn(shape, generator=generator) for shape in shapes)
        with torch.no_grad():
            network(noisy, torch.tensor([999, 500]), reference, tokens, torch.zeros(2, 1, 3, 128, 128), guided=True)
        return float(network.position_error), network.animator.unet.get_parameter("conv_in.weight").detach()

    (start, _), (once, weight), (again, same), (later, _) = settled(0), settled(1), settled(1), settled(3)
    assert later < 0.8 * start
    assert again == pytest.approx(once, rel=1e-4)
    torch.testing.assert_close(same, weight)


def test_clips_hold_each_pair_and_its_mirror_image(folder: Path) -> None:
    pairs, vae, encoder = load_pairs(folder, side=128, held_out=False), load_tiny_autoencoder(), train_encoder.network()
    data = train_animator.clips(pairs, vae, encoder)
    assert len(data.latents) == 2 * len(pairs)
    photo = pairs[0].pictures[1:].float() / 255
    for row, picture in ((0, photo), (len(pairs), photo.flip(-1))):
        torch.testing.assert_close(data.latents[row, 1:], vae.encode(picture) * 0.18215, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(data.tokens[row, 1], train_encoder.project(encoder, picture), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(data.poses[0].float() / 255, pairs[0].poses(), atol=0.5 / 255, rtol=0)


def test_encoded_pairs_are_kept_until_the_encoder_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = argparse.Namespace(data=folder, checkpoint=folder / "animator.pt", encoder=folder / "encoder.safetensors")
    calls: list[int] = []

    def encoded(pairs: list[Pair], *networks: object) -> train_animator.Clips:
        calls.append(len(pairs))
        return train_animator.Clips(torch.rand(1, 2, 4, 4, 4), torch.zeros(1, 2, 3, 8, 8, dtype=torch.uint8), torch.rand(1, 2, 1, 64))

    monkeypatch.setattr(train_animator, "clips", encoded)
    given.encoder.write_bytes(b"one")
    first = train_animator.prepared(given, None, None, held_out=False)
    again = train_animator.prepared(given, None, None, held_out=False)
    assert calls == [1, 1]  # one for each cut
    assert len(first.latents) == 2
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    given.encoder.write_bytes(b"another")
    other = train_animator.prepared(given, None, None, held_out=False)
    assert not torch.equal(other.latents, first.latents)


@pytest.fixture
def victims(tmp_path: Path) -> Path:
    """Files of untrained networks, as the script writes them."""
    torch.manual_seed(0)
    networks = {"autoencoder": VictimAutoencoder(), **{name: network() for name, network in NETWORKS.items()}}
    for name, network in networks.items():
        for parameter in network.parameters():  # nothing may be zero, or a mix-up could hide
            torch.nn.init.normal_(parameter, std=0.05) if not parameter.any() else None
        save_file(shipped(network.state_dict(), network)[0], tmp_path / FILE.format(name))
    return tmp_path


@pytest.mark.parametrize("name", NETWORKS)
def test_a_victim_reads_photo_and_pose_and_follows_its_seed(victims: Path, name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    photo, poses = torch.rand(1, 3, 128, 128, generator=generator), torch.rand(2, 3, 128, 128, generator=generator)
    victim, done = LabVictim(name, victims), list[int]()
    frames = victim.animation(photo, poses, steps=3, seed=1, after_step=done.append)
    assert frames.shape == (2, 3, 128, 128)
    assert done == [1, 2, 3]
    assert torch.equal(frames, victim.animation(photo, poses, steps=3, seed=1))
    assert not torch.equal(frames, victim.animation(photo, poses, steps=3, seed=2))
    assert not torch.equal(frames, victim.animation(photo.flip(-1), poses, steps=3, seed=1))
    # Frames share their noise: the same pose gives the same frame, another one another.
    torch.testing.assert_close(victim.animation(photo, poses[:1], steps=3, seed=1), frames[:1])
    assert not torch.allclose(frames[0], frames[1])


@pytest.mark.parametrize("name", NETWORKS)
def test_a_flow_that_is_known_exactly_is_integrated_exactly(victims: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Velocity noise - clean is constant on a straight path, so that Euler's method arrives at clean in any number of steps."""
    victim, photo = LabVictim(name, victims), torch.rand(1, 3, 128, 128)
    target = victim._autoencoder.encode(photo)
    monkeypatch.setattr(victim, "_network", lambda noisy, time, seen, pose: (noisy - target) / time.view(-1, 1, 1, 1))
    frame = victim.animation(torch.rand(1, 3, 128, 128), torch.rand(1, 3, 128, 128), steps=4)
    torch.testing.assert_close(frame, victim._autoencoder.decode(target).detach().clamp(0, 1), atol=1e-4, rtol=1e-4)


def test_a_missing_or_wrong_victim_is_one_sentence(victims: Path) -> None:
    path = victims / FILE.format("unet")
    state = load_file(path)
    save_file({**state, "unet.conv_in.weight": state["unet.conv_in.weight"][:, :8].contiguous()}, path)
    with pytest.raises(WeightsError, match=r"stillguard_lab_victim_unet\.safetensors holds another network than its name says: restore it"):
        LabVictim("unet", victims)
    save_file({"something": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=r"stillguard_lab_victim_unet\.safetensors holds another network than its name says: restore it"):
        LabVictim("unet", victims)
    path.unlink()
    with pytest.raises(WeightsError, match=r"stillguard_lab_victim_unet\.safetensors is missing in .*: restore it"):
        LabVictim("unet", victims)


def script(folder: Path, *options: str) -> dict[str, torch.Tensor]:
    """Run the measure's training script on a folder of pairs for three steps, and read what it wrote."""
    files = ["--data", str(folder), "--checkpoint", str(folder / "state.pt"), "--out", str(folder / "out")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train_measure", *files, "--device", "cpu", "--steps", "3", *options])
        train_measure.main()
    return load_file(folder / "out" / train_measure.FILE)


def test_a_script_gives_the_same_file_by_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pairs(tmp_path, range(1, 11))
    first = script(tmp_path)
    (tmp_path / "state.pt").unlink()
    again = script(tmp_path)
    (tmp_path / "state.pt").unlink()
    other = script(tmp_path, "--seed", "1")
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)
    # A run that was complete ships once more when it is called again, and trains no further.
    capsys.readouterr()
    shipped = script(tmp_path, "--seed", "1")
    assert all(torch.equal(other[key], shipped[key]) for key in other)
    assert capsys.readouterr().out.startswith("step 3  held-out partner found")


def test_a_wrong_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"There is no poses\.npz in .*: give the folder with"):
        load_pairs(tmp_path, side=32, held_out=False)
