"""All protections of the pack in a row on one laboratory: what each does to animations, how visible it is, what it costs, what is left.

    nox -s benchmarks -- methods --data PAIRS [--people 6] [--budgets 4 8 16] [--steps 100] [--only METHOD ...] [--known ROWS.json]

Photos of held-out people of 128 px. Surrogates are the laboratory's: its autoencoder, image encoder, ReferenceNet and pose animator; the
same animator without a photo, in the person's pose, as the diffusion model of pictures that the baselines ask for; its transformer as the
video model. By sign steps of one level at each budget, and those of the middle budget scaled to one LPIPS. Measured is how far the
animation in another pose goes from the clean photo's, PSNR in dB (lower is more effect), by three animators: the surrogate itself, a UNet
that shares its autoencoder, and one that shares nothing; then the latents of the autoencoder, and what JPEG 75 and GrIDPure leave of their
distance. Time and memory of a step are over those of VAE Latent alone, in the same run. Means over people with 95 % bootstrap intervals;
rows of people who are done are kept, and a run goes on.
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from anti_i2v_choices import DECIBELS, LabVideo
from bench import paths, weights
from bench.memory import peak_bytes
from dual_space import apart
from latent_space import moved, scaled
from purifiers import PixelDenoiser, train
from rows import SPREAD, Rows
from stillguard.engine import RGB, AdamW, Alternating, Chroma, Latent, LowFrequency, Objective, Sign, Term, WorkingSize, protect
from stillguard.engine.animators.lab_victims.victim import SIDE, LabVictim
from stillguard.engine.baselines import random_signs
from stillguard.engine.losses import baselines
from stillguard.engine.losses.anti_i2v import Denoising, RepresentationAnchor, RepresentationCollapse, VelocityMin
from stillguard.engine.losses.dormant import LPIPSPenalty, VAELatent
from stillguard.engine.losses.i2vguard import TargetLatent
from stillguard.engine.metrics.visibility import psnr, ssim
from stillguard.engine.observation import Features
from stillguard.engine.purify import diffusion
from stillguard.engine.purify.edits import JPEGFile
from stillguard.engine.purify.gridpure import gridpure
from stillguard.engine.surrogates.denoiser import EVERY, FIRST_STEPS, HIGH, TIMESTEPS, Tap
from stillguard.engine.surrogates.perceptual import load_perceptual_network
from stillguard.engine.surrogates.picture_setup import PictureSetup
from stillguard.engine.surrogates.sd_unet import LATENT_SCALE
from stillguard.engine.surrogates.video_setup import VideoSetup
from stillguard.engine.weights.catalogue import VICTIMS
from stillguard.lab.effect import Laboratory, Person
from stillguard.lab.networks import Lab
from stillguard.lab.pairs import load_pairs
from stillguard.lab.presets import ALL
from torch import Tensor

SIZE = WorkingSize(SIDE)
KEPT = Path(__file__).parent / "kept" / "methods.json"
FIRST = "VAE Latent"
Terms = Callable[[], tuple[Term, ...]]


class LabPictures:
    """The laboratory's animator in one pose, which sees no photo: a denoiser of pictures that predicts velocities. Levels are EVERY's."""

    def __init__(self, lab: Lab, pose: Tensor) -> None:
        from stillguard.engine.animators.pose_animator import noise_schedule

        self._animator, self._signal = lab.animator, noise_schedule().alphas_cumprod
        with torch.no_grad():
            self._pose = lab.animator.guide(pose)

    def scaled(self, latents: Tensor) -> Tensor:
        return latents * LATENT_SCALE

    def noised(self, latents: Tensor, noise: Tensor, level: float) -> Tensor:
        alpha, sigma = self._mixture(level)
        return alpha * latents + sigma * noise

    def output_scale(self, level: float) -> float:
        return float(self._mixture(level)[1])

    def estimate(self, noisy: Tensor, level: float, *, taps: Sequence[Tap] = (), negative: bool = False) -> Features:
        alpha, sigma = self._mixture(level)
        tokens = torch.zeros(len(noisy), 1, self._animator.context_dim)
        velocity = self._animator.denoise(noisy[:, :, None], EVERY.index(level), tokens, self._pose)[:, :, 0]
        return (alpha * noisy - sigma * velocity,)

    def _mixture(self, level: float) -> tuple[Tensor, Tensor]:
        signal = self._signal[EVERY.index(level)]
        return signal.sqrt(), (1 - signal).sqrt()


def _one(name: str, weight: float, loss: Callable[[], Any]) -> Terms:
    return lambda: (Term(name, weight, loss()),)


def _on_pictures(lab: Lab, pose: Tensor) -> dict[str, Terms]:
    """The baselines; weights as in the node Diffusion Baseline, which has those of the papers' latents at any size."""
    setup, target = PictureSetup(LabPictures(lab, pose), lab.vae), baselines.pattern(SIDE)
    size = 4 * 64 * 64
    error, score = partial(baselines.DenoisingError, setup), partial(baselines.ScoreDistillation, setup)
    texture = partial(baselines.Texture, setup, target)
    return {
        "AdvDM (+)": _one("error", 1.0, error),
        "AdvDM (-)": _one("error", -1.0, error),
        "SDS (+)": _one("score", 1.0, score),
        "SDS (-)": _one("score", -1.0, score),
        "SDST (-)": lambda: (Term("score", -2.5, score()), Term("texture", -1.0, texture())),
        "texture only": _one("texture", -1.0, texture),
        "Mist v1": lambda: (Term("texture", -size, texture()), Term("error", 1e4, error())),
        "Mist v2 (ACE)": _one("target", -1.0, lambda: baselines.TargetScore(setup, target)),
        "Mist v2, fused": lambda: (Term("noise", -size, baselines.NoiseAlignment(setup)), Term("texture", -100.0, texture())),
    }


