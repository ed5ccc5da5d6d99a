"""Anti-I2V's spaces against pixels: how far trained networks' features move, and what edits and purifiers leave of that.

    nox -s benchmarks -- dual_space --data PAIRS [--taef2 FOLDER] [--mobile-sam mobile_sam.pt] [--people 12] [--random] [--known ROWS.json]

Photos of held-out people, cut to 256 px, are protected by sign steps up the distance of a network's features from the clean photo's: in
RGB, in chroma, in low frequencies, and in these two by turns. Each as it is (equal budget), and scaled until its LPIPS is the wanted one
(equal visibility), beside random signs. Then clean and changed photo go through the same edit. Distances are root mean squares over the
clean features' standard deviation: means over photos with 95 % bootstrap intervals; "left" is a share of the distance before the edit. The
networks: the shipped autoencoder, TAEF2 and MobileSAM's encoder. The denoiser in pixels is that of purifiers.py. Rows of finished photos
are kept, and a run goes on. With --random no network is attacked: sign steps along a random direction in each space, which is the noise
that a method in this space has to beat.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from anti_i2v_choices import Along
from bench import paths, weights
from latent_space import moved, scaled
from purifiers import CACHE, PixelDenoiser, Taef2, pixel_rows, train
from rows import SPREAD, Rows
from stillguard.engine import RGB, Alternating, Chroma, LowFrequency, Objective, Sign, Term, WorkingSize, protect
from stillguard.engine.losses.dormant import VAELatent
from stillguard.engine.metrics.visibility import psnr
from stillguard.engine.picture import resize
from stillguard.engine.purify.edits import JPEGFile
from stillguard.engine.surrogates.perceptual import load_perceptual_network
from stillguard.engine.surrogates.tiny_autoencoder import load_tiny_autoencoder
from stillguard.engine.transforms import GaussianBlur
from stillguard.lab.pairs import load_pairs
from torch import Tensor

SIDE = 256
KEPT = Path(__file__).parent / "kept"
SIZE = WorkingSize(SIDE)
Edit = Callable[[Tensor], Tensor]
SPACES: dict[str, Callable[[RGB], Any]] = {
    "RGB": lambda pixels: pixels,
    "chroma": Chroma,
    "low frequency": lambda pixels: LowFrequency(pixels, working_size=SIZE),
    "low frequency, square of a half": lambda pixels: LowFrequency(pixels, "square", 0.5, working_size=SIZE),
    "chroma, then low frequency": lambda pixels: Alternating((Chroma(pixels), LowFrequency(pixels, working_size=SIZE))),
}


GRID = "GrIDPure"
IN_GRIDS = ("random signs", "RGB", "chroma, then low frequency")
"""It takes as long as all else: so many rows, and only at equal visibility."""


def halved(picture: Tensor) -> Tensor:
    return resize(resize(picture, (SIDE // 2, SIDE // 2)), (SIDE, SIDE))


def edits(denoiser: PixelDenoiser) -> dict[str, Edit]:
    jpeg = JPEGFile(75)
    purifiers = {name.split(",")[0]: edit for name, edit in pixel_rows(denoiser, 0).items() if name.startswith(("DDS", GRID))}
    return {
        "JPEG 75": jpeg,
        "blur": GaussianBlur(1.0, 5),
        "half size and back": halved,
        "JPEG 75, half size and back": lambda picture: halved(jpeg(picture)),
        **purifiers,
    }


def stepped(loss: Any, clean: Tensor, space: Any, options: argparse.Namespace) -> Tensor:
    objective = Objective((Term("distance", 1.0, loss),))
    *_, last = protect(clean, objective, space=space, update=Sign(1.0), working_size=SIZE, steps=options.steps)
    return last.image


def signs(clean: Tensor, levels: float, seed: int) -> Tensor:
    return (clean + torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed)).sign() * levels / 255).clamp(0, 1)


def measured(
    networks: dict[str, Any], clean: Tensor, lpips: Any, chosen: dict[str, Edit], options: argparse.Namespace, seed: int
) -> Iterator[tuple[str, list[float]]]:
    """Rows "network | at equal | space": distance, what each edit leaves of it (GrIDPure 0 where it is not asked), LPIPS, PSNR."""

    def too_visible(picture: Tensor) -> bool:
        return float(lpips(clean, picture)) > options.lpips

    edited = {name: edit(clean).clamp(0, 1) for name, edit in chosen.items()}
    noise = {} if options.random else {"random signs": signs(clean, options.budget, seed)}
    if options.random:
        noise = {f"random in {name}": stepped(Along(seed), clean, make(RGB(options.budget)), options) for name, make in SPACES.items()}
    for name, network in networks.items():
        made = dict(noise)
        if not options.random:
            made |= {space: stepped(VAELatent(network), clean, make(RGB(options.budget)), options) for space, make in SPACES.items()}
        for (space, picture), equal in itertools.product(made.items(), ("budget", "LPIPS")):
            shown = picture if equal == "budget" else scaled(clean, picture, too_visible)[0]
            far = moved(network, clean, shown, lambda picture: picture)
            asked = [edit for edit in chosen if edit != GRID or (equal == "LPIPS" and space in IN_GRIDS)]
            left = [
                apart(network, edited[edit], chosen[edit](shown).clamp(0, 1)) / far if far and edit in asked else 0.0 for edit in chosen
            ]
            yield f"{name} | {equal} | {space}", [far, *left, float(lpips(clean, shown)), float(psnr(clean, shown))]


@torch.no_grad()
def apart(network: Any, before: Tensor, after: Tensor) -> float:
    first, second = network.encode(before), network.encode(after)
    return float((second - first).square().mean().sqrt() / first.std())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of NNN_0.jpg, NNN_1.jpg and poses.npz")
    parser.add_argument("--taef2", type=Path)
    parser.add_argument("--mobile-sam", type=Path, help="mobile_sam.pt, as published")
    parser.add_argument("--people", type=int, default=12)
    parser.add_argument("--budget", type=float, default=8.0)
    parser.add_argument("--lpips", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--random", action="store_true", help="noise of each space in place of the attack")
    parser.add_argument("--known", type=Path, nargs="+", help="rows that are kept; the first is written")
    options = parser.parse_args()
    rows = f"dual_space{'_random' if options.random else ''}.json"
    torch.set_num_threads(1)
    networks: dict[str, Any] = {"stillguard_lab_vae": load_tiny_autoencoder()}
    if options.taef2 is not None:
        networks["TAEF2"] = Taef2(options.taef2)
    if options.mobile_sam is not None:
        from mobile_sam import MobileSAM

        networks["MobileSAM"] = MobileSAM(options.mobile_sam)
    lpips = load_perceptual_network(weights.lpips_backbone(paths.BENCH / "models" / "stillguard"))
    torch.manual_seed(0)
    denoiser = PixelDenoiser()
    train(denoiser, "pixels", options.data, 10)
    chosen, known = edits(denoiser), Rows(options.known or [CACHE / rows, KEPT / rows])
    for pair in load_pairs(options.data, side=SIDE, held_out=True)[: options.people]:
        title = f"person {pair.number}"
        if title not in known.all:
            clean = pair.pictures[:1].float() / 255
            known.keep(title, dict(measured(networks, clean, lpips, chosen, options, pair.number)))
            print(f"{title} is done", flush=True)
    columns = ("network | at equal | space", "distance", *(f"left after {name}" for name in chosen), "LPIPS", "PSNR")
    known.print_table(columns, (*[SPREAD] * (1 + len(chosen)), "{:.3f}", "{:.1f}"))


if __name__ == "__main__":
    main()
