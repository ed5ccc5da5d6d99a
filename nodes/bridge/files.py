"""Files as ComfyUI itself writes and reads them."""

from __future__ import annotations

import av.error
from comfy.cli_args import args
from torch import Tensor

import nodes


def writes_metadata() -> bool:
    """Whether files may hold a workflow: not where ComfyUI was started with --disable-metadata."""
    return not args.disable_metadata


def loaded_picture(filename: str, subfolder: str) -> Tensor | None:
    """The picture [3,H,W] in [0,1] that ComfyUI's own Load Image makes of a file in the output folder; None where it cannot read it."""
    try:
        images, _ = nodes.LoadImage().load_image(f"{subfolder}/{filename} [output]")
    except av.error.FFmpegError:
        return None
    picture: Tensor = images[0].movedim(-1, 0)
    return picture
