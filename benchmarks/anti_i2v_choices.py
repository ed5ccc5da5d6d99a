"""What Anti-I2V's losses and spaces do to animations by a transformer that is really trained, against noise and Velocity-Min.

    nox -s benchmarks -- anti_i2v_choices --data PAIRS [--people 20] [--known ROWS.json]

The laboratory's transformer, a rectified flow of four blocks that animates photos of 128 px, is the surrogate: it sees the photo in its own
pose. Measured is how far the animation in another pose goes from the clean photo's, PSNR in dB (lower is more effect): by itself, by a UNet
that shares its autoencoder, and by an animator that shares nothing. All at one budget, and once more scaled to one LPIPS of the photo. It
is a network of four blocks, of which the first stands for the shallow one and the others for the deep ones. Rows are kept, and a run goes
on.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bench import cpu_shim, paths, weights

cpu_shim.install()

from latent_space import scaled  # noqa: E402
from rows import Rows  # noqa: E402
from stillguard.engine import RGB, Alternating, Chroma, LowFrequency, Objective, Sign, Term, WorkingSize, protect  # noqa: E402
from stillguard.engine.animators.lab_victims.victim import SIDE, LabVictim  # noqa: E402
from stillguard.engine.losses.anti_i2v import Denoising, RepresentationAnchor, RepresentationCollapse, VelocityMin  # noqa: E402
from stillguard.engine.losses.dormant import VAELatent  # noqa: E402
from stillguard.engine.metrics.visibility import psnr  # noqa: E402
from stillguard.engine.observation import Features, Observation  # noqa: E402
from stillguard.engine.surrogates.denoiser import FIRST_STEPS, HIGH, TIMESTEPS, WHOLE, Tap  # noqa: E402
from stillguard.engine.surrogates.perceptual import load_perceptual_network  # noqa: E402
from stillguard.engine.surrogates.video_setup import VideoSetup  # noqa: E402
from stillguard.engine.weights.catalogue import VICTIMS  # noqa: E402
from stillguard.lab.effect import Laboratory, Person  # noqa: E402
from stillguard.lab.pairs import load_pairs  # noqa: E402
from torch import Tensor  # noqa: E402

SIZE = WorkingSize(SIDE)
KEPT = Path(__file__).parent / "kept" / "anti_i2v_choices.json"
SHALLOW, DEEP = 0, (1, 2, 3)
DECIBELS = "{:.1f} ({:.1f} to {:.1f})"
Terms = Callable[[], tuple[Term, ...]]


class LabVideo:
    """The laboratory's transformer in one pose as a VideoModel whose videos are one frame: latents [1,8,16,16]."""

    sampled = None

    def __init__(self, victim: LabVictim, pose: Tensor) -> None:
        self.autoencoder, self.network, self.pose = victim._autoencoder, victim._network, pose

    @property
    def conditioner(self) -> object:
        return self.autoencoder

    def condition(self, image: Tensor) -> Features:
        return (self.autoencoder.encode(image),)

    def shape(self, image: Tensor) -> tuple[int, ...]:
        return (1, 8, SIDE // 8, SIDE // 8)

    def output_scale(self, level: float) -> float:
        return level

    def prior(self, image: Tensor) -> Tensor:
        """Euler's method, as the victim animates."""
        seen, steps = self.autoencoder.encode(image), 15
        latents = torch.randn(self.shape(image), generator=torch.Generator().manual_seed(0))
        for step in range(steps, 0, -1):
            latents = latents - self.network(latents, torch.tensor([step / steps]), seen, self.pose) / steps
        return latents

    def still(self, image: Tensor) -> Tensor:
        return self.autoencoder.encode(image)

    def noised(self, latents: Tensor, noise: Tensor, level: float) -> Tensor:
        return (1 - level) * latents + level * noise

    def read(self, noisy: Tensor, level: float, conditioning: Features, *, taps: Sequence[Tap]) -> Features:
        return self.estimate(noisy, level, conditioning, taps=taps)[1:]

    def estimate(self, noisy: Tensor, level: float, conditioning: Features, *, taps: Sequence[Tap] = ()) -> Features:
        read: dict[Tap, Tensor] = {}

        def keep(tap: Tap) -> Callable[..., None]:
            def kept(module: object, inputs: object, output: Tensor) -> None:
                # The photo's own tokens come behind the frame's.
                tokens = output[:, : output.shape[1] // 2]
                side = int(tokens.shape[1] ** 0.5)
                read[tap] = tap.read(tokens if tap.kind == "output" else tokens.unflatten(1, (side, side)))

            return kept

        hooks = [self.network.blocks[tap.block].register_forward_hook(keep(tap)) for tap in taps]
        try:
            velocity = self.network(noisy, torch.tensor([level]), conditioning[0], self.pose)
        finally:
            for hook in hooks:
                hook.remove()
        return (noisy - level * velocity, *(read[tap] for tap in taps))


@dataclass(frozen=True)
class Along:
    """Ascended by signs it is random noise of a space, as far as the budget goes."""

    seed: int
    surrogates = ()

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        seen = adversarial.image
        return (seen * torch.randn(seen.shape, generator=torch.Generator().manual_seed(self.seed))).sum()


def within(pixels: RGB) -> RGB:
    return pixels


def ways(model: LabVideo) -> dict[str, tuple[Terms, Any]]:
    """Row -> its terms, made anew for each photo, and the space of a budget."""

    def setup(levels: str = WHOLE) -> VideoSetup:
        return VideoSetup(model, TIMESTEPS[levels])  # type: ignore[arg-type]

    def collapse(setup: VideoSetup, stop_gradient: bool = False) -> Term:
        return Term("IRC", -1.0, RepresentationCollapse(setup, SHALLOW, DEEP, stop_gradient), scaled=True)

    def anchor(setup: VideoSetup, picture: Tensor | None = None) -> Term:
        return Term("IRA", -1.0, RepresentationAnchor(setup, (0, 1, 2, 3), None, picture), scaled=True)

    def denoising(setup: VideoSetup) -> Term:
        return Term("L_DM", 1.0, Denoising(setup), scaled=True)

    def velocity(levels: tuple[float, ...]) -> tuple[Term, ...]:
        fresh = VideoSetup(model, levels, fresh=True)  # type: ignore[arg-type]
        return (Term("Velocity-Min", -1.0, VelocityMin(fresh)),)

    def whole(levels: str = WHOLE) -> Terms:
        def terms() -> tuple[Term, ...]:
            shared = setup(levels)
            return (collapse(shared), anchor(shared), denoising(shared))

        return terms

    grain = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    spaces: dict[str, Any] = {
        "chroma": Chroma,
        "low frequency": lambda pixels: LowFrequency(pixels, working_size=SIZE),
        "chroma, then low frequency": lambda pixels: Alternating((Chroma(pixels), LowFrequency(pixels, working_size=SIZE))),
    }
    return {
        **{f"random in {name}": (lambda: (Term("random", 1.0, Along(1)),), space) for name, space in spaces.items()},
        "VAE Latent": (lambda: (Term("VAE", 1.0, VAELatent(model.autoencoder)),), within),
        "IRC": (lambda: (collapse(setup()),), within),
        "IRC, stop-gradient": (lambda: (collapse(setup(), True),), within),
        "IRA, landscape": (lambda: (anchor(setup()),), within),
        "IRA, noise": (lambda: (anchor(setup(), grain),), within),
        "L_DM": (lambda: (denoising(setup()),), within),
        "L_DM, high noise": (lambda: (denoising(setup(HIGH)),), within),
        "Velocity-Min": (lambda: velocity(FIRST_STEPS), within),
        "Velocity-Min, whole schedule": (lambda: velocity(TIMESTEPS[WHOLE]), within),
        "IRC + IRA - L_DM": (whole(), within),
        "IRC + IRA - L_DM, high noise": (whole(HIGH), within),
        **{f"IRC + IRA - L_DM in {name}": (whole(), space) for name, space in spaces.items()},
    }


def pictures(person: Person, victim: LabVictim, options: argparse.Namespace) -> Iterator[tuple[str, Tensor]]:
    signs = torch.randn(person.photo.shape, generator=torch.Generator().manual_seed(person.number)).sign()
    yield "random signs", (person.photo + signs * options.budget / 255).clamp(0, 1)
    for name, (terms, space) in ways(LabVideo(victim, person.poses[:1])).items():
        settings = {"space": space(RGB(options.budget)), "update": Sign(1.0), "working_size": SIZE, "steps": options.steps}
        *_, last = protect(person.photo, Objective(terms()), seed=person.number, **settings)
        yield name, last.image


def measured(person: Person, victim: LabVictim, lpips: Any, options: argparse.Namespace) -> Iterator[tuple[str, list[float]]]:
    """Rows "picture | at equal": PSNR of each animator's frame, LPIPS and PSNR of the photo."""

    def too_visible(picture: Tensor) -> bool:
        return float(lpips(person.photo, picture)) > options.lpips

    for name, picture in pictures(person, victim, options):
        for equal, shown in (("budget", picture), ("LPIPS", scaled(person.photo, picture, too_visible)[0])):
            found = {figure.animator: figure.psnr for figure in person.compared(shown, name)}
            seen = float(lpips(person.photo, shown)), float(psnr(person.photo, shown))
            yield f"{name} | {equal}", [found["transformer"], found["unet"], found["surrogate"], *seen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of NNN_0.jpg, NNN_1.jpg and poses.npz")
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--budget", type=float, default=8.0)
    parser.add_argument("--lpips", type=float, default=0.05)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--known", type=Path, nargs="+", default=[paths.BENCH / "anti_i2v_choices.json", KEPT])
    options = parser.parse_args()
    torch.set_num_threads(1)
    lpips = load_perceptual_network(weights.lpips_backbone(paths.BENCH / "models" / "stillguard"))
    laboratory, known = Laboratory(), Rows(options.known)
    victim = LabVictim("transformer", VICTIMS)
    for pair in load_pairs(options.data, side=SIDE, held_out=True)[: options.people]:
        title = f"person {pair.number}"
        if title not in known.all:
            known.keep(title, dict(measured(Person(laboratory, pair), victim, lpips, options)))
            print(f"{title} is done", flush=True)
    columns = ("picture | at equal", "transformer (surrogate), dB", "unet, dB", "animator, dB", "photo, LPIPS", "photo, dB")
    known.print_table(columns, (DECIBELS, DECIBELS, DECIBELS, "{:.3f}", "{:.1f}"))


if __name__ == "__main__":
    main()
