"""A photo framed for the face animator inside ComfyUI: who is on it, where the head is, and what the user should know of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.utils
import torch
from torch import Tensor

from ....engine.animators.face.animator import FACE, SIDE
from ....engine.animators.face.framing import HEAD, Framing, around_head, around_landmarks, in_square, nudged, whole
from ....engine.conversions import in_colour, on_white
from ....engine.picture import check_finite, split_alpha
from ..autograd import ordinary
from ..evaluate.identity import all_faces
from ..progress import PREVIEW_SIDE, preview_picture

BY_HAND = 'crop the photo, or choose "head box" or "by hand" and say where the head is'
# Shares of a square that its edges, which are soft, do not reach.
_LITTLE, _NEARLY_ALL = 0.1, 0.98


@dataclass(frozen=True)
class Placed:
    """A framing, and points of the photo [n,2] (x, y) that the face animator should see: the face's landmarks or the head's corners."""

    framing: Framing
    points: Tensor


Place = Callable[[Tensor, Tensor], Placed]
"""(photo [1,3,H,W], mask [1,1,H,W]) -> where the square lies."""


@dataclass(frozen=True)
class Framed:
    """picture: IMAGE [1,512,512,4]. told: for the user, with warnings."""

    picture: Tensor
    framing: Framing
    working_size: int
    told: str


def frame_portrait(
    image: Tensor, mask: Tensor | None, place: Place, *, right: float, down: float, size: float, node_id: str | None
) -> Framed:
    """IMAGE [1,H,W,C] and MASK [1,H,W] of the person, or its alpha where there is no mask. right, down, size: see engine's `nudged`.

    Raises ValueError, one sentence, for pictures and masks that cannot be framed, and what `place` raises.
    """
    # The framing is used with gradients later, which inference tensors refuse.
    with torch.inference_mode(False), torch.no_grad():
        photo, person = _photo_and_person(ordinary(image), None if mask is None else ordinary(mask))
        placed = place(photo, person)
        framing = nudged(placed.framing, right=right, down=down, size=size)
        picture = torch.cat([framing.crop(photo), framing.crop(person)], dim=1)
        _check_person(picture[:, 3:])
        comfy.utils.ProgressBar(1, node_id=node_id).update_absolute(1, preview=("JPEG", preview_picture(on_white(picture)), PREVIEW_SIDE))
        # Protect takes multiples of 8, of 64 and more.
        working_size = max(64, -(-framing.working_size // 8) * 8)
        told = [_where(framing, working_size), *_warnings(framing, picture, placed.points)]
        return Framed(picture.movedim(1, -1), framing, working_size, "\n".join(told))


def by_landmarks(detector: Any) -> Place:
    """By the one face inside the mask, as core's face detector finds it."""

    def place(photo: Tensor, person: Tensor) -> Placed:
        faces = [face for face in all_faces(detector, photo) if _inside(face, person)]
        if not faces:
            raise ValueError(f"No face was found where the mask is white: {BY_HAND}.")
        if len(faces) > 1:
            raise ValueError(f"{len(faces)} faces were found where the mask is white: mask one person alone, {BY_HAND}.")
        return Placed(around_landmarks(faces[0], person, _size(photo)), faces[0])

    return place


def by_box(left: float, top: float, width: float, height: float) -> Place:
    """By the whole head's box, in pixels of the photo."""

    def place(photo: Tensor, person: Tensor) -> Placed:
        box = (left, top, left + width, top + height)
        return Placed(around_head(box, person, _size(photo)), torch.tensor([box[:2], box[2:]]))

    return place


def by_hand(x: float, y: float, height: float) -> Place:
    """By the head's middle in shares of the photo's sides, and its height in shares of the photo's height."""

    def place(photo: Tensor, person: Tensor) -> Placed:
        tall, wide = _size(photo)
        side = height * tall
        return by_box(x * wide - side / 2, y * tall - side / 2, side, side)(photo, person)

    return place


def already_framed(photo: Tensor, person: Tensor) -> Placed:
    tall, wide = _size(photo)
    if tall != wide:
        raise ValueError(f"The picture is {wide}x{tall} and a framed one is square: choose another `place`.")
    return Placed(whole(person, (tall, wide)), torch.zeros(0, 2))


def _photo_and_person(image: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """[1,3,H,W] and [1,1,H,W]."""
    if image.shape[0] > 1:
        raise ValueError(f"`image` holds {image.shape[0]} pictures, and one is framed at a time: choose one with Get Image from Batch.")
    picture = image.movedim(-1, 1)
    check_finite(picture)
    alpha = split_alpha(picture)[1]
    if mask is None and alpha is None:
        raise ValueError(
            "The picture has neither a mask nor transparency, so that nothing says where the person is: connect a mask that is white on "
            "the person and black elsewhere."
        )
    person = alpha if mask is None else mask[:, None]
    assert person is not None
    if person.shape[0] > 1:
        raise ValueError(f"There are {person.shape[0]} masks for one picture: give one.")
    if person.shape[-2:] != picture.shape[-2:]:
        raise ValueError(
            f"The mask is {person.shape[-1]}x{person.shape[-2]} but the picture is {picture.shape[-1]}x{picture.shape[-2]}: give one of "
            "the picture's size (Load Image gives an empty 64x64 mask for a picture without transparency: paint one there)."
        )
    return in_colour(picture), person.clamp(0, 1)


def _size(photo: Tensor) -> tuple[int, int]:
    return photo.shape[-2], photo.shape[-1]


def _inside(face: Tensor, person: Tensor) -> bool:
    """Whether the middle of a face's landmarks lies where the mask is white."""
    x, y = face.mean(0).tolist()
    height, width = _size(person)
    return 0 <= x < width and 0 <= y < height and float(person[0, 0, int(y), int(x)]) > 0.5


def _check_person(mask: Tensor) -> None:
    left, top, right, bottom = (int(edge) for edge in HEAD)
    if float(mask[..., top:bottom, left:right].mean()) < _LITTLE:
        raise ValueError(
            "The mask is black where the head would be: invert it if it marks the background, as Load Image's does, or move the head."
        )


def _where(framing: Framing, working_size: int) -> str:
    (x, y), scale = framing.centre, framing.side / SIDE
    left, top = x - framing.side / 2, y - framing.side / 2
    head = (left + HEAD[0] * scale, top + HEAD[1] * scale, left + HEAD[2] * scale, top + HEAD[3] * scale)
    height, width = framing.size
    return (
        f"The head is taken to be from {head[0]:.0f} to {head[2]:.0f} across and from {head[1]:.0f} to {head[3]:.0f} down, in a square of "
        f"{framing.side:.0f} pixels on a photo of {width}x{height}; working_size {working_size}."
    )


def _warnings(framing: Framing, picture: Tensor, points: Tensor) -> list[str]:
    found = []
    rows, columns = FACE
    x, y = in_square(framing, points).unbind(1)
    if bool(((x < columns.start) | (x > columns.stop) | (y < rows.start) | (y > rows.stop)).any()):
        found.append("A part of the face lies outside of where the animator looks for it: move it back, or make it smaller.")
    if framing.side < SIDE:
        found.append(f"The square has {framing.side:.0f} pixels of the photo and is enlarged to {SIDE}: a larger photo would be sharper.")
    if float(picture[:, 3].mean()) > _NEARLY_ALL:
        found.append("Nothing is cut away, so that the background moves with the person: mask the person alone.")
    return found
