"""What protection does to animations that the laboratory's animator makes of people it never saw.

    nox -s benchmarks -- effect --data PAIRS [--people 40] [--steps 60] [--budget 8]

For each held-out pair the first photo is protected at 128 pixels and moved into the second one's pose before and after, with the same
noise. The figures are PSNR in dB of the protected against the clean animation, lower is more effect, with 95 % intervals of the mean
by bootstrap over people; and how much the photo itself changed. All on the small
networks that ship with the pack: the mechanism, not a promise.
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

from stillguard.engine import RGB, Objective, Observation, Sight, Term, protect  # noqa: E402
from stillguard.engine.animate import animate  # noqa: E402
from stillguard.engine.losses import dormant  # noqa: E402
from stillguard.engine.surrogates.pose_animator import last_timesteps, load_pose_animator, noise_schedule  # noqa: E402
from stillguard.engine.surrogates.reference_net import load_reference_net  # noqa: E402
from stillguard.engine.surrogates.sd_unet import LATENT_SCALE  # noqa: E402
from stillguard.engine.surrogates.tiny_autoencoder import load_tiny_autoencoder  # noqa: E402
from stillguard.engine.weights.catalogue import LAB  # noqa: E402
from stillguard.lab.networks import LabEncoder  # noqa: E402
from stillguard.lab.pairs import Pair, load_pairs  # noqa: E402


class Lab:
    """The shipped networks, once as surrogates and once as the victim."""

    def __init__(self, folder: Path = LAB) -> None:
        file = "stillguard_lab_{}.safetensors".format
        self.vae, self.encoder = load_tiny_autoencoder(), LabEncoder(folder / file("encoder"))
        self.net = load_reference_net(folder / file("reference_unet"))
        parts = (folder / file(name) for name in ("denoising_unet", "motion_module", "pose_guider"))
        self.animator = load_pose_animator(*parts)

    def objective(self, pose: Tensor, *, reference: float, frames: float, clip: float) -> Objective:
        setup = dormant.ReferenceSetup(self.net, self.vae, self.encoder)
        losses = {
            "vae": (10.0, dormant.VAELatent(self.vae, LATENT_SCALE)),
            "clip": (clip, dormant.CLIPSemantic(self.encoder)),
            "reference": (reference, dormant.ReferenceFeature(setup)),
            "frames": (
                frames,
                dormant.FrameIncoherence(self.animator, setup, pose, noise_schedule().alphas_cumprod, last_timesteps(), noised=True),
            ),
        }
        return Objective(tuple(Term(name, weight, loss) for name, (weight, loss) in losses.items()))

    @torch.no_grad()
    def animation(self, photo: Tensor, poses: Tensor, *, seed: int = 0) -> Tensor:
        """[N,3,S,S] in [0,1], one frame for each pose."""
        setup, seen = dormant.ReferenceSetup(self.net, self.vae, self.encoder), Observation(photo)
        given = {"tokens": setup.tokens(seen), "bank": setup.bank(seen, 0), "pose": self.animator.guide(poses)}
        *_, last = animate(self.animator, **given, steps=20, guidance=2.0, seed=seed)
        return self.vae.decode(last.latents[0].movedim(1, 0) / LATENT_SCALE).clamp(0, 1)


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * (a - b).square().mean().clamp_min(1e-12).log10())


def random_signs(photo: Tensor, budget: float, seed: int) -> Tensor:
    signs = torch.randint(0, 2, photo.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return (photo + signs * budget / 255).clamp(0, 1)


def ways(lab: Lab, pose: Tensor, given: argparse.Namespace) -> dict[str, Callable[[Tensor, int], Tensor]]:
    """How a photo [1,3,S,S] can be changed, by name."""

    def attacked(**weights: float) -> Callable[[Tensor, int], Tensor]:
        def run(photo: Tensor, seed: int) -> Tensor:
            objective = lab.objective(pose, **{"reference": 0.0, "frames": 0.0, "clip": 0.0, **weights})
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


def person(lab: Lab, pair: Pair, given: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """For each way: PSNR of the animations, PSNR of the photos; and of the clean animation against the true second photo."""
    photo, target, poses = pair.pictures[:1].float() / 255, pair.pictures[1:].float() / 255, pair.poses()
    clean = lab.animation(photo, poses)
    figures = {"clean, against the true photo": (psnr(clean[1:], target), float("inf"))}
    for name, change in ways(lab, poses[:1], given).items():
        changed = change(photo, pair.number)
        figures[name] = (psnr(lab.animation(changed, poses)[1:], clean[1:]), psnr(changed, photo))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--people", type=int, default=40)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--budget", type=float, default=8.0)
    given = parser.parse_args()
    lab, pairs = Lab(), load_pairs(given.data, side=128, held_out=True)[: given.people]
    figures = [person(lab, pair, given) for pair in pairs]
    print(f"{len(pairs)} held-out people, budget {given.budget:g}, {given.steps} steps")
    print("| picture | PSNR of the animation, dB | PSNR of the photo, dB |\n|---|---|---|")
    for name in figures[0]:
        seen = np.mean([row[name][1] for row in figures])
        print(f"| {name} | {interval([row[name][0] for row in figures])} | {seen:.1f} |")


if __name__ == "__main__":
    main()
