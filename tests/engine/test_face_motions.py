"""Motions of the face animator, and its square moved by hand."""

from __future__ import annotations

import math

import pytest
import torch
from stillguard.engine.animators.face.framing import HEAD, Framing, around_landmarks, in_square, nudged, whole
from stillguard.engine.animators.face.motions import EXPRESSION, SEQUENCES, expression, sequence, speech, there_and_back, with_expression
from stillguard.engine.animators.face.poses import NAMES, TURNS, pose
from torch import Tensor

OPEN = NAMES.index("mouth_aaa")
RATE = 8000


@pytest.mark.parametrize("name", SEQUENCES)
@pytest.mark.parametrize("more", [0, 1, 13])
def test_a_sequence_goes_through_each_of_its_poses_in_order_and_ends_where_it_began(name: str, more: int) -> None:
    keys = [pose(values) for values in SEQUENCES[name]]
    made = sequence(name, len(keys) + more)
    assert made.shape == (len(keys) + more, len(NAMES))
    assert float(made[0].abs().max()) == float(made[-1].abs().max()) == 0
    at = -1
    for key in keys:
        at = next(frame for frame in range(at + 1, len(made)) if torch.allclose(made[frame], key, atol=1e-6))
    assert bool((made <= 1).all())
    turns = torch.tensor([one in TURNS for one in NAMES])
    assert bool((made >= 0)[:, ~turns].all())
    assert float(made.diff(dim=0).abs().max()) <= 2


def test_the_long_sequence_shows_what_the_short_ones_do() -> None:
    together = sequence("talk, wink and turn", 40)
    for name in ("mouth_aaa", "eye_wink_left", "eye_wink_right", "head_y"):
        assert float(together[:, NAMES.index(name)].max()) == 1
    assert float(together[:, NAMES.index("head_y")].min()) == -1


@pytest.mark.parametrize("name", SEQUENCES)
def test_too_few_frames_are_told(name: str) -> None:
    least = len(SEQUENCES[name])
    with pytest.raises(ValueError, match=rf"goes through {least} poses: ask for {least} frames or more\.$"):
        sequence(name, least - 1)


def test_there_and_back() -> None:
    held = pose({"mouth_ooo": 0.7, "head_x": -0.3})
    torch.testing.assert_close(there_and_back({"mouth_ooo": 0.7, "head_x": -0.3}, 1), held[None])
    torch.testing.assert_close(there_and_back({"mouth_ooo": 0.7, "head_x": -0.3}, 2), torch.stack([0 * held, held]))
    ramp = there_and_back({"mouth_ooo": 0.7, "head_x": -0.3}, 9)
    torch.testing.assert_close(ramp[4], held)
    # Back through the very poses of the way there, which need not be made twice.
    assert torch.equal(ramp, ramp.flip(0))
    assert len(ramp.unique(dim=0)) == 5


def test_every_word_for_an_expression_moves_a_pose() -> None:
    for word in EXPRESSION:
        assert float(pose(expression({word: 0.5})).sum()) == 0.5 * len(EXPRESSION[word])


def test_an_expression_is_added_within_the_networks_range() -> None:
    added = with_expression(sequence("talk", 7), expression({"mouth_open": 0.4, "turn": -0.5, "smile": 1.0}))
    assert float(added[0, OPEN]) == pytest.approx(0.4)
    assert float(added[:, OPEN].max()) == 1
    assert bool((added[:, NAMES.index("head_y")] == -0.5).all())
    assert bool((added[:, NAMES.index("mouth_raised_corner_left")] == 1).all())


def tone(*amplitudes: float, seconds: float = 1.0, rate: int = RATE) -> Tensor:
    """[1,samples]: a tone whose amplitude is one of these after another."""
    moments = torch.arange(int(seconds * rate)) / rate
    return torch.cat([amplitude * torch.sin(2 * math.pi * 200 * moments) for amplitude in amplitudes])[None]


def test_the_mouth_follows_loudness() -> None:
    made = speech(tone(0.0, 0.8, 0.4, 0.8), RATE, fps=10)
    assert made.shape == (40, len(NAMES))
    torch.testing.assert_close(made[:, OPEN], torch.tensor([0.0, 1.0, 0.5, 1.0]).repeat_interleave(10), atol=2e-3, rtol=0)
    assert float(made.abs().sum()) == pytest.approx(float(made[:, OPEN].sum()))


