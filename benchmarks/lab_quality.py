"""How good the laboratory's animators are: their frame of a person in another pose against the true photo.

    nox -s benchmarks -- lab_quality --data PAIRS [--people 84] [--lpips VGG16] [--sheet sheet.png]

Held-out pairs at 128 pixels. PSNR (higher is better) and LPIPS (lower is better) with 95 % bootstrap intervals, beside showing the
first photo unchanged, which gets the background right and the pose wrong, and beside the true photo through each autoencoder, which
no animator in its latent space can beat.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from bench import cpu_shim
from torch import Tensor

cpu_shim.install()

from effect import interval  # noqa: E402
from stillguard.engine.animators.lab_victims.autoencoder import VictimAutoencoder  # noqa: E402
from stillguard.engine.animators.lab_victims.victim import FILE  # noqa: E402
from stillguard.engine.conversions import to_pillow  # noqa: E402
from stillguard.engine.metrics.visibility import psnr  # noqa: E402
from stillguard.engine.surrogates.perceptual import load_perceptual_network  # noqa: E402
from stillguard.engine.weights.catalogue import LAB, VICTIMS  # noqa: E402
from stillguard.engine.weights.reading import load_own  # noqa: E402
from stillguard.lab.effect import Laboratory, Person  # noqa: E402
from stillguard.lab.pairs import load_pairs  # noqa: E402

SHEET = 12


@torch.no_grad()
def shown(laboratory: Laboratory, autoencoder: VictimAutoencoder, person: Person) -> dict[str, Tensor]:
    """What stands for the true second photo, by name; each [1,3,S,S]."""
    vae = laboratory.lab.vae
    return {
        "the first photo, unchanged": person.photo,
        **{name: person.clean(name) for name in laboratory.animators},
        "true photo through the surrogate's autoencoder": vae.decode(vae.encode(person.truth)).clamp(0, 1),
        "true photo through the victims' autoencoder": autoencoder.decode(autoencoder.encode(person.truth)).clamp(0, 1),
    }


def row(person: Person, pictures: dict[str, Tensor]) -> Tensor:
    """Photo, pose, truth, then each animator: [3,S,6*S]."""
    made = [pictures[name] for name in ("surrogate", "transformer", "unet")]
    return torch.cat([person.photo, person.poses[1:], person.truth, *made], dim=3)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of pairs; without one nothing can be measured")
    parser.add_argument("--people", type=int, default=84)
    parser.add_argument("--networks", type=Path, default=LAB, help="folder of the surrogate's networks, by default those that ship")
    parser.add_argument("--victims", type=Path, default=VICTIMS, help="folder of the victims, by default those that ship")
    parser.add_argument("--lpips", type=Path, help="VGG16 weights of LPIPS; without them it shows nan")
    parser.add_argument("--sheet", type=Path, help=f"a picture of {SHEET} people: photo, pose, true photo, the animators' frames")
    given = parser.parse_args()
    if given.data is None:
        print("lab_quality: give the folder of pairs with --data.")
        return
    laboratory = Laboratory(given.networks, given.victims)
    autoencoder = load_own(VictimAutoencoder(), given.victims / FILE.format("autoencoder"))
    lpips = load_perceptual_network(given.lpips) if given.lpips else None
    figures: dict[str, list[tuple[float, float]]] = {}
    rows = []
    pairs = load_pairs(given.data, side=128, held_out=True)[: given.people]
    for pair in pairs:
        person = Person(laboratory, pair)
        pictures = shown(laboratory, autoencoder, person)
        for name, picture in pictures.items():
            with torch.no_grad():
                distance = float("nan") if lpips is None else float(lpips(picture, person.truth))
            figures.setdefault(name, []).append((float(psnr(person.truth, picture)), distance))
        if len(rows) < SHEET and pair.number % 20 == 0:
            rows.append(row(person, pictures))
    print(f"{len(pairs)} held-out pairs\n| picture | PSNR, dB | LPIPS |\n|---|---|---|")
    for name, values in figures.items():
        decibels, distances = ([value[i] for value in values] for i in range(2))
        print("| {} | {:.1f} [{:.1f}, {:.1f}] | {:.3f} [{:.3f}, {:.3f}] |".format(name, *interval(decibels), *interval(distances)))
    if given.sheet is not None and rows:
        to_pillow(torch.cat(rows, dim=1)).save(given.sheet)
        print(given.sheet)


if __name__ == "__main__":
    main()
