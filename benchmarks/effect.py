"""What protection does to animations that the laboratory's animator makes of people it never saw.

    nox -s benchmarks -- effect --data PAIRS --networks FOLDER [--people 40] [--steps 60] [--budget 8]

For each held-out pair the first photo is protected at 128 pixels and moved into the second one's pose before and after, with the same
noise. The figures are PSNR in dB of the protected against the clean animation, lower is more effect, with 95 % intervals of the mean
by bootstrap over people; and how much the photo itself changed. All on small networks that `lab/train_animator.py` made and wrote
into FOLDER, with the image encoder: the mechanism, not a promise.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from bench import cpu_shim
from torch import Tensor

cpu_shim.install()

from stillguard.engine import RGB, Sight, protect  # noqa: E402
from stillguard.lab.networks import Lab  # noqa: E402
from stillguard.lab.pairs import Pair, load_pairs  # noqa: E402


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * (a - b).square().mean().clamp_min(1e-12).log10())


def random_signs(photo: Tensor, budget: float, seed: int) -> Tensor:
    signs = torch.randint(0, 2, photo.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return (photo + signs * budget / 255).clamp(0, 1)


def ways(lab: Lab, pose: Tensor, given: argparse.Namespace) -> dict[str, Callable[[Tensor, int], Tensor]]:
    """How a photo [1,3,S,S] can be changed, by name."""

    def attacked(**weights: float) -> Callable[[Tensor, int], Tensor]:
        def run(photo: Tensor, seed: int) -> Tensor:
            objective = lab.objective(pose, **weights)
            *_, last = protect(photo, objective, space=RGB(given.budget), sight=Sight(128), steps=given.steps, seed=seed)
            return last.image

        return run

    return {
        "random signs": lambda photo, seed: random_signs(photo, given.budget, seed),
        "VAE": attacked(),
        "VAE, ReferenceNet": attacked(reference=100.0),
        "Dormant, all terms": attacked(reference=100.0, frames=1.0, clip=10.0),
    }


def interval(values: list[float]) -> str:
    """Mean and the 95 % bootstrap interval of it."""
    sample = np.array(values)
    means = np.random.default_rng(0).choice(sample, (2000, len(sample))).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return f"{sample.mean():6.2f} [{low:5.2f}, {high:5.2f}]"


def person(lab: Lab, pair: Pair, other: Pair, given: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """For each way: PSNR of the animations, PSNR of the photos; and of the clean animation against the true second photo."""
    photo, target, poses = pair.pictures[:1].float() / 255, pair.pictures[1:].float() / 255, pair.poses()
    clean = lab.animation(photo, poses)
    figures = {"clean, against the true photo": (psnr(clean[1:], target), float("inf"))}
    for name, change in ways(lab, poses[:1], given).items():
        changed = change(photo, pair.number)
        figures[name] = (psnr(lab.animation(changed, poses)[1:], clean[1:]), psnr(changed, photo))
    # The last one's change, where it should do little: that it is large is not enough.
    difference = changed - photo
    order = torch.randperm(difference[0, 0].numel(), generator=torch.Generator().manual_seed(pair.number))
    shuffled = (photo + difference.flatten(2)[..., order].view_as(photo)).clamp(0, 1)
    figures["its change with pixels shuffled"] = (psnr(lab.animation(shuffled, poses)[1:], clean[1:]), psnr(shuffled, photo))
    stranger, own = other.pictures[:1].float() / 255, other.poses()
    foreign = (stranger + difference).clamp(0, 1)
    moved = (lab.animation(picture, own)[1:] for picture in (foreign, stranger))
    figures["its change on another person"] = (psnr(*moved), psnr(foreign, stranger))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of pairs; without one nothing can be measured")
    parser.add_argument("--people", type=int, default=40)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--budget", type=float, default=8.0)
    parser.add_argument("--networks", type=Path, help="folder that lab/train_animator.py wrote")
    given = parser.parse_args()
    if given.data is None or given.networks is None:
        print("effect: give the folder of pairs with --data, and that of trained networks with --networks.")
        return
    lab, pairs = Lab(given.networks), load_pairs(given.data, side=128, held_out=True)[: given.people]
    figures = [person(lab, pair, pairs[index - 1], given) for index, pair in enumerate(pairs)]
    print(f"{len(pairs)} held-out people, budget {given.budget:g}, {given.steps} steps")
    print("| picture | PSNR of the animation, dB | PSNR of the photo, dB |\n|---|---|---|")
    for name in figures[0]:
        seen = np.mean([row[name][1] for row in figures])
        print(f"| {name} | {interval([row[name][0] for row in figures])} | {seen:.1f} |")


if __name__ == "__main__":
    main()
