"""FVD and FID-VID: Fréchet distances between sets of runs of 16 frames, prepared and cut as DisCo's evaluation does it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..picture import LEVELS, resize
from .frechet import frechet_distance
from .measure import Descriptor, SetMeasure
from .networks import i3d, resnet3d

SPAN = 16
"""Frames of a run."""

FVD_LEAST, FID_VID_LEAST = 401, 2049
"""Runs below which FVD and FID-VID are withheld: the covariances of 400 logits and of 2048 features have full rank only from these
numbers on. Runs from every frame overlap, so that those of one video count for far fewer; papers take ten videos of 200 frames."""

# Of a run, in fp32. I3D takes 89 and the 3-D ResNet 128 to 272 of activations, measured; the rest is for what kernels work with.
_BYTES_PER_PIXEL = 400

# Of Kinetics, in levels: kenshohara's network was trained with it, and without a division.
_MEAN = (114.7748, 107.7354, 99.4750)


def fvd_frames(frames: Tensor) -> Tensor:
    """[n,3,H,W] in [0,1] -> [n,3,224,224] as I3D takes them: squashed, in about [-1,1]; the filter overshoots and nothing is clipped."""
    return _squash(frames, i3d.SIDE) / 127.5 - 1


def fid_vid_frames(frames: Tensor) -> Tensor:
    """[n,3,H,W] in [0,1] -> [n,3,112,112] as the 3-D ResNet takes them: squashed, in levels less the mean colour of Kinetics."""
    return _squash(frames, resnet3d.SIDE) - torch.tensor(_MEAN, device=frames.device).view(3, 1, 1)


def _squash(frames: Tensor, side: int) -> Tensor:
    """To levels of a square. PyTorch's antialiased bicubic filter is Pillow's, which DisCo's evaluation uses on each channel in float."""
    return resize(frames.float() * LEVELS, (side, side), by="bicubic")


def whole_runs(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Of the files of single frames: the names of every run of 16 whose frames all exist, in order.

    A name is a prefix, a frame number with its leading zeros, and an ending: dance_0007.png. Runs cross neither a gap in the
    numbers nor the border between two prefixes. Names without a number raise ValueError, where DisCo drops them.
    """
    existing, runs = set(names), []
    for name in sorted(existing):
        parts = re.fullmatch(r"(.*?)(\d+)(\D*)", name, re.DOTALL)
        if parts is None:
            raise ValueError(f"The file name {name} holds no frame number: name the frames like clip_0001.png.")
        prefix, digits, ending = parts.groups()
        run = tuple(f"{prefix}{int(digits) + step:0{len(digits)}d}{ending}" for step in range(SPAN))
        if existing.issuperset(run):
            runs.append(run)
    return runs


def segments(frames: Tensor) -> Tensor:
    """[N,...] -> [ceil(N/16),16,...]: neighbouring runs without overlap, the last frame repeated to fill the last one.

    This is how DisCo's evaluation cuts video files (not folders of frames) for FID-VID; it then averages the features of each file.
    For FVD it takes each file whole, as one run.
    """
    missing = -frames.shape[0] % SPAN
    filled = torch.cat([frames, frames[-1:].expand(missing, *frames.shape[1:])])
    return filled.view(-1, SPAN, *frames.shape[1:])


def _described(key: str, network: nn.Module, prepare: Callable[[Tensor], Tensor]) -> Descriptor:
    def describe(runs: Tensor) -> Tensor:
        described: Tensor = network(runs.movedim(1, 2))
        return described

    # One at a time where the memory is not known: the first layers of several would fill it.
    return Descriptor(key, describe, SPAN, 1, prepare, _BYTES_PER_PIXEL, large=True)


def fvd_measure(network: i3d.I3D) -> SetMeasure:
    """FVD (Unterthiner et al. 2019) over I3D's logits. Frames must be on the network's device."""
    described = _described("I3D logits", network, fvd_frames)
    return SetMeasure("FVD", "", "less alike", described, frechet_distance, FVD_LEAST)


def fid_vid_measure(network: resnet3d.ResNet3D) -> SetMeasure:
    """FID-VID over the features of a 3-D ResNet-50. Frames must be on the network's device."""
    described = _described("3-D ResNet-50", network, fid_vid_frames)
    return SetMeasure("FID-VID", "", "less alike", described, frechet_distance, FID_VID_LEAST)
