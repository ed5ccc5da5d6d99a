"""Frames of a video file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import av
import torch
from torch import Tensor


def video_frames(path: Path, indices: Iterable[int]) -> Tensor:
    """[N,3,H,W] in [0,1], in order."""
    wanted = sorted(indices)
    with av.open(str(path)) as container:
        pictures = {}
        for index, frame in enumerate(container.decode(video=0)):
            if index in wanted:
                pictures[index] = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1).float() / 255
            if index == wanted[-1]:
                break
    return torch.stack([pictures[index] for index in wanted])
