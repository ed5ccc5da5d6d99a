"""What the loop costs on top of its surrogates: wall time of protect's steps over the bare forward and backward passes.

    nox -s benchmarks -- engine_overhead

Trained networks: the shipped autoencoder's encoder and LPIPS's VGG16. Both sides do the same passes of the same networks on the
same picture in turn, so that the ratio holds on a busy machine; the median over rounds is what counts.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from bench import cpu_shim
from bench.paths import BENCH
from bench.weights import lpips_backbone
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

cpu_shim.install()

from stillguard.engine import EoT, MomentumSign, Objective, Term, WorkingSize, protect  # noqa: E402
from stillguard.engine.conversions import from_pillow  # noqa: E402
from stillguard.engine.losses.dormant import LPIPSPenalty, VAELatent  # noqa: E402
from stillguard.engine.surrogates.perceptual import PerceptualNetwork, load_perceptual_network  # noqa: E402
from stillguard.engine.surrogates.tiny_autoencoder import TinyAutoencoder, load_tiny_autoencoder  # noqa: E402


def photo(side: int) -> Tensor:
    from skimage.data import astronaut

    picture = Image.fromarray(astronaut()).resize((side, side), Image.Resampling.LANCZOS)
    return from_pillow(picture)[None]


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def bare_passes(vae: TinyAutoencoder, network: PerceptualNetwork, image: Tensor) -> Callable[[], float]:
    """Seconds of one forward and backward pass of each network, and nothing else."""
    latent, activations = vae.encode(image), network.activations(image)
    perturbed = (image + 0.01).clamp(0, 1)

    def run() -> float:
        leaf = perturbed.clone().requires_grad_()
        began = time.perf_counter()
        F.mse_loss(vae.encode(leaf), latent).backward()
        network.distance(network.activations(leaf), activations).sum().backward()
        synchronise()
        return time.perf_counter() - began

    return run


def measure(*, photo_side: int, working: int, rounds: int, eot: EoT | None, low_memory: bool, device: str) -> tuple[float, float, float]:
    """Median seconds of a step, of the bare passes, and the median of the ratios round by round."""
    vae, network = load_tiny_autoencoder().to(device), load_perceptual_network(lpips_backbone(BENCH / "models" / "stillguard")).to(device)
    clean, working = photo(photo_side).to(device), WorkingSize(longest=working)
    objective = Objective((Term("latent", 10.0, VAELatent(vae)), Term("visible", -10.0, LPIPSPenalty(network))))
    bare = bare_passes(vae, network, working(clean))
    steps = protect(clean, objective, working_size=working, update=MomentumSign(), eot=eot, steps=rounds + 1, low_memory=low_memory)
    next(steps), next(steps), bare()  # warm both sides up
    pairs = []
    for _ in range(rounds):
        began = time.perf_counter()
        next(steps)
        synchronise()
        pairs.append((time.perf_counter() - began, bare()))
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs), statistics.median(a / b for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    cases = {
        "256 px photo": {"photo_side": 256, "working": 256, "eot": None, "low_memory": False},
        "2048 px photo seen at 256": {"photo_side": 2048, "working": 256, "eot": None, "low_memory": False},
        "256 px photo, low memory": {"photo_side": 256, "working": 256, "eot": None, "low_memory": True},
        "256 px photo, EoT": {"photo_side": 256, "working": 256, "eot": EoT(), "low_memory": False},
    }
    print(f"{torch.__version__}, {arguments.device}, {torch.get_num_threads()} threads, {arguments.rounds} rounds in turn, medians")
    print(f"{'case':28} {'step s':>8} {'bare s':>8} {'ratio':>7}")
    for name, case in cases.items():
        step, bare, ratio = measure(**case, rounds=arguments.rounds, device=arguments.device)
        print(f"{name:28} {step:8.3f} {bare:8.3f} {ratio:7.3f}", flush=True)


if __name__ == "__main__":
    main()
