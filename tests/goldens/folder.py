"""One folder of golden numbers: configs/, weights/, vectors/."""

from __future__ import annotations

import json
import lzma
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor


@dataclass(frozen=True)
class Row:
    """One comparison; it passes where error <= tolerance. kind says what the error measures."""

    name: str
    error: float
    tolerance: float
    kind: str

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance


class Folder:
    """Reads what it is asked for; a part of a set may lack files, and may be compressed (.xz)."""

    def __init__(self, path: Path) -> None:
        self._unpacked = tempfile.TemporaryDirectory() if next(path.rglob("*.safetensors.xz"), None) else None
        self.path = Path(self._unpacked.name) if self._unpacked else path
        if self._unpacked:
            shutil.copytree(path, self.path, dirs_exist_ok=True)
            for packed in self.path.rglob("*.safetensors.xz"):
                packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))

    def has(self, *names: str) -> bool:
        """Names such as "weights/vae" or "vectors/units"."""
        return all((self.path / f"{name}.safetensors").is_file() for name in names)

    def config(self, name: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.path / "configs" / f"{name}.json").read_text(encoding="utf-8"))
        return content

    @cache  # noqa: B019  # as long as the folder is in use
    def values(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.path / "vectors" / "values.json").read_text(encoding="utf-8"))
        return content

    @cache  # noqa: B019
    def vectors(self, name: str) -> Mapping[str, Tensor]:
        return load_file(self.path / "vectors" / f"{name}.safetensors")

    def file(self, name: str) -> Path:
        return self.path / "weights" / f"{name}.safetensors"

    def weights(self, name: str) -> dict[str, Tensor]:
        """In fp32, as they were used; halves in the files are exact."""
        return {key: value.float() if value.is_floating_point() else value for key, value in load_file(self.file(name)).items()}


def relative(name: str, ours: Tensor, official: Tensor, tolerance: float) -> Row:
    """Largest error relative to the largest value."""
    return Row(name, float((ours - official).abs().max() / official.abs().max().clamp_min(1e-30)), tolerance, "of the largest value")


def number(name: str, ours: float, official: float, tolerance: float) -> Row:
    return Row(name, abs(ours - official) / abs(official), tolerance, "relative")


def gradient(name: str, ours: Tensor, official: Tensor) -> Iterator[Row]:
    """Direction and size at the tolerances that the sets' READMEs suggest."""
    a, b = ours.double().flatten(), official.double().flatten()
    yield Row(f"{name}, direction", 1 - float(a @ b / (a.norm() * b.norm())), 1e-6, "1 - cosine")
    yield relative(f"{name}, size", ours, official, 1e-3)


def flips(name: str, ours: Tensor, official: Tensor, tolerance: float) -> Row:
    """Share of elements that differ: a vanishing gradient may have either sign."""
    return Row(name, float(((ours - official).abs() > 1e-5).float().mean()), tolerance, "share of elements")
