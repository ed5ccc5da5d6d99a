from __future__ import annotations

from collections.abc import Iterator

from .folder import Folder, Row


def checks(folder: Folder) -> Iterator[Row]:
    yield from ()