def test_what_a_sound_is_recorded_with_does_not_count() -> None:
    """Gain, sample rate, a constant in it, and one channel or two, even of opposite signs."""
    expected = speech(tone(0.2, 0.8), RATE, fps=10)
    same = {
        "gain": speech(tone(0.05, 0.2), RATE, fps=10),
        "rate": speech(tone(0.2, 0.8, rate=44100), 44100, fps=10),
        "constant": speech(tone(0.2, 0.8) + 0.1, RATE, fps=10),
        "opposite channels": speech(torch.cat([tone(0.2, 0.8), -tone(0.2, 0.8)]), RATE, fps=10),
    }
    for name, other in same.items():
        torch.testing.assert_close(other, expected, atol=5e-3, rtol=0, msg=name)


def test_a_bang_does_not_close_the_mouth_for_the_rest() -> None:
    sound = tone(0.2, seconds=5)
    sound[:, :40] = 1.0
    assert float(speech(sound, RATE, fps=10)[1:, OPEN].min()) > 0.95


def test_fewer_frames_are_the_first_ones() -> None:
    assert torch.equal(speech(tone(0.2, 0.8), RATE, 10, 7), speech(tone(0.2, 0.8), RATE, 10)[:7])


@pytest.mark.parametrize(
    ("sound", "sentence"),
    [
        (torch.zeros(1, 0), "holds no samples"),
        (torch.zeros(0, 100), "holds no samples"),
        (torch.zeros(2, 100), "is silent"),
        (torch.full((1, 100), 0.5), "is silent"),
        (torch.tensor([[0.1, float("nan")]]), "not numbers"),
    ],
)
def test_what_no_mouth_can_follow(sound: Tensor, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        speech(sound, RATE, 10)


def spot(framing: Framing, x: float, y: float) -> list[float]:
    """Where a small bright spot of the photo is in the square."""
    height, width = framing.size
    rows, columns = torch.arange(height) + 0.5, torch.arange(width) + 0.5
    photo = torch.exp(-((rows[:, None] - y) ** 2 + (columns - x) ** 2) / 8)[None, None]
    seen = framing.crop(photo)[0, 0]
    places = torch.arange(seen.shape[0]) + 0.5
    return [float((seen.sum(axis) * places).sum() / seen.sum()) for axis in (0, 1)]


@pytest.mark.parametrize(("right", "down", "size"), [(0.0, 0.0, 1.0), (0.1, -0.05, 1.0), (0.0, 0.0, 1.3), (0.05, 0.1, 0.8)])
def test_by_hand_the_head_moves_as_it_is_told_and_grows_where_it_is(right: float, down: float, size: float) -> None:
    """The head's middle in the square, measured in the cropped picture itself."""
    framing = Framing((300, 420), (200.0, 180.0), 240.0, torch.ones(1, 1, 300, 420))
    head = (200.0, 180.0 + 240 * ((HEAD[1] + HEAD[3]) / 2 / 512 - 0.5))
    moved = nudged(framing, right=right, down=down, size=size)
    assert spot(moved, *head) == pytest.approx([256 + 512 * right, 128 + 512 * down], abs=0.5)
    assert in_square(moved, torch.tensor([head]))[0].tolist() == pytest.approx([256 + 512 * right, 128 + 512 * down], abs=1e-3)
    assert 512 / moved.side == pytest.approx(512 / framing.side * size)


def test_landmarks_put_eyes_and_chin_where_they_belong() -> None:
    points = torch.zeros(68, 2)
    points[36:42], points[42:48], points[8] = torch.tensor([80.0, 100.0]), torch.tensor([120.0, 100.0]), torch.tensor([100.0, 160.0])
    framing = around_landmarks(points, torch.ones(1, 1, 300, 300), (300, 300))
    eyes, chin = in_square(framing, torch.tensor([[100.0, 100.0], [100.0, 160.0]])).tolist()
    assert eyes == pytest.approx([256, 148], abs=0.01)
    assert chin == pytest.approx([256, 200], abs=0.01)
    assert whole(torch.ones(1, 1, 9, 9), (9, 9)).side == 9
