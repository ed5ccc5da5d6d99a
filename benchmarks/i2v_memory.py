"""What low memory saves and costs when an image-to-video model is the surrogate.

    nox -s benchmarks -- i2v_memory [--side 96]

For a small random model of each family: the peak of tensors during one step of I2VGuard's three losses, beside weights, and the time that
it took, with `memory` fast and low; both as ratios of the two in one run. On a CPU; weights are in the host's memory either way.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch
from bench import cpu_shim
from bench.comfyui import comfyui
from bench.memory import peak_bytes

cpu_shim.install()
sys.path.insert(0, str(comfyui()))

import comfy.cli_args  # noqa: E402

comfy.cli_args.args.cpu = not torch.cuda.is_available()

from stillguard.engine import Objective, Observation, Term  # noqa: E402
from stillguard.engine.draws import SeededDraws  # noqa: E402
from stillguard.nodes.bridge.autograd import autograd_session  # noqa: E402
from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates  # noqa: E402
from stillguard.nodes.protect.i2vguard import i2vguard_losses  # noqa: E402
from video_models import FILES, Loaded, load, randn  # noqa: E402

WEIGHTS = {"target_weight": 1.0, "contrast_weight": 1.0, "attention_weight": 1.0, "penalty_weight": 100.0}


def measured(loaded: Loaded, side: int, *, low_memory: bool) -> tuple[int, float]:
    """Peak in bytes and seconds of a step, after one that made the first video and asked for the clean picture."""
    photo = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    with autograd_session():
        surrogates = Surrogates()
        specs = i2vguard_losses(loaded.spec(side=side), None, 2.0, WEIGHTS)
        objective = Objective(tuple(Term(spec.name, spec.weight, spec.make(surrogates)) for spec in specs))
        with surrogates.on_device(height=side, width=side, low_memory=low_memory):
            clean = Observation(photo)

            def step() -> float:
                leaf, began = (photo + 0.02 * randn(*photo.shape, seed=1)).requires_grad_(), time.perf_counter()
                with surrogates.step():
                    objective.backward(clean, Observation(leaf, draws=SeededDraws(5), low_memory=low_memory))
                return time.perf_counter() - began

            step()
            seconds = min(step() for _ in range(3))
            with peak_bytes() as peak:
                step()
    return peak(), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=96, help="pixels, a multiple of 32")
    side = parser.parse_args().side
    print("| family | peak, fast | peak, low | fast / low | time, low / fast |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for family in FILES:
            loaded = load(family, Path(folder))
            (fast, quick), (low, slow) = (measured(loaded, side, low_memory=choice) for choice in (False, True))
            print(f"| {family} | {fast / 1e6:.0f} MB | {low / 1e6:.0f} MB | {fast / low:.1f} | {slow / quick:.1f} |", flush=True)


if __name__ == "__main__":
    main()
