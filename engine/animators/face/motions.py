"""Motions of the face animator: sequences of poses that show what it can do, and a mouth that follows a sound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from .poses import NAMES, TURNS, pose

Values = Mapping[str, float]

_REST: Values = {}
_TALK: tuple[Values, ...] = ({"mouth_aaa": 1.0}, {"mouth_iii": 1.0}, {"mouth_ooo": 1.0}, {"mouth_eee": 1.0}, {"mouth_uuu": 1.0})
_WINK: tuple[Values, ...] = ({"eye_wink_left": 1.0}, _REST, {"eye_wink_right": 1.0})
_TURN: tuple[Values, ...] = (
    {"head_y": 1.0, "body_y": 0.5},
    {"head_y": -1.0, "body_y": -0.5},
    {"head_x": 1.0},
    {"neck_z": 1.0},
)

SEQUENCES: Mapping[str, tuple[Values, ...]] = {
    "talk": (_REST, *_TALK, _REST),
    "wink": (_REST, *_WINK, _REST),
    "turn": (_REST, *_TURN, _REST),
    "talk, wink and turn": (_REST, *_TALK[:3], _REST, *_WINK, _REST, *_TURN[:2], _REST),
}
"""By name: the poses that a sequence goes through. All begin and end at rest."""

EXPRESSION: Mapping[str, tuple[str, ...]] = {
    "mouth_open": ("mouth_aaa",),
    "mouth_i": ("mouth_iii",),
    "mouth_u": ("mouth_uuu",),
    "mouth_e": ("mouth_eee",),
    "mouth_o": ("mouth_ooo",),
    "smile": ("mouth_raised_corner_left", "mouth_raised_corner_right"),
    "wink_left": ("eye_wink_left",),
    "wink_right": ("eye_wink_right",),
    "brows_raised": ("eyebrow_raised_left", "eyebrow_raised_right"),
    "brows_angry": ("eyebrow_angry_left", "eyebrow_angry_right"),
    "brows_troubled": ("eyebrow_troubled_left", "eyebrow_troubled_right"),
    "nod": ("head_x",),
    "turn": ("head_y",),
    "tilt": ("neck_z",),
    "body_turn": ("body_y",),
    "lean": ("body_z",),
    "breathing": ("breathing",),
}
"""What people call it -> the numbers of a pose that do it together."""

# Frames of one pose that differ by less are the same frame, which is then made once: motions go back the way they came.
_GRID = 1000
# Full scale is 1: below 80 dB under it there is nothing but rounding.
_SILENCE = 1e-4


def expression(values: Values) -> dict[str, float]:
    """Numbers of a pose by name, from values by the names of EXPRESSION."""
    return {name: value for word, value in values.items() for name in EXPRESSION[word]}


def sequence(name: str, frames: int) -> Tensor:
    """One of SEQUENCES in this many frames, [frames,45]. Raises ValueError where these are fewer than its poses."""
    keys = SEQUENCES[name]
    if frames < len(keys):
        raise ValueError(f'"{name}" goes through {len(keys)} poses: ask for {len(keys)} frames or more.')
    return _through([pose(values) for values in keys], frames)


def there_and_back(values: Values, frames: int) -> Tensor:
    """From rest to a pose and back, [frames,45]; the pose alone in one frame, rest and the pose in two."""
    held, rest = pose(values), pose(_REST)
    keys = {1: [held], 2: [rest, held]}.get(frames, [rest, held, rest])
    return _through(keys, frames)


def speech(waveform: Tensor, rate: int, fps: float, frames: int | None = None) -> Tensor:
    """The mouth opens with the loudness of a sound, [N,45].

    waveform: [channels,samples]. rate: samples a second. Frame i shows the standard deviation of its share of the sound, 1 / fps seconds,
    by the one that 95 of 100 frames stay below, so that a single bang does not close the mouth for the rest.
    frames: at most this many. Raises ValueError for a sound that is empty, silent, or not of numbers.
    """
    samples = waveform.float()
    if not samples.numel() or rate <= 0:
        raise ValueError("The sound holds no samples: load another one with Load Audio.")
    if not bool(samples.isfinite().all()):
        raise ValueError("The sound has samples that are not numbers (NaN or infinity): look for the node before this one that made them.")
    count = max(1, round(samples.shape[-1] * fps / rate))
    # Channels by their power and not their sum, in which a voice that is reversed in one of them would vanish.
    parts = samples.tensor_split(count, dim=-1)
    loudness = torch.stack([part.var(-1, correction=0).mean() for part in parts]).nan_to_num().sqrt()
    if float(loudness.max()) < _SILENCE:
        raise ValueError("The sound is silent, so that the mouth would not move: connect one with speech.")
    loud = loudness.quantile(0.95).clamp_min(_SILENCE)
    poses = torch.zeros(count, len(NAMES))
    poses[:, NAMES.index("mouth_aaa")] = (loudness / loud).clamp(0, 1)
    return _on_grid(poses)[:frames]


def with_expression(poses: Tensor, values: Values) -> Tensor:
    """The same poses [N,45] with an expression added to each, within what the networks know."""
    lowest = pose(dict.fromkeys(TURNS, -1.0))
    return _on_grid((poses + pose(values)).clamp_max(1).maximum(lowest))


def _through(keys: Sequence[Tensor], frames: int) -> Tensor:
    """Evenly from key to key, slow near each (smoothstep). Every key is a frame of its own, where there are as many frames."""
    if len(keys) == 1:
        return torch.stack([keys[0]] * frames)
    places = [round(index * (frames - 1) / (len(keys) - 1)) for index in range(len(keys))]
    made = [keys[0]]
    for (first, last), (start, end) in zip(pairwise(keys), pairwise(places), strict=True):
        for frame in range(start + 1, end + 1):
            share = (frame - start) / (end - start)
            made.append(first + (last - first) * (share * share * (3 - 2 * share)))
    return _on_grid(torch.stack(made))


def _on_grid(poses: Tensor) -> Tensor:
    return (poses * _GRID).round() / _GRID
