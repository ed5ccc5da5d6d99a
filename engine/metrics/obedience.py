"""Obedience: the share of the change that a driving signal makes in the clean picture's video that also reaches another picture's video.

Of a signal s of a frame (its pixels, or how far the mouth is open), with bars for means over the frames, it is

    sum_t <s(A_t) - mean s(A), s(C_t) - mean s(C)> / sum_t |s(C_t) - mean s(C)|^2,

the slope of the regression of the other video's change on the clean one's: 1 for a face that obeys, 0 for one that does not, frozen or
busy with something else. What is the same in all frames, such as a perturbation that shows or a constant smear, cancels. It is not
clipped: a face that overdoes the movement has more than 1, one that does the opposite less than 0.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ..conversions import within
from ..picture import LEVELS, resize
from .landmarks import POINTS, FindLandmarks, landmarks_of
from .measure import SHARE, Descriptor, SetMeasure

SIDE = 128
"""Pixels of the longer side at which frames are compared: a mouth is still several pixels wide, and a thousand frames fit into memory."""

ROUNDING = 0.5 / LEVELS
"""The most that rounding to 8 bits changes a pixel of [0,1]. A video that changes less, as a root mean square, does not move."""

HALF_PIXEL = 0.5
"""The same for landmarks, in pixels: they are found no better than that."""

_FRAMES_AT_ONCE = 16

Signal = Callable[[Tensor], Tensor]
"""Landmarks [N,68,2] -> what of them the driving moves, in pixels, [N,D]."""


def obedience(clean: Tensor, other: Tensor) -> Tensor:
    """Obedience of the video `other` to the driving of `clean`, both [N,C,H,W] in [0,1] of pixels at SIDE, by frame, [N] fp64 on the CPU.

    Values are <A_t - mean A, C_t - mean C> over the mean of |C_t - mean C|^2, so that their mean is the figure.
    Raises ValueError for videos of different shapes, and where the clean one moves less than ROUNDING.
    """
    if clean.shape != other.shape:
        raise ValueError(f"The videos have shapes {tuple(clean.shape)} and {tuple(other.shape)}: give videos of one size and length.")
    return share_of_change(small_pixels(clean), small_pixels(other), least=ROUNDING)


def share_of_change(clean: Tensor, other: Tensor, *, least: float, moved: str = "face") -> Tensor:
    """The same of signals [N,D], [N]. NaN where either has NaN, which is to say no face; means are over the other frames.

    least: root mean square of the clean signal's change below which it does not move. moved: what the driving should move then, for
    the sentence. Raises ValueError in that case.
    """
    return _shares(clean, other, least, moved)[0]


def share_by_frame(clean: Tensor, other: Tensor, *, least: float, moved: str = "face") -> Tensor:
    """Values with the mean of `share_of_change`, of which the interval of a mean can be taken, [N].

    The plain ones are large where the clean video is far from its mean and 0 where it is near: an interval of their mean would speak of
    how evenly it moves, and be wide for a face that obeys exactly. These are the linear form of a ratio of means (Cochran 1977,
    section 6.3), value_t - obedience (|C_t - mean C|^2 / its mean - 1), and are all equal for such a face.
    """
    values, own = _shares(clean, other, least, moved)
    return values - values.nanmean() * (own - 1)


def small_pixels(frames: Tensor) -> Tensor:
    """[N,C,H,W] -> pixels at SIDE or below, [N,D]."""
    return resize(frames, within(int(frames.shape[-2]), int(frames.shape[-1]), SIDE)).flatten(1)


def mouth_opening(points: Tensor) -> Tensor:
    """Mean distance between the inner lips in three places, [N,68,2] -> [N,1]."""
    return _distance(points, (61, 62, 63), (67, 66, 65))


def eye_opening(points: Tensor) -> Tensor:
    """Mean distance between the lids of each eye in two places, [N,68,2] -> [N,2]."""
    return torch.cat([_distance(points, (37, 38), (41, 40)), _distance(points, (43, 44), (47, 46))], 1)


def head_turn(points: Tensor) -> Tensor:
    """How far the tip of the nose lies from the middle between the eyes, along the line through both, [N,68,2] -> [N,1]."""
    first, second = _eyes(points)
    along = (second - first) / (second - first).norm(dim=1, keepdim=True)
    turned: Tensor = ((points[:, 30] - (first + second) / 2) * along).sum(1, keepdim=True)
    return turned


def obedience_measure() -> SetMeasure:
    """Obedience by pixels. Half precision is kept of them, whose rounding is an eighth of a level at most."""
    descriptor = Descriptor("small pixels", lambda runs: small_pixels(runs[:, 0]).half(), bytes_per_pixel=64, kept=torch.float16)
    return _measure("Obedience", descriptor, partial(share_by_frame, least=ROUNDING))


def face_obedience_measures(find: FindLandmarks) -> tuple[SetMeasure, ...]:
    """Obedience of mouth, eyes and head, which share the landmarks with landmark_measures; in units of the distance of the eyes."""
    return tuple(
        _measure(f"Obedience, {part}", landmarks_of(find), partial(_of_landmarks, signal=signal, moved=part))
        for part, signal in (("mouth", mouth_opening), ("eyes", eye_opening), ("head", head_turn))
    )


def _measure(name: str, descriptor: Descriptor, compare: Callable[[Tensor, Tensor], Tensor]) -> SetMeasure:
    return SetMeasure(name, SHARE, "more obedient", descriptor, compare, least=2)


def _of_landmarks(clean: Tensor, other: Tensor, *, signal: Signal, moved: str) -> Tensor:
    """Of landmarks [N,136]."""
    first, second = (points.double().unflatten(1, (POINTS, 2)) for points in (clean, other))
    sizes = [_between_eyes(points) for points in (first, second)]
    least = HALF_PIXEL / float(sizes[0].nanmedian())
    return share_by_frame(signal(first) / sizes[0], signal(second) / sizes[1], least=least, moved=moved)


def _shares(clean: Tensor, other: Tensor, least: float, moved: str) -> tuple[Tensor, Tensor]:
    """<A_t - mean A, C_t - mean C> and |C_t - mean C|^2, both over the mean of the latter, [N] fp64 each."""
    seen = (~(clean.isnan() | other.isnan()).any(1)).nonzero().flatten().cpu()
    both, own = torch.full((2, len(clean)), float("nan"), dtype=torch.float64)
    # A few frames at a time: in double precision a long video's pixels are many times what is held of them.
    runs = seen.split(_FRAMES_AT_ONCE)
    means = [sum(_some(signal, run).sum(0) for run in runs) / max(1, len(seen)) for signal in (clean, other)]
    for run in runs:
        first, second = (_some(signal, run) - mean for signal, mean in zip((clean, other), means, strict=True))
        both[run], own[run] = (first * second).sum(1), first.square().sum(1)
    scale = own.nanmean()
    if bool(scale < clean.shape[1] * least**2):
        raise ValueError(
            f"There is nothing to obey, since the video that is compared with hardly moves: use a driving that moves the {moved}."
        )
    return both / scale, own / scale


def _some(signal: Tensor, frames: Tensor) -> Tensor:
    return signal[frames.to(signal.device)].cpu().double()


def _distance(points: Tensor, above: tuple[int, ...], below: tuple[int, ...]) -> Tensor:
    lengths: Tensor = (points[:, list(above)] - points[:, list(below)]).norm(dim=2)
    return lengths.mean(1, keepdim=True)


def _eyes(points: Tensor) -> tuple[Tensor, Tensor]:
    """Centres of both, [N,2] each."""
    return points[:, 36:42].mean(1), points[:, 42:48].mean(1)


def _between_eyes(points: Tensor) -> Tensor:
    """Distance of the eyes' centres, [N,1]; NaN for none."""
    first, second = _eyes(points)
    distance: Tensor = (second - first).norm(dim=1, keepdim=True)
    # Where both eyes fall on one point a detector found no face, whatever it says.
    return distance.where(distance > 0, float("nan"))
