"""The script for the first minutes on a GPU, on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture
def first_gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import first_gpu

    return first_gpu


def test_a_part_that_fails_hides_no_other_and_is_told_by_the_status(
    first_gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no such kernel")

    steps = ("check_terms", "check_races", "measure_speed", "measure_low_memory", "measure_precision")
    for name in steps:
        monkeypatch.setattr(first_gpu, name, lambda *_: None)
    machine = first_gpu.Machine(torch.device("cpu"), small=True)
    assert first_gpu.run(machine) == 0
    assert "ResizeBack, gradients" in capsys.readouterr().out
    monkeypatch.setattr(first_gpu, "check_terms", fails)
    assert first_gpu.run(machine) == 1
    printed = capsys.readouterr().out
    assert "FAILED, RuntimeError: no such kernel" in printed
    assert "ResizeBack, gradients" in printed
    assert "wrong: correct: each term" in printed


@pytest.mark.parametrize("factor", [1 + 1e-2, float("nan")])
def test_another_gradient_is_wrong(first_gpu: ModuleType, factor: float, capsys: pytest.CaptureFixture[str]) -> None:
    report, gradient = first_gpu.Report(), torch.linspace(-1, 1, 50)
    report.compare("equal", gradient, gradient * (1 + 1e-6))
    assert report.wrong == []
    report.compare("other", gradient, gradient * factor)
    assert report.wrong == ["other"]
    assert capsys.readouterr().out.count("WRONG") == 1


@pytest.mark.slow
def test_all_of_it_at_toy_size() -> None:
    script = [sys.executable, str(ROOT / "benchmarks" / "first_gpu.py"), "--small", "--device", "cpu"]
    done = subprocess.run(script, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "races 0 of" in done.stdout
    assert "everything was right" in done.stdout
