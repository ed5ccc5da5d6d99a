"""Tests in here drive Chromium. Without it they are skipped by name, or refused where STILLGUARD_BROWSER says that it is required."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from bench.browser import find_chromium
from bench.paths import BenchError


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in ours:
        item.add_marker(pytest.mark.browser)
    try:
        find_chromium()
    except BenchError as missing:
        if ours and os.environ.get("STILLGUARD_BROWSER") == "required":
            raise pytest.UsageError(str(missing)) from missing
        for item in ours:
            item.add_marker(pytest.mark.skip(reason=str(missing)))