def _on_video(model: LabVideo) -> dict[str, Terms]:
    def setup(**options: Any) -> VideoSetup:
        return VideoSetup(model, TIMESTEPS[HIGH], **options)  # type: ignore[arg-type]

    def anti_i2v() -> tuple[Term, ...]:
        shared = setup()
        collapse, anchor = RepresentationCollapse(shared, 0, (1, 2, 3)), RepresentationAnchor(shared, (0, 1, 2, 3))
        return (
            Term("IRC", -1.0, collapse, scaled=True),
            Term("IRA", -1.0, anchor, scaled=True),
            Term("L_DM", 1.0, Denoising(shared), scaled=True),
        )

    fresh = VideoSetup(model, FIRST_STEPS, fresh=True)  # type: ignore[arg-type]
    return {"Anti-I2V": anti_i2v, "Velocity-Min": _one("velocity", -1.0, lambda: VelocityMin(fresh))}


def ways(lab: Lab, person: Person, victim: LabVictim, lpips: Any) -> dict[str, tuple[Terms, Callable[[RGB], Any]]]:
    """Row -> its terms, made anew for each run, and the space of a budget."""
    pose, black = person.poses[:1], torch.zeros(1, 3, SIDE, SIDE)
    pixels: dict[str, Terms] = {
        FIRST: _one("latent", 1.0, lambda: VAELatent(lab.vae)),
        "Dormant": lambda: lab.objective(pose, **ALL).terms,
        "I2VGuard's target latent": _one("target", -1.0, lambda: TargetLatent(lab.vae, black)),
        "PhotoGuard's encoder": _one("norm", -1.0, lambda: baselines.LatentNorm(lab.vae)),
        "VGMShield, undirected": lambda: (
            Term("lpips", 1.0, LPIPSPenalty(lpips, 0.0)),
            Term("embedding", 1.0, baselines.EmbeddingAngle(lab.encoder)),
            Term("latent", 1.0, baselines.LatentAngle(lab.vae)),
        ),
        **_on_pictures(lab, pose),
        **_on_video(LabVideo(victim, pose)),
    }
    both = "Anti-I2V in chroma and low frequencies"
    return {
        **{name: (terms, lambda space: space) for name, terms in pixels.items()},
        both: (pixels["Anti-I2V"], lambda space: Alternating((Chroma(space), LowFrequency(space, working_size=SIZE)))),
    }


def latent_space(lab: Lab, photo: Tensor, steps: int, seed: int) -> Tensor:
    """VAE Latent in Silencer's space, which has no budget."""
    space = Latent(lab.vae, working_size=SIZE)
    *_, last = protect(photo, Objective((Term("latent", 1.0, VAELatent(lab.vae)),)), space=space, update=AdamW(1.0), steps=steps, seed=seed)
    return last.image


def grid(denoiser: PixelDenoiser) -> Callable[[Tensor], Tensor]:
    """GrIDPure in one window, 10 times 10 of 1000 timesteps."""
    draws = diffusion.normal_draws((1, 3, SIDE, SIDE), 0)

    def lightly(window: Tensor) -> Tensor:
        return deque(diffusion.diffpure(window, denoiser, timesteps=10, noises=draws), maxlen=1)[0].image

    return lambda picture: deque(gridpure(picture, lightly, window=SIDE), maxlen=1)[0].image


