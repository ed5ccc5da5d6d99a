"""Videos that can be compared: of one length and size, whole, and in chunks that fit each other."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..picture import resize
from .comparison import BRANCH_NAMES, CLEAN, TRUTH
from .video_clip import CHUNK, Clip


def common_length(branches: Mapping[str, Clip], shortest: bool) -> tuple[int, tuple[str, ...]]:
    """Frames to compare, and notes. Raises ValueError for videos without any and, unless `shortest`, of different lengths."""
    lengths = {branch: clip.frames for branch, clip in branches.items()}
    for branch, length in lengths.items():
        if length == 0:
            raise ValueError(f"The {BRANCH_NAMES[branch]} video has no frames: connect one that has.")
    least, lengths_told = min(lengths.values()), ", ".join(f"{BRANCH_NAMES[branch]} {length}" for branch, length in lengths.items())
    if len(set(lengths.values())) == 1:
        return least, ()
    if not shortest:
        raise ValueError(
            f"The videos have different numbers of frames ({lengths_told}): make them with the same settings, "
            'or set "length" to "shortest" to compare the frames that all have.'
        )
    return least, (f"Only the first {least} frames are compared, since the videos have different lengths ({lengths_told}).",)


@dataclass(frozen=True)
class _Resized:
    """A clip, every frame of it resized."""

    clip: Clip
    size: tuple[int, int]

    @property
    def frames(self) -> int:
        return self.clip.frames

    def read(self) -> Iterator[Tensor]:
        with _reading(self.clip) as chunks:
            for chunk in chunks:
                yield resize(chunk, self.size)


def of_one_size(branches: Mapping[str, Clip]) -> tuple[dict[str, Clip], tuple[str, ...]]:
    """The clips, those of another size than the clean one resized to it, and notes that say so.

    A victim whose videos have the size of its picture makes such of a cropped or reduced copy. A true video belongs to none of them:
    raises ValueError where it differs.
    """
    size = branches[CLEAN].size
    if TRUTH in branches and branches[TRUTH].size != size:
        sizes = ", ".join(f"{BRANCH_NAMES[branch]} {clip.size[1]}x{clip.size[0]}" for branch, clip in branches.items())
        raise ValueError(f"The videos have different sizes ({sizes}): make them with the same settings, or resize them to one size first.")
    others = {branch: clip for branch, clip in branches.items() if clip.size != size}
    notes = tuple(
        f"The {BRANCH_NAMES[branch]} video is {clip.size[1]}x{clip.size[0]} and was resized to {size[1]}x{size[0]} to be compared: "
        "measures of pixels hold that too, and say little where the picture was cropped."
        for branch, clip in others.items()
    )
    return {branch: _Resized(clip, size) if branch in others else clip for branch, clip in branches.items()}, notes


def exactly(clip: Clip, branch: str, frames: int) -> Generator[Tensor, None, None]:
    """The first `frames` frames in chunks of CHUNK, the last one shorter, whatever chunks the clip gives.

    Raises ValueError for pixels that are not numbers and for a clip with fewer frames.
    """
    held, done = [], 0
    with _reading(clip) as chunks:
        for chunk in chunks:
            for picture in chunk[: frames - done]:
                held.append(picture)
                done += 1
                if len(held) == CHUNK or done == frames:
                    yield _finite(torch.stack(held), branch, done - len(held))
                    held = []
            if done == frames:
                return
    raise ValueError(f"The {BRANCH_NAMES[branch]} video ends after {done} of {frames} frames: save it again, its file may be damaged.")


@contextlib.contextmanager
def _reading(clip: Clip) -> Iterator[Iterator[Tensor]]:
    """Its frames; a file that they come from is closed in the end, however early that is."""
    chunks = clip.read()
    try:
        yield chunks
    finally:
        if isinstance(chunks, Generator):
            chunks.close()


def _finite(chunk: Tensor, branch: str, first: int) -> Tensor:
    broken = ~torch.isfinite(chunk).flatten(1).all(1)
    if bool(broken.any()):
        raise ValueError(
            f"Frame {first + int(broken.int().argmax()) + 1} of the {BRANCH_NAMES[branch]} video has pixels that are not numbers (NaN or "
            "infinity): look for the node before this one that made them, often a VAE Decode in half precision."
        )
    return chunk
