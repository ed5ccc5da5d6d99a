"""Let torchvision and torchaudio wheels that were built for CUDA be imported beside a torch that was built without it.

Their compiled libraries then cannot be loaded. torchvision only misses two operator schemas, torchaudio its `_extension`
module; with those declared, everything that is Python works. Compiled operators (nms, roi_align, forced_align) still raise.

This file imports nothing from its package, because the server's process runs it by path.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

_keep: list[Any] = []  # schemas vanish with the Library that declared them


def _lacks(package: str, libraries: Sequence[str]) -> bool:
    """Whether torch has no CUDA and one of the package's libraries cannot be loaded because of it."""
    import torch

    spec = PathFinder.find_spec(package)
    if torch.version.cuda is not None or spec is None or spec.origin is None:
        return False
    folder = Path(spec.origin).parent
    for path in (p for pattern in libraries for p in sorted(folder.glob(pattern))):
        try:
            torch.ops.load_library(path)
        except OSError:
            return True
    return False


def _prepare_torchvision() -> None:
    if not _lacks("torchvision", ["_C.so"]):
        return
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _keep.append(library)


def _prepare_torchaudio() -> None:
    if not _lacks("torchaudio", ["lib/_torchaudio*.so", "lib/libtorchaudio*.so"]):
        return

    def unavailable(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*_: object, **__: object) -> None:
            raise RuntimeError(f"{function.__name__} needs torchaudio's compiled library; install a torchaudio built for this torch.")

        return call

    extension = ModuleType("torchaudio._extension")
    extension.__dict__.update(_IS_TORCHAUDIO_EXT_AVAILABLE=False, _IS_ALIGN_AVAILABLE=False)
    extension.__dict__.update(_check_cuda_version=lambda: None, fail_if_no_align=unavailable)
    sys.modules["torchaudio._extension"] = extension


class _Finder:
    """Finds nothing; it is asked before the real finders, which is the moment to prepare."""

    def __init__(self) -> None:
        self.pending = {"torchvision": _prepare_torchvision, "torchaudio": _prepare_torchaudio}

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if prepare := self.pending.pop(name, None):
            prepare()
        return None


def install() -> None:
    """Prepare at the first import of either package, not now: ComfyUI must be the one that imports torch first. Linux only."""
    if sys.platform == "linux" and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
