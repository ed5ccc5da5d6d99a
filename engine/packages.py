"""Packages that only some networks need. They are imported where one is built: ComfyUI's start does not wait for them, and a broken one
takes no other node down."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class PackageError(ImportError):
    """A package that cannot be imported. The message is one sentence that names it and says what to do."""


@contextlib.contextmanager
def needed(package: str) -> Iterator[None]:
    """Around imports from `package`. Raises PackageError where they fail."""
    try:
        yield
    # Not ImportError alone: a package that does not fit its neighbours fails with whatever its own code meets.
    except Exception as error:
        why = str(error).strip().partition("\n")[0].rstrip(".:") or type(error).__name__
        raise PackageError(
            f"The Python package {package} is missing or broken ({why}): run `pip install -U {package}` with ComfyUI's own Python and "
            "restart ComfyUI."
        ) from error
