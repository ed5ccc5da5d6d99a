"""Filling the cache, also when several processes want to fill it at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from filelock import FileLock


def filled(target: Path, write: Callable[[Path], object]) -> Path:
    """The file or folder `target`. Where it is missing `write` makes it, under another path, so that it is there whole or not at all.

    Who comes while another process makes it waits and takes what that one made.
    """
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f"{target.name}.lock")):
        if not target.exists():
            with TemporaryDirectory(dir=target.parent) as folder:
                write(Path(folder, target.name))
                Path(folder, target.name).replace(target)
    return target
