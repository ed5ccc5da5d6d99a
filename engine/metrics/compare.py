"""A victim's videos measured against each other, all of them read once, in lockstep, a few frames at a time."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..conversions import within
from ..picture import resize, to_levels
from .comparison import BRANCH_NAMES, CHANGED, CLEAN, TRUTH, Comparison, Reading, Row
from .lockstep import common_length, exactly, of_one_size
from .measure import ClipMeasure, Descriptor, Measure, PairMeasure, SetMeasure, Unavailable
from .readings import NOTHING_SEEN, missing, notes_on, reading_of
from .video_clip import CHUNK, Clip, windows

STRIP_FRAMES, STRIP_SIDE = 5, 160
PIXELS_AT_ONCE = 2**19
"""Most pixels that a measure is given at once, of one video, as long as one frame or run has fewer and nobody says how much memory there
is: two frames of 512x512."""


@dataclass(frozen=True)
class Progress:
    """`done` of `total` pieces of work, the last of them `doing`. comparison: with the last piece only."""

    done: int
    total: int
    doing: str
    comparison: Comparison | None = None


def compare(
    branches: Mapping[str, Clip],
    measures: Sequence[Measure | Unavailable],
    *,
    victim: str,
    surrogate: bool = False,
    settings: Mapping[str, object] | None = None,
    shortest: bool = False,
    device: torch.device | None = None,
    memory: float | None = None,
) -> Generator[Progress, None, None]:
    """Measure what one victim made of several pictures; the last Progress holds the Comparison.

    branches: CLEAN and PROTECTED, with NOISE and TRUTH or without. Pair and set measures are taken of the others against CLEAN,
    and of all against TRUTH where it is given, as the papers do; clip measures of each video by itself. device: where the
    measures want the frames; by default they stay where the clips have them. At most CHUNK frames of each video are held, and
    those that a descriptor's unfinished runs need. memory: bytes that a measure may fill with what it is given at once, up to CHUNK
    frames; by default PIXELS_AT_ONCE counts, and large networks see one frame or run at a time. shortest: of videos of different
    lengths, the first frames that all have.

    A measure that raises ValueError is left out from there on, and its readings hold the sentence. Equal frames give a PSNR of
    infinity unless the measure has a limit; the mean is then infinite too, even where a single frame is equal, and has no
    interval. Values that are no numbers stay among the items, and the mean stands on the others.
    Videos of another size than the clean one are resized to it, with a note; a true one is not.
    Raises ValueError for videos without frames, of different lengths, a true one of another size, and pixels that are not numbers.
    """
    frames, notes = common_length(branches, shortest)
    branches, resized = of_one_size(branches)
    run = _Run(branches, measures, frames, device, memory)
    rows: list[Row] = []
    with contextlib.closing(run.steps()) as steps:
        for done, doing in enumerate(steps, 1):
            yield Progress(done, run.total, doing)
    for index, measure in enumerate(measures):
        yield Progress(run.total - len(measures) + index, run.total, measure.name)
        rows += run.rows(measure)
    comparison = Comparison(
        victim=victim,
        surrogate=surrogate,
        frames=frames,
        size=branches[CLEAN].size,
        rows=tuple(rows),
        strips=run.strips,
        strip_indices=run.strip_indices,
        notes=(*notes, *resized, *run.notes(), *notes_on(rows)),
        settings=dict(settings or {}),
    )
    yield Progress(run.total, run.total, "done", comparison)


@dataclass
class _Descriptions:
    """What a network says of one video so far. Of frames it keeps only those that later runs need.

    Here and below, what stays is written into one tensor: many small ones between the frames would keep the memory that frames
    leave from being used again.
    """

    descriptor: Descriptor
    total: int
    memory: float | None
    said: Tensor | None = None
    done: int = 0
    held: Tensor | None = None

    def add(self, chunk: Tensor) -> None:
        one = self.descriptor
        frames = chunk if one.prepare is None else one.prepare(chunk)
        self.held = frames if self.held is None else torch.cat([self.held, frames])
        for runs in windows(iter([self.held]), one.span, one.stride):
            for some in runs.split(_at_once(one, frames, one.span, self.memory)):
                self._keep(one.describe(some))
            self.held = self.held[runs.shape[0] * one.stride :].clone()

    def _keep(self, part: Tensor) -> None:
        if self.said is None:
            self.said = torch.empty(self.total, *part.shape[1:], dtype=self.descriptor.kept)
        self.said[self.done : self.done + part.shape[0]] = part
        self.done += part.shape[0]


class _Run:
    """What has been seen of the videos so far."""

    def __init__(
        self,
        branches: Mapping[str, Clip],
        measures: Sequence[Measure | Unavailable],
        frames: int,
        device: torch.device | None,
        memory: float | None,
    ) -> None:
        self.branches, self.measures, self.frames, self.device, self.memory = branches, measures, frames, device, memory
        others = {CLEAN: [b for b in CHANGED if b in branches], TRUTH: [b for b in (CLEAN, *CHANGED) if b in branches]}
        self.against = {reference: others[reference] for reference in (CLEAN, TRUTH) if reference in branches}
        self.pairs = [measure for measure in measures if isinstance(measure, PairMeasure)]
        # Descriptors of measures that are withheld for want of frames are not computed: of short videos they are most of the work.
        enough = [m for m in measures if isinstance(m, (ClipMeasure, SetMeasure)) and _runs(m.descriptor, frames) >= _least(m)]
        self.descriptors = {measure.descriptor.key: measure.descriptor for measure in enough}
        pairs = [(reference, branch) for reference, others in self.against.items() for branch in others]
        self.values = {(measure.name, *pair): torch.empty(frames) for measure in self.pairs for pair in pairs}
        self.described = {
            (key, branch): _Descriptions(one, _runs(one, frames), memory) for key, one in self.descriptors.items() for branch in branches
        }
        self.failed: dict[object, str] = {}
        self.strip_indices = tuple(dict.fromkeys(torch.linspace(0, frames - 1, min(STRIP_FRAMES, frames)).round().int().tolist()))
        small = within(*branches[CLEAN].size, STRIP_SIDE)
        self.strips = {branch: torch.empty(len(self.strip_indices), 3, *small, dtype=torch.uint8) for branch in branches}
        self.equal = dict.fromkeys(self.against[CLEAN], True)

    @property
    def total(self) -> int:
        chunks = math.ceil(self.frames / CHUNK)
        return chunks * (1 + len(self.pairs) + len(self.descriptors)) + len(self.measures)

    def steps(self) -> Generator[str, None, None]:
        """Reads all videos, and stops after each piece of work to name it."""
        with contextlib.ExitStack() as stack:
            readers = {b: stack.enter_context(contextlib.closing(exactly(clip, b, self.frames))) for b, clip in self.branches.items()}
            first = 0
            for chunks in zip(*readers.values(), strict=True):
                seen = {b: chunk.to(self.device) for b, chunk in zip(readers, chunks, strict=True)}
                self._look(seen, first)
                yield f"frame {first + chunks[0].shape[0]} of {self.frames}"
                for measure in self.pairs:
                    self._unless_failed(measure, partial(self._pair, measure, seen, first))
                    yield measure.name
                for key in self.descriptors:
                    self._unless_failed(key, partial(self._describe, key, seen))
                    yield key
                first += chunks[0].shape[0]

    def _unless_failed(self, what: object, work: Callable[[], None]) -> None:
        if what in self.failed:
            return
        try:
            with torch.no_grad():
                work()
        except ValueError as error:
            self.failed[what] = str(error)

    def _look(self, seen: Mapping[str, Tensor], first: int) -> None:
        for branch, chunk in seen.items():
            for place, index in enumerate(self.strip_indices):
                if first <= index < first + chunk.shape[0]:
                    strip = self.strips[branch]
                    strip[place] = to_levels(resize(chunk[index - first][None], (strip.shape[-2], strip.shape[-1])))[0]
        for branch in self.equal:
            self.equal[branch] &= torch.equal(seen[branch], seen[CLEAN])

    def _pair(self, measure: PairMeasure, seen: Mapping[str, Tensor], first: int) -> None:
        at_once = _at_once(measure, seen[CLEAN], 1, self.memory)
        for start in range(0, seen[CLEAN].shape[0], at_once):
            references: dict[str, Any] = {}
            # References first: what others are compared with is held, and of the others one at a time.
            for branch in sorted(seen, key=(TRUTH, CLEAN, *CHANGED).index):
                saw: Any = seen[branch][start : start + at_once]
                saw = saw if measure.see is None else measure.see(saw)
                for reference, other in references.items():
                    part = measure.compare(other, saw)
                    self.values[measure.name, reference, branch][first + start : first + start + part.shape[0]] = part
                if branch in self.against:
                    references[branch] = saw

    def _describe(self, key: str, seen: Mapping[str, Tensor]) -> None:
        for branch, chunk in seen.items():
            self.described[key, branch].add(chunk)

    def notes(self) -> Iterator[str]:
        for branch, equal in self.equal.items():
            if equal:
                yield f"The {BRANCH_NAMES[branch]} video equals the clean one in every pixel: check that the victim was given two pictures."

    def rows(self, measure: Measure | Unavailable) -> Iterator[Row]:
        """Once all steps are done."""
        if isinstance(measure, Unavailable):
            compared = [branch for branch in self.branches if branch != TRUTH]
            yield Row(measure.name, "", None, "", dict.fromkeys(compared, missing(measure.why)))
        elif isinstance(measure, ClipMeasure):
            readings = {branch: self._of_descriptions(measure, [branch], measure.score) for branch in self.branches}
            yield Row(measure.name, measure.unit, measure.higher, "", readings)
        else:
            for reference, others in self.against.items():
                readings = {branch: self._against(measure, reference, branch) for branch in others}
                yield Row(measure.name, measure.unit, measure.higher, reference, readings)

    def _against(self, measure: PairMeasure | SetMeasure, reference: str, branch: str) -> Reading:
        if isinstance(measure, SetMeasure):
            return self._of_descriptions(measure, [reference, branch], measure.compare)
        if measure in self.failed:
            return missing(self.failed[measure])
        return reading_of(self.values[measure.name, reference, branch])

    def _of_descriptions(self, measure: ClipMeasure | SetMeasure, branches: Sequence[str], take: Callable[..., Tensor]) -> Reading:
        key, count = measure.descriptor.key, _runs(measure.descriptor, self.frames)
        if count < _least(measure):
            return _too_short(measure.descriptor, _least(measure), self.frames)
        if key in self.failed:
            return missing(self.failed[key])
        said = [described for branch in branches if (described := self.described[key, branch].said) is not None]
        try:
            with torch.no_grad():
                values = take(*said)
        except ValueError as error:
            return missing(str(error))
        if values.ndim == 0:
            return missing("the result is not a number.") if bool(values.isnan()) else Reading(float(values), n=count)
        if values.numel():
            return reading_of(values)
        nothing_seen = any(bool(one.isnan().any()) for one in said)
        return missing(NOTHING_SEEN) if nothing_seen else _too_short(measure.descriptor, count + 1, self.frames)


def _least(measure: ClipMeasure | SetMeasure) -> int:
    return max(1, measure.least) if isinstance(measure, SetMeasure) else 1


def _runs(descriptor: Descriptor, frames: int) -> int:
    return max(0, (frames - descriptor.span) // descriptor.stride + 1)


def _too_short(descriptor: Descriptor, least: int, frames: int) -> Reading:
    needed, count = descriptor.span + (least - 1) * descriptor.stride, _runs(descriptor, frames)
    windows_told = "" if descriptor.span == 1 else f" ({least} windows of {descriptor.span}; here are {count})"
    return missing(f"it needs at least {needed} frames{windows_told}, and these videos have {frames}.", n=count)


def _at_once(what: PairMeasure | Descriptor, frames: Tensor, span: int, memory: float | None) -> int:
    """How many runs of such frames [n,...] a measure is given at once."""
    pixels = span * (math.prod(frames.shape[2:]) if frames.ndim > 2 else 1)
    if memory is None:
        return 1 if what.large else max(1, PIXELS_AT_ONCE // pixels)
    return max(1, int(memory // (what.bytes_per_pixel * pixels)))
