"""The face animator run as a victim inside ComfyUI."""

from __future__ import annotations

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ....engine.animators.face.animator import SIDE, as_network, as_picture
from ....engine.animators.face.framing import Framing
from ....engine.conversions import in_colour, on_white
from ....engine.picture import check_finite
from ..autograd import ordinary
from ..memory.devices import whole
from ..progress import PREVIEW_SIDE, preview_picture
from ..surrogates.face_animator import LoadedFaceAnimator

# By how much the aspect of a copy may differ: sides that were rounded to multiples of 8.
_ROUNDED = 0.05


def animate_face(
    image: Tensor, framing: Framing | None, loaded: LoadedFaceAnimator, poses: Tensor, *, transparent: bool, node_id: str | None
) -> Tensor:
    """IMAGE [1,H,W,C] and poses [N,45] -> IMAGE [N,512,512,3] on white, or with alpha [N,512,512,4].

    framing: of the photo whose copy, of any size, the picture is; without one the picture is framed. Raises ValueError for other
    pictures, ComfyUI's interruption when cancelled, which is seen between frames.
    """
    _check(image, framing)
    device = loaded.patcher.load_device
    # On the CPU nobody asks for room, and to count it takes a moment.
    room = 0.0 if device.type == "cpu" else loaded.memory_required()
    # Out of inference mode: weights that are moved in it could not be differentiated through later.
    with torch.inference_mode(False), torch.no_grad(), whole([loaded.patcher], room=room):
        picture = ordinary(image).movedim(-1, 1).to(device)
        portrait = as_network(picture[:, :3], picture[:, 3:]) if framing is None else framing.portrait(in_colour(picture))
        return _frames(loaded, portrait, poses, transparent=transparent, node_id=node_id).movedim(1, -1)


def _frames(loaded: LoadedFaceAnimator, portrait: Tensor, poses: Tensor, *, transparent: bool, node_id: str | None) -> Tensor:
    out = comfy.model_management.intermediate_device()
    frames = torch.empty(len(poses), 4 if transparent else 3, SIDE, SIDE, device=out)
    bar = comfy.utils.ProgressBar(len(poses), node_id=node_id)
    made: dict[tuple[float, ...], int] = {}
    for index, pose in enumerate(poses):
        comfy.model_management.throw_exception_if_processing_interrupted()
        # Motions come back through the poses that they went through.
        first = made.setdefault(tuple(pose.tolist()), index)
        if first == index:
            frame = as_picture(loaded.animator(portrait, pose[None].to(portrait.device)))
            frames[index] = (frame if transparent else on_white(frame))[0].to(out)
        else:
            frames[index] = frames[first]
        shown = on_white(frames[index][None]) if transparent else frames[index][None]
        bar.update_absolute(index + 1, preview=("JPEG", preview_picture(shown), PREVIEW_SIDE))
    return frames


def _check(image: Tensor, framing: Framing | None) -> None:
    count, height, width, channels = image.shape
    if count > 1:
        raise ValueError(f"`image` holds {count} pictures, and one is animated at a time: choose one with Get Image from Batch.")
    check_finite(image)
    if framing is None and (height, width, channels) != (SIDE, SIDE, 4):
        kind = "with" if channels == 4 else "without"
        raise ValueError(
            f"The picture is {width}x{height} {kind} transparency, and the animator reads {SIDE}x{SIDE} with it: connect `framing` of "
            "Frame Portrait, or its `framed` picture."
        )
    if framing is not None:
        tall, wide = framing.size
        if abs(width * tall / (height * wide) - 1) > _ROUNDED:
            raise ValueError(
                f"The picture is {width}x{height} and the framed one was {wide}x{tall}, which is another shape: connect the picture that "
                "went into Frame Portrait, or its protected copy uncropped."
            )
