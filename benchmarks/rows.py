"""Figures of one picture after the other, kept on disk as soon as each is done: a run that ended goes on, and several make one table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from effect import interval

Figures = dict[str, list[float]]
"""Of one picture, by what was done to it."""


class Rows:
    """files: the first is written; what any of them has is known."""

    def __init__(self, files: Sequence[Path]) -> None:
        kept = [json.loads(file.read_text(encoding="utf-8")) if file.exists() else {} for file in files]
        self._file, self._own = files[0], kept[0]
        self.all: dict[str, Figures] = {title: figures for part in kept for title, figures in part.items()}

    def keep(self, title: str, figures: Figures) -> None:
        self.all[title] = self._own[title] = figures
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(json.dumps(self._own), encoding="utf-8")

    def print_table(self, columns: Sequence[str], formats: Sequence[str]) -> None:
        """formats: of each column; where it has three fields they are mean and 95 % interval over pictures, otherwise the mean alone."""
        print(f"\n{len(self.all)} pictures: {', '.join(self.all)}\n")
        print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
        for name in next(iter(self.all.values()), {}):
            values = torch.tensor([figures[name] for figures in self.all.values()], dtype=torch.float64).T
            cells = [form.format(*interval(column.tolist())) for form, column in zip(formats, values, strict=True)]
            print(f"| {name} | {' | '.join(cells)} |")


SPREAD = "{:.2f} ({:.2f} to {:.2f})"
