"""What each change for speed gave: the way it was and the way it is, in turn in one process, as a ratio.

    nox -s benchmarks -- speed

On the CPU, where nothing but the ratio counts. Networks are the shipped encoder and a VGG16 with random weights.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from bench import cpu_shim
from bench.comfyui import comfyui
from bench.memory import peak_bytes
from torch import Tensor
from torch.nn import functional as F

cpu_shim.install()

from stillguard.engine import Objective, Step, Term, WorkingSize, picture, protect  # noqa: E402
from stillguard.engine.losses.dormant import VAELatent  # noqa: E402
from stillguard.engine.metrics.compare import compare  # noqa: E402
from stillguard.engine.metrics.comparison import CLEAN, NOISE, PROTECTED, TRUTH  # noqa: E402
from stillguard.engine.metrics.image import lpips_measure  # noqa: E402
from stillguard.engine.metrics.video_clip import HeldClip  # noqa: E402
from stillguard.engine.surrogates.perceptual import PerceptualNetwork, vgg16_network  # noqa: E402
from stillguard.engine.surrogates.tiny_autoencoder import load_tiny_autoencoder  # noqa: E402

ROUNDS = 3

# ComfyUI's own imports come first, as they do when it starts.
STARTUP = """
import asyncio, os, sys, time
from bench import cpu_shim
cpu_shim.install()
sys.path.insert(0, os.getcwd())
sys.argv = ["main.py", "--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
import execution, server, nodes
asyncio.run(nodes.init_builtin_extra_nodes())
began = time.perf_counter()
import stillguard.nodes
now = time.perf_counter() - began
from diffusers import DDIMScheduler, UNet2DConditionModel, UNet2DModel, UNetMotionModel
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
print((time.perf_counter() - began) / now)
"""


def ratio(before: Callable[[], object], after: Callable[[], object]) -> float:
    """Median over rounds of the seconds of `before` over those of `after`."""

    def seconds(run: Callable[[], object]) -> float:
        began = time.perf_counter()
        run()
        return time.perf_counter() - began

    return statistics.median(seconds(before) / seconds(after) for _ in range(ROUNDS))


def startup() -> float:
    run = [
        subprocess.run([sys.executable, "-c", STARTUP], cwd=comfyui(), check=True, capture_output=True, text=True) for _ in range(ROUNDS)
    ]
    return statistics.median(float(done.stdout.split()[-1]) for done in run)


def lpips_once(network: PerceptualNetwork, *branches: str) -> float:
    """Videos of 8 frames of 96 pixels: LPIPS with the activations of each video made for each pair, and once."""
    clips = {branch: HeldClip(torch.rand(8, 96, 96, 3)) for branch in branches}
    once = lpips_measure(network)
    per_pair = replace(once, see=None, compare=network)
    return ratio(*(lambda measure=measure: list(compare(clips, [measure], victim="")) for measure in (per_pair, once)))


def steps(side: int) -> Iterator[Step]:
    objective = Objective((Term("latent", 1.0, VAELatent(load_tiny_autoencoder())),))
    return protect(torch.rand(1, 3, side * 3 // 4, side), objective, working_size=WorkingSize(longest=256), steps=10**6)


def in_strips(side: int) -> tuple[float, float]:
    """Of a step on a photo of that width, seen at 256 pixels: time and peak memory, as a whole and in strips."""
    loops, sizes = [steps(side), steps(side)], (2**62, picture.STRIP)

    def step(which: int) -> Step:
        picture.STRIP = sizes[which]
        return next(loops[which])

    def peak(which: int) -> int:
        with peak_bytes() as bytes_of:
            step(which)
        return bytes_of()

    for which in (0, 1, 0, 1):
        step(which)
    return ratio(lambda: step(0), lambda: step(1)), peak(0) / peak(1)


def channels_last(network: torch.nn.Module, loss: Callable[[Tensor], Tensor]) -> tuple[float, float, bool]:
    """Forward and backward at 256 pixels: time, cosine of the gradients, and whether they are equal to the bit."""
    image = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))

    def gradient(layout: torch.memory_format) -> Tensor:
        network.to(memory_format=layout)  # type: ignore[call-overload]
        leaf = image.to(memory_format=layout, copy=True).requires_grad_()
        loss(leaf).backward()
        assert leaf.grad is not None
        return leaf.grad.contiguous().flatten().double()

    gained = ratio(lambda: gradient(torch.contiguous_format), lambda: gradient(torch.channels_last))
    last, first = gradient(torch.channels_last), gradient(torch.contiguous_format)
    return gained, float(F.cosine_similarity(first, last, dim=0)), torch.equal(first, last)


def in_one_batch(loss: Callable[[Tensor], Tensor], side: int) -> float:
    """Forward and backward of four pictures one after the other, and as one batch."""
    images = torch.rand(4, 3, side, side)
    return ratio(
        lambda: [loss(image.clone().requires_grad_()).backward() for image in images.split(1)],
        lambda: loss(images.clone().requires_grad_()).backward(),
    )


def main() -> None:
    from torchvision.models import vgg16

    vae, network = load_tiny_autoencoder(), vgg16_network(vgg16(weights=None).state_dict())
    print(f"{torch.__version__}, {torch.get_num_threads()} threads, medians of {ROUNDS} rounds; before / after")
    print(f"import of the nodes at ComfyUI's start: {startup():.2f}")
    for branches in ((CLEAN, PROTECTED, NOISE), (CLEAN, PROTECTED, NOISE, TRUTH)):
        print(f"LPIPS in Compare Videos, {len(branches)} videos: {lpips_once(network, *branches):.2f}")
    for side in (512, 4000):
        gained, lower = in_strips(side)
        print(f"step on a photo {side} px wide: time {gained:.2f}, memory {lower:.2f}", flush=True)

    def encode(image: Tensor) -> Tensor:
        return vae.encode(image).square().mean()

    def see(image: Tensor) -> Tensor:
        return torch.stack([(maps * torch.arange(maps.shape[1]).view(1, -1, 1, 1)).mean() for maps in network.activations(image)]).sum()

    for name, module, loss in (("shipped encoder", vae, encode), ("LPIPS", network, see)):
        gained, cosine, equal = channels_last(module, loss)
        print(f"{name}, channels last: time {gained:.2f}, cosine of gradients {cosine:.7f}, equal to the bit: {equal}", flush=True)
        print(f"{name}, four pictures in one batch: " + ", ".join(f"{side} px {in_one_batch(loss, side):.2f}" for side in (64, 128, 256)))


if __name__ == "__main__":
    main()
