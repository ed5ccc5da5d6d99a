"""What a talking head is told of a face: where it is and where its lips are, and whose it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....engine.animators.talking_head.head import TalkingHead
from ....engine.animators.talking_head.masks import Regions, face_masks
from ....engine.conversions import in_colour
from ....engine.picture import check_finite
from ..autograd import ordinary
from ..evaluate.identity import all_meshes, own_embedding


@dataclass(frozen=True, eq=False)
class Face:
    """picture: [1,3,H,W] in [0,1]. region: where the face is, [1,1,H,W]. embedding: [1,D], zeros where nobody was asked whose it is."""

    picture: Tensor
    region: Tensor
    regions: Regions
    embedding: Tensor


@dataclass(frozen=True, eq=False)
class FaceSockets:
    """Where a face is, from core's face detector or from masks [1,H,W], which count more; and who may be asked whose it is."""

    face_detection_model: Any = None
    face_mask: Tensor | None = None
    lips_mask: Tensor | None = None
    background_mask: Tensor | None = None
    insightface: Any = None

    def face(self, image: Tensor, head: TalkingHead) -> Face:
        """Of the one picture of an IMAGE [1,H,W,C]. Raises ValueError, one sentence, where something is missing or does not fit."""
        if image.shape[0] > 1:
            raise ValueError(f"`image` holds {image.shape[0]} pictures, and one speaks at a time: choose one with Get Image from Batch.")
        # Losses differentiate through what reads these, which inference tensors refuse.
        with torch.inference_mode(False), torch.no_grad():
            picture = in_colour(ordinary(image).movedim(-1, 1)).cpu()
            check_finite(picture)
            region, regions = self._where(picture)
            return Face(picture, region, regions, self._whose(picture, head.face_dim))

    def _where(self, picture: Tensor) -> tuple[Tensor, Regions]:
        height, width = picture.shape[-2:]
        if any(mask is not None for mask in (self.face_mask, self.lips_mask, self.background_mask)):
            return self._masked(height, width)
        if self.face_detection_model is None:
            raise ValueError(
                "Nothing says where the face is: connect Load Face Detection Model (MediaPipe) to face_detection_model, or masks to face_mask "
                "and lips_mask."
            )
        found = face_masks(all_meshes(self.face_detection_model, picture), height, width)
        return found.region, found.regions

    def _masked(self, height: int, width: int) -> tuple[Tensor, Regions]:
        if self.face_mask is None or self.lips_mask is None:
            missing = "face_mask" if self.face_mask is None else "lips_mask"
            raise ValueError(f"The talking head is told where the face is and where the lips are: connect {missing} too.")
        face, lips = (_mask(name, mask, height, width) for name, mask in (("face_mask", self.face_mask), ("lips_mask", self.lips_mask)))
        for name, mask in (("face_mask", face), ("lips_mask", lips)):
            if not bool(mask.any()):
                raise ValueError(f"`{name}` is black and says nothing: paint the {name.partition('_')[0]} white in it.")
        background = 1 - face if self.background_mask is None else _mask("background_mask", self.background_mask, height, width)
        return face[None], Regions(torch.cat([background, (face - lips).clamp_min(0), lips]))

    def _whose(self, picture: Tensor, numbers: int) -> Tensor:
        if self.insightface is None:
            return torch.zeros(1, numbers)
        embedding = own_embedding(self.insightface, picture)
        if embedding is None:
            raise ValueError("InsightFace found no face in the picture: disconnect insightface, or use a picture with a larger face.")
        if len(embedding) != numbers:
            raise ValueError(
                f"InsightFace gives {len(embedding)} numbers for a face and the talking head reads {numbers}: load antelopev2, as Hallo does."
            )
        return embedding[None]


def _mask(name: str, mask: Tensor, height: int, width: int) -> Tensor:
    """[1,H,W] in [0,1]."""
    if mask.shape[0] != 1:
        raise ValueError(f"`{name}` holds {mask.shape[0]} masks for one picture: give one.")
    if mask.shape[-2:] != (height, width):
        raise ValueError(
            f"`{name}` is {mask.shape[-1]}x{mask.shape[-2]} but the picture is {width}x{height}: give a mask of the picture's size."
        )
    return ordinary(mask).cpu().clamp(0, 1)
