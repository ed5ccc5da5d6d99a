"""Files as ComfyUI itself writes and reads them."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Mapping
from pathlib import Path

import av.error
import folder_paths
from comfy.cli_args import args
from torch import Tensor

import nodes

from ...engine.files import write_new


def writes_metadata() -> bool:
    """Whether files may hold a workflow: not where ComfyUI was started with --disable-metadata."""
    return not args.disable_metadata


def loaded_picture(filename: str, subfolder: str) -> Tensor | None:
    """The picture [3,H,W] in [0,1] that ComfyUI's own Load Image makes of a file in the output folder; None where it cannot read it."""
    try:
        # Not "/name", which is a place outside, where there is no folder.
        place = f"{subfolder}/{filename}" if subfolder else filename
        images, _ = nodes.LoadImage().load_image(f"{place} [output]")
    except av.error.FFmpegError:
        return None
    picture: Tensor = images[0].movedim(-1, 0)
    return picture


def write_numbered(prefix: str, files: Mapping[str, bytes], *, width: int = 0, height: int = 0) -> list[dict[str, str]]:
    """Write files, by their endings, below ComfyUI's output folder under the first number that is free for all of them.

    Returns what ComfyUI's page needs to find each. Raises ValueError for a name that no file can have, and what folder_paths raises for
    a prefix that leads out of the folder.
    """
    try:
        return _write_numbered(prefix, files, width, height)
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ENAMETOOLONG, errno.EINVAL):
            raise
        shown = prefix if len(prefix) <= 60 else f"{prefix[:60]}..."
        raise ValueError(
            f"No file can be called {ascii(shown)[1:-1]}, which is too long or has characters that names cannot have: "
            "choose another filename_prefix."
        ) from error


def _write_numbered(prefix: str, files: Mapping[str, bytes], width: int, height: int) -> list[dict[str, str]]:
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, folder_paths.get_output_directory(), width, height)
    paths: dict[str, Path] = {}
    while not paths:
        numbered = {ending: Path(folder) / f"{name}_{counter:05}_.{ending}" for ending in files}
        if not any(path.exists() for path in numbered.values()):
            # Another process may take the number in between; what was written by then stays, and all is written under the next.
            with contextlib.suppress(FileExistsError):
                for ending, path in numbered.items():
                    write_new(path, files[ending])
                paths = numbered
        counter += 1
    for ending, path in paths.items():
        if path.read_bytes() != files[ending]:
            raise OSError(f"{path.name} reads back differently from what was written: check the disk of the output folder.")
    return [{"filename": path.name, "subfolder": subfolder, "type": "output"} for path in paths.values()]
