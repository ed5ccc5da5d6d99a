"""The files that nodes can use: what they are, where upstream publishes them, where they belong."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

# The laboratory's networks, which ship with the pack: those that a loss may be pointed at, and those that must never be.
LAB, VICTIMS = Path(__file__).parent / "lab", Path(__file__).parent / "victims"


@dataclass(frozen=True)
class Entry:
    """One file of catalogue.toml. `file` is the name that we write, `also` are names under which upstream's file is taken too.

    sha256: of what `source` gives, where that is known.
    """

    file: str
    folder: str
    what: str
    source: str
    size_mb: int
    licence: str
    keys: tuple[str, ...]
    also: tuple[str, ...] = ()
    sha256: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        return (self.file, *self.also)

    def missing(self) -> str:
        """The sentence for a user who does not have the file."""
        if self.source.startswith("ships"):
            return f"The file {self.file} is missing ({self.what}): restore it in the pack's folder, as it came."
        return (
            f"The file {' or '.join(self.names[:2])} is missing ({self.what}): download it from {self.source} "
            f"({self.size_mb} MB) and put it into ComfyUI's models/{self.folder} folder."
        )


@cache
def catalogue() -> dict[str, Entry]:
    """All entries by name."""
    with (Path(__file__).parent / "catalogue.toml").open("rb") as file:
        entries = tomllib.load(file)
    return {name: _entry(fields) for name, fields in entries.items()}


def _entry(fields: dict[str, Any]) -> Entry:
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    return Entry(**values)
