"""The face animator whole: from a framed portrait and poses to frames, and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...weights.filling import State, fill, on_meta
from ...weights.reading import WeightsError, read_weights
from .networks import BODY_POSE, EYEBROW_POSE, FACE_POSE, Editor, EyebrowCombiner, EyebrowDecomposer, Face, FaceMorpher, Rotation, Rotator

SIDE = 512
"""Of the framed portrait and of the frames, in pixels."""

# Rows and columns of the framed portrait that the networks for eyebrows and face see.
_EYEBROWS = (slice(64, 192), slice(192, 320))
FACE = (slice(32, 224), slice(160, 352))


@dataclass(frozen=True)
class Stages:
    """What the animator makes on the way to one frame for each pose, all with B rows; `rotation` of the portrait with its new face.

    eyebrows: [B,4,128,128]. face: see Face. posed: the portrait with the new face [B,4,512,512]. rotation: see Rotation.
    """

    eyebrows: Tensor
    face: Face
    posed: Tensor
    rotation: Rotation


class FaceAnimator(nn.Module):
    """The five networks, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.eyebrow_decomposer, self.eyebrow_morphing_combiner = EyebrowDecomposer(), EyebrowCombiner()
        self.face_morpher, self.two_algo_face_body_rotator, self.editor = FaceMorpher(), Rotator(), Editor()

    def stages(self, portrait: Tensor, poses: Tensor) -> Stages:
        """portrait: `as_network` of a framed one, [1 or B,4,512,512]. poses: [B,45], see `poses.NAMES`.

        All but the editor, which an attack on the rest does without. Raises ValueError for other sizes.
        """
        if portrait.shape[1:] != (4, SIDE, SIDE):
            raise ValueError(f"The portrait is {portrait.shape[3]}x{portrait.shape[2]}: frame it to {SIDE}x{SIDE} with transparency first.")
        count = len(poses)
        background, eyebrows = self.eyebrow_decomposer(portrait[:, :, *_EYEBROWS])
        layers = (layer.expand(count, -1, -1, -1) for layer in (background, eyebrows))
        brows = self.eyebrow_morphing_combiner(*layers, poses[:, EYEBROW_POSE])
        portrait = portrait.expand(count, -1, -1, -1)
        inner = (slice(_EYEBROWS[axis].start - FACE[axis].start, _EYEBROWS[axis].stop - FACE[axis].start) for axis in (0, 1))
        face = self.face_morpher(_pasted(portrait[:, :, *FACE], brows, *inner), poses[:, FACE_POSE])
        posed = _pasted(portrait, face.picture, *FACE)
        rotation = self.two_algo_face_body_rotator(_resized(posed, SIDE // 2), poses[:, BODY_POSE])
        return Stages(brows, face, posed, rotation)

    def frames(self, stages: Stages, poses: Tensor) -> Tensor:
        """[B,4,512,512] in the network's range; `as_picture` leads back."""
        rough, field = (_resized(half, SIDE) for half in (stages.rotation.warped, stages.rotation.field))
        frames: Tensor = self.editor(stages.posed, rough, field, poses[:, BODY_POSE])
        return frames

    def forward(self, portrait: Tensor, poses: Tensor) -> Tensor:
        return self.frames(self.stages(portrait, poses), poses)


def as_network(colours: Tensor, alpha: Tensor) -> Tensor:
    """sRGB [B,3,H,W] in [0,1] and alpha [1 or B,1,H,W] in [0,1] -> what the networks read, [B,4,H,W] in [-1,1].

    Colours become linear, and black (0, which is -1) where alpha is 0. Differentiable in both.
    """
    linear = torch.where(colours <= 0.04045, colours / 12.92, ((colours.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4)
    return torch.cat([torch.where(alpha > 0, linear, 0), alpha.expand(len(colours), -1, -1, -1)], dim=1) * 2 - 1


def as_picture(made: Tensor) -> Tensor:
    """The reverse: [B,4,H,W] in [-1,1] -> sRGB and alpha in [0,1]."""
    linear, alpha = ((made + 1) / 2).clamp(0, 1).split([3, 1], dim=1)
    curve = 1.055 * linear.clamp_min(0.0031308) ** (1 / 2.4) - 0.055
    return torch.cat([torch.where(linear <= 0.0031308, linear * 12.92, curve), alpha], dim=1)


def load_face_animator(files: Mapping[str, Path] | Path) -> FaceAnimator:
    """The animator from its five files by name of the network, or from one safetensors file of all: frozen, eval mode, fp32, on the CPU.

    Always in fp32: it is small, and the places that its fields point to are finer than half precision has numbers.
    Raises WeightsError, one sentence, for a file that is not its own.
    """
    animator = cast(FaceAnimator, on_meta(FaceAnimator))
    if isinstance(files, Path):
        fill(animator, read_weights(files), torch.float32, name=files.name, what="the face animator")
        return animator
    state: State = {}
    for name, network in animator.named_children():
        part = read_weights(files[name])
        # Names and shapes of each file by itself, so that the sentence says which of the five is another's.
        fill(network, part, torch.float32, name=files[name].name, what=f"the face animator's {name}")
        state |= {f"{name}.{key}": tensor for key, tensor in part.items()}
    return animator.eval().requires_grad_(False)


def _pasted(whole: Tensor, part: Tensor, rows: slice, columns: slice) -> Tensor:
    copy = whole.clone()
    copy[:, :, rows, columns] = part
    return copy


def _resized(picture: Tensor, side: int) -> Tensor:
    return F.interpolate(picture, size=(side, side), mode="bilinear", align_corners=False)


__all__ = ["FACE", "SIDE", "FaceAnimator", "Stages", "WeightsError", "as_network", "as_picture", "load_face_animator"]
