"""A prompt's progress in the terminal: one line that is rewritten, or sparse lines where the output is a file."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass, field
from typing import TextIO

from .client import Event

_BAR = 30


@dataclass
class Progress:
    """Call it with every event. `titles`: node id -> title."""

    titles: dict[str, str]
    out: TextIO = field(default_factory=lambda: sys.stdout)
    _node: str = ""
    _began: float = field(default_factory=time.monotonic)
    _shown: int = -1
    _open: bool = False

    def __call__(self, event: Event) -> None:
        node = event.data.get("node")
        if event.type == "executing" and node is not None and node != self._node:
            self.end()
            self._node, self._began, self._shown = str(node), event.time, -1
            self._write(self._name, final=not self.out.isatty())
        if event.type == "progress" and str(node) == self._node:
            self._step(int(event.data["value"]), int(event.data["max"]), event.time - self._began)

    def end(self) -> None:
        """Leave the current line, so that what is printed next starts on its own."""
        if self._open:
            self.out.write("\n")
        self._open = False

    @property
    def _name(self) -> str:
        return self.titles.get(self._node, self._node)

    def _step(self, value: int, total: int, seconds: float) -> None:
        percent = 100 * value // max(total, 1)
        if self.out.isatty():
            full = _BAR * value // max(total, 1)
            bar = "#" * full + "." * (_BAR - full)
            self._write(f"{self._name}  [{bar}] {percent:3d} %  step {value}/{total}  {seconds:.1f} s")
        elif percent // 10 > self._shown // 10:
            self._write(f"{self._name}  {percent:3d} %  step {value}/{total}  {seconds:.1f} s", final=True)
        self._shown = percent

    def _write(self, line: str, *, final: bool = False) -> None:
        width = shutil.get_terminal_size().columns - 1
        self.out.write(line + "\n" if final else "\r" + line[:width].ljust(width))
        self.out.flush()
        self._open = not final
