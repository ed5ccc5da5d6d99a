"""Where the bench keeps its files, and the error that its commands report as one sentence."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The repository, which is the package `stillguard` itself."""

BENCH = Path(os.environ.get("STILLGUARD_BENCH") or ROOT / ".bench").expanduser().resolve()
"""The cache for everything downloaded or produced; the environment variable STILLGUARD_BENCH moves it."""


class BenchError(RuntimeError):
    """A failure whose message is one sentence for the person at the terminal."""
