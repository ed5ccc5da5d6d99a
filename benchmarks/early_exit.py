"""What it saves that losses on early blocks leave the rest of an image-to-video model out.

    nox -s benchmarks -- early_exit [--side 64]

For a small random model of each family, and a loss on its first and on its middle block: the cut model's weights, the activations of the
denoiser's pass (counted from shapes), and the time of the denoiser's forward and backward pass, each as a share of the whole model's in the
same run. On a CPU. Then the weights alone at published sizes, where embeddings weigh less.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from bench import cpu_shim
from bench.comfyui import comfyui

cpu_shim.install()
sys.path.insert(0, str(comfyui()))

import comfy.cli_args  # noqa: E402

comfy.cli_args.args.cpu = True

import comfy.ops  # noqa: E402
from real_sizes import HALF, VIDEOS, size_of  # noqa: E402
from stillguard.engine.compute.memory import META, footprint, weightless  # noqa: E402
from stillguard.engine.surrogates.denoiser import Tap  # noqa: E402
from stillguard.nodes.bridge.autograd import autograd_session  # noqa: E402
from stillguard.nodes.bridge.surrogates.early_exit import cut_after  # noqa: E402
from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates  # noqa: E402
from stillguard.nodes.bridge.surrogates.taps import tapped_blocks  # noqa: E402
from stillguard.nodes.bridge.video.model import DifferentiableVideoModel, video_setup  # noqa: E402
from torch import Tensor  # noqa: E402
from video_models import FILES, Loaded, load, randn  # noqa: E402

Figures = tuple[float, float, float]


def measured(loaded: Loaded, side: int, block: int, *, cut: bool) -> Figures:
    """Bytes of weights, bytes of activations, and seconds."""
    spec = loaded.spec(side=side)
    photo = randn(1, 3, side, side, seed=0).sigmoid()
    with autograd_session():
        surrogates = Surrogates(last_blocks={id(spec.model): block} if cut else {})
        setup = video_setup(surrogates, spec)
        model: DifferentiableVideoModel = setup.model  # type: ignore[assignment]
        taps, denoiser = [Tap("output", block)], model.denoiser

        def ask(noisy: Tensor, told: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            if cut:
                return model.read(noisy, 0.5, told, taps=taps)
            return model.estimate(noisy, 0.5, told, taps=taps)[1:]

        with surrogates.on_device(height=side, width=side, low_memory=False), surrogates.step():
            with torch.no_grad():
                told, noisy = model.condition(photo), torch.zeros(model.shape(photo))
            leaves = tuple(part.clone().requires_grad_() for part in told)

            def step() -> float:
                began = time.perf_counter()
                (read,) = ask(noisy, leaves)
                read.sum().backward()
                return time.perf_counter() - began

            step()
            seconds = min(step() for _ in range(5))
        kept = model._told
        assert kept is not None
        model._told = replace(kept.on(META), varying={name: value.to(META) for name, value in kept.varying.items()})
        away = tuple(part.detach().to(META).requires_grad_() for part in told)
        with weightless([denoiser.network]):
            peak = footprint(lambda: ask(torch.empty_like(noisy, device=META), away)).peak
        return denoiser.patcher.model_size(), peak, seconds


def published(name: str) -> str:
    """Blocks, and the share of weights that is left after the first, a quarter, and half of them."""

    def make() -> torch.nn.Module:
        return VIDEOS[name].make(device="meta", dtype=HALF, operations=comfy.ops.disable_weight_init)

    whole = make()
    count, shares = len(tapped_blocks(whole, "output")), []
    for last in (0, count // 4 - 1, count // 2 - 1):
        cut = make()
        cut_after(cut, last)
        shares.append(f"{size_of(cut) / size_of(whole):.2f}")
    return f"| {name} | {count} | {size_of(whole) / 1e9:.1f} GB | {' | '.join(shares)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=64, help="pixels, a multiple of 32")
    side = parser.parse_args().side
    print("| family | blocks | read up to | weights left | activations left | time left |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for family in FILES:
            loaded = load(family, Path(folder))
            count = len(tapped_blocks(loaded.model.model.diffusion_model, "output"))
            for block in sorted({0, (count - 1) // 2}):
                whole, cut = (measured(loaded, side, block, cut=choice) for choice in (False, True))
                shares = " | ".join(f"{part / all_of_it:.2f}" for part, all_of_it in zip(cut, whole, strict=True))
                print(f"| {family} | {count} | {block} | {shares} |", flush=True)
    print("\n| model | blocks | weights | left: first block | first quarter | first half |\n|---|---|---|---|---|---|")
    for name in VIDEOS:
        print(published(name), flush=True)


if __name__ == "__main__":
    main()
