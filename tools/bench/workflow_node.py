"""A node of an example workflow, before the page has drawn it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Link = tuple[str, int]
"""Key of the node it comes from, and the output's number."""


@dataclass(frozen=True)
class Node:
    """One node to draw. links: by the input's name."""

    key: str
    type: str
    pos: tuple[int, int]
    size: tuple[int, int] | None = None
    title: str | None = None
    widgets: dict[str, Any] = field(default_factory=dict)
    links: dict[str, Link] = field(default_factory=dict)
