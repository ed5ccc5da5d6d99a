"""Pixels against latents at equal visibility: how far a VAE's latent moves, and what JPEG and halving leave of that.

    nox -s benchmarks -- latent_space [--photos FOLDER] [--taef2 FOLDER] [--side 256] [--steps 60] [--lpips 0.1] [--psnr 30]

Each photo of FOLDER, cut to a square and reduced, is protected with VAE Latent and an LPIPS Penalty from the wanted LPIPS on: in RGB within
16 levels by momentum sign, and in the latent space of the same VAE by AdamW. Each perturbation is then scaled until the 8-bit picture has
the wanted LPIPS, and once more until it has the wanted PSNR. Distances are root mean squares of the change of latents over the clean
latents' standard deviation, of clean and protected picture after the same edit. Means over photos with 95 % bootstrap intervals. The
other VAE, where there is one, reads the same pictures: it was no surrogate.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from bench import cpu_shim, paths, weights
from PIL import Image
from torch import Tensor

cpu_shim.install()

from effect import interval  # noqa: E402
from stillguard.engine import RGB, AdamW, Latent, MomentumSign, Objective, Term, WorkingSize, protect  # noqa: E402
from stillguard.engine.conversions import from_pillow  # noqa: E402
from stillguard.engine.losses.dormant import LPIPSPenalty, VAELatent  # noqa: E402
from stillguard.engine.metrics.visibility import psnr, visibility  # noqa: E402
from stillguard.engine.picture import LEVELS, resize, to_levels  # noqa: E402
from stillguard.engine.purify.edits import JPEGFile  # noqa: E402
from stillguard.engine.spaces.latent import Autoencoder  # noqa: E402
from stillguard.engine.surrogates.perceptual import PerceptualNetwork, load_perceptual_network  # noqa: E402
from stillguard.engine.surrogates.tiny_autoencoder import load_tiny_autoencoder  # noqa: E402

BUDGET, WEIGHT, PENALTY = 16.0, 10.0, 100.0
HALVINGS = 10
Edit = Callable[[Tensor], Tensor]
_jpeg: Edit = JPEGFile(75)


def halved(picture: Tensor) -> Tensor:
    return resize(picture, (picture.shape[-2] // 2, picture.shape[-1] // 2))


EDITS: dict[str, Edit] = {
    "as it is": lambda picture: picture,
    "JPEG 75": _jpeg,
    "JPEG 75, half size": lambda picture: halved(_jpeg(picture)),
}


def opened(folder: Path | None) -> Iterator[tuple[str, Image.Image]]:
    if folder is None:
        from skimage.data import astronaut

        yield "astronaut", Image.fromarray(astronaut())
        return
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"):
            with Image.open(path) as photo:
                yield path.stem, photo.convert("RGB")


def photos(folder: Path | None, side: int) -> Iterator[tuple[str, Tensor]]:
    """Each [1,3,side,side], the upper middle of a photo."""
    for name, photo in opened(folder):
        edge, left = min(photo.size), (photo.width - min(photo.size)) // 2
        square = photo.crop((left, 0, left + edge, edge)).resize((side, side), Image.Resampling.LANCZOS)
        yield name, from_pillow(square)[None]


@torch.no_grad()
def moved(vae: Autoencoder, clean: Tensor, changed: Tensor, edit: Edit) -> float:
    """How far the latent of an edited picture moved, in standard deviations."""
    before, after = vae.encode(edit(clean)), vae.encode(edit(changed))
    return float((after - before).square().mean().sqrt() / before.std())


@torch.no_grad()
def scaled(clean: Tensor, changed: Tensor, visible: Callable[[Tensor], bool]) -> tuple[Tensor, float]:
    """The last 8-bit picture on the way through `changed` that is not too visible, and how far it is along that way."""
    least, most = 0.0, 2.0
    for _ in range(HALVINGS):
        share = (least + most) / 2
        picture = to_levels(clean + share * (changed - clean)) / LEVELS
        least, most = (least, share) if visible(picture) else (share, most)
    return to_levels(clean + least * (changed - clean)) / LEVELS, least


def protected(vae: Autoencoder, lpips: PerceptualNetwork, clean: Tensor, space: str, options: argparse.Namespace) -> Tensor:
    size = WorkingSize(options.side)
    objective = Objective((Term("VAE Latent", WEIGHT, VAELatent(vae)), Term("LPIPS", -PENALTY, LPIPSPenalty(lpips, options.lpips))))
    way = {
        "RGB": (RGB(BUDGET), MomentumSign()),
        "latent": (Latent(vae, working_size=size), AdamW(options.rate)),
    }
    chosen, update = way[space]
    *_, last = protect(clean, objective, space=chosen, update=update, working_size=size, steps=options.steps)
    return last.image


def readings(vaes: dict[str, Autoencoder], own: str, clean: Tensor, picture: Tensor, lpips: PerceptualNetwork) -> dict[str, float]:
    found = {}
    for edit_name, edit in EDITS.items():
        for name, vae in vaes.items():
            found[edit_name if name == own else f"{edit_name}, seen by {name}"] = moved(vae, clean, picture, edit)
    for edit_name in list(EDITS)[1:]:
        found[f"share left after {edit_name}"] = found[edit_name] / found["as it is"]
    (seen,) = visibility(clean, picture, lpips=lpips)
    return {**found, "PSNR": seen.psnr, "largest change": float(seen.linf), "LPIPS": seen.lpips or 0.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="scikit-image's astronaut alone where there is none")
    parser.add_argument("--taef2", type=Path, help="folder with taef2_encoder.safetensors and taef2_decoder.safetensors")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rate", type=float, default=1.0, help="AdamW's learning rate in hundredths of a standard deviation")
    parser.add_argument("--lpips", type=float, default=0.1)
    parser.add_argument("--psnr", type=float, default=30.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lpips = load_perceptual_network(weights.lpips_backbone(paths.BENCH / "models" / "stillguard"))
    vaes: dict[str, Autoencoder] = {"stillguard_lab_vae": load_tiny_autoencoder()}
    if options.taef2 is not None:
        from purifiers import Taef2

        vaes["taef2"] = Taef2(options.taef2)
    rows: dict[tuple[str, ...], list[float]] = {}
    equal: dict[str, Callable[[Tensor, Tensor], bool]] = {
        f"LPIPS {options.lpips:g}": lambda clean, picture: float(lpips(clean, picture)) > options.lpips,
        f"PSNR {options.psnr:g} dB": lambda clean, picture: float(psnr(clean, picture)) < options.psnr,
    }
    for name, clean in photos(options.photos, options.side):
        for vae_name, vae in vaes.items():
            with torch.no_grad():
                rebuilt = float(lpips(clean, vae.decode(vae.encode(clean)).clamp(0, 1)))
            rows.setdefault((vae_name, "LPIPS of the VAE's own rebuilding"), []).append(rebuilt)
            for space in ("RGB", "latent"):
                changed = protected(vae, lpips, clean, space, options)
                for measure, too_visible in equal.items():
                    picture, share = scaled(clean, changed, lambda picture: too_visible(clean, picture))  # noqa: B023
                    found = readings(vaes, vae_name, clean, picture, lpips)
                    for reading, value in found.items():
                        rows.setdefault((vae_name, measure, space, reading), []).append(value)
                    figures = ", ".join(f"{reading} {value:.3f}" for reading, value in found.items())
                    print(f"{name}, {vae_name}, {space}, {measure}: scaled by {share:.2f}, {figures}", flush=True)
    for key, values in rows.items():
        print(f"| {' | '.join(key)} | " + "{:.3f} ({:.3f} to {:.3f}) |".format(*interval(values)))


if __name__ == "__main__":
    main()