class Bench:
    """Everything that is measured of one person's pictures."""

    def __init__(self, person: Person, victim: LabVictim, lpips: Any, denoiser: PixelDenoiser, options: argparse.Namespace) -> None:
        self.person, self.lpips, self.options = person, lpips, options
        self.lab, self.photo = person.laboratory.lab, person.photo
        every = ways(self.lab, person, victim, lpips)
        self.ways = {name: way for name, way in every.items() if not options.only or name in (FIRST, *options.only)}
        with torch.no_grad():
            self.edits = {edit: edit(self.photo) for edit in (JPEGFile(75), grid(denoiser))}

    def rows(self) -> Iterator[tuple[str, list[float]]]:
        """Rows "method | at equal"."""
        middle = self.options.budgets[len(self.options.budgets) // 2]
        for budget in self.options.budgets:
            made = {"random signs": random_signs(self.photo, budget, seed=self.person.number)}
            made |= {name: self.protected(name, budget, self.options.steps) for name in self.ways}
            for name, picture in made.items():
                yield f"{name} | {budget:g} levels", self.measured(picture)
            if budget == middle:
                made["VAE Latent in latents"] = latent_space(self.lab, self.photo, self.options.steps, self.person.number)
                for name, picture in made.items():
                    yield f"{name} | LPIPS {self.options.lpips:g}", self.measured(scaled(self.photo, picture, self.too_visible)[0])

    def protected(self, name: str, budget: float, steps: int) -> Tensor:
        terms, space = self.ways[name]
        settings = {"space": space(RGB(budget)), "update": Sign(1.0), "working_size": SIZE, "steps": steps, "seed": self.person.number}
        *_, last = protect(self.photo, Objective(terms()), **settings)
        return last.image

    def too_visible(self, picture: Tensor) -> bool:
        return float(self.lpips(self.photo, picture)) > self.options.lpips

    @torch.no_grad()
    def measured(self, picture: Tensor) -> list[float]:
        found = {figure.animator: figure.psnr for figure in self.person.compared(picture, "")}
        far = moved(self.lab.vae, self.photo, picture, lambda one: one)
        left = [apart(self.lab.vae, clean, edit(picture)) / far for edit, clean in self.edits.items()]
        seen = float(psnr(self.photo, picture)), float(ssim(self.photo, picture)), float(self.lpips(self.photo, picture))
        return [found["surrogate"], found["unet"], found["transformer"], far, *left, *seen]

    def costs(self, *, steps: int = 3) -> Iterator[tuple[str, list[float]]]:
        """Of a step, over those of FIRST: seconds, and bytes at one time."""
        first: list[float] = []
        for name in self.ways:
            self.protected(name, 8.0, 1)
            began = time.process_time()
            self.protected(name, 8.0, steps)
            seconds = time.process_time() - began
            with peak_bytes() as peaked:
                self.protected(name, 8.0, 1)
            first = first or [seconds, peaked()]
            yield name, [seconds / first[0], peaked() / first[1]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of NNN_0.jpg, NNN_1.jpg and poses.npz")
    parser.add_argument("--people", type=int, default=6)
    parser.add_argument("--budgets", type=float, nargs="+", default=[4.0, 8.0, 16.0])
    parser.add_argument("--lpips", type=float, default=0.05)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--only", nargs="+", help="methods, by the names in the table")
    parser.add_argument("--known", type=Path, nargs="+", default=[paths.BENCH / "methods.json", KEPT])
    options = parser.parse_args()
    torch.set_num_threads(1)
    lpips = load_perceptual_network(weights.lpips_backbone(paths.BENCH / "models" / "stillguard"))
    torch.manual_seed(0)
    denoiser = PixelDenoiser()
    train(denoiser, "pixels", options.data, 10)
    laboratory, known, victim = Laboratory(), Rows(options.known), LabVictim("transformer", VICTIMS)
    pairs = load_pairs(options.data, side=SIDE, held_out=True)[: options.people]
    for pair in pairs:
        title = f"person {pair.number}"
        if title not in known.all:
            known.keep(title, dict(Bench(Person(laboratory, pair), victim, lpips, denoiser, options).rows()))
            print(f"{title} is done", flush=True)
    effect = ("surrogate, dB", "unet, dB", "transformer, dB", "latents moved", "left, JPEG 75", "left, GrIDPure", "PSNR", "SSIM", "LPIPS")
    known.print_table(("method | at equal", *effect), (*[DECIBELS] * 3, *[SPREAD] * 3, "{:.1f}", "{:.3f}", "{:.3f}"))
    print("\n| method | time of a step | memory |\n|---|---|---|")
    for name, (seconds, memory) in Bench(Person(laboratory, pairs[0]), victim, lpips, denoiser, options).costs():
        print(f"| {name} | {seconds:.1f} | {memory:.1f} |")


if __name__ == "__main__":
    main()
