r"""Train the victims that ship with the pack: their autoencoder, then two animators in its latent space.

    python -m stillguard.lab.train_victims autoencoder --data PAIRS --checkpoint run/victim_vae.pt --out OUT --minutes 15
    python -m stillguard.lab.train_victims transformer --data PAIRS --checkpoint run/transformer.pt --out OUT
    python -m stillguard.lab.train_victims unet --data PAIRS --checkpoint run/unet.pt --out OUT

The animators are rectified flows (Liu et al. 2023): given one photo of a pair and a pose, predict the other photo. They share no
weight, layout or latent space with the animator of train_animator.py, so that they can say what a protection does to networks it
was not made with. Each can be stopped and called again; the figure printed is that of held-out pairs.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ..engine.animators.lab_victims.autoencoder import VictimAutoencoder
from ..engine.animators.lab_victims.victim import FILE, NETWORKS, SIDE
from ..engine.picture import to_levels
from ..engine.weights.reading import load_own
from .pairs import Pair, load_pairs
from .train_animator import CLOSER
from .train_autoencoder import reconstruction_psnr
from .training import Loss, Training, arguments, device_of, mixed, run, shipped

FRAMES, CROP = 16, 96
# Share of frames that show the photo itself in its own pose: there every detail is known, which teaches to look it up.
SAME = 0.25


class Photos(NamedTuple):
    """latents: [N,2,8,h,w]; poses: [N,2,3,S,S] uint8."""

    latents: Tensor
    poses: Tensor


def rebuilding(pictures: Tensor) -> Loss:
    """The autoencoder's loss over random crops of [N,3,S,S] uint8."""

    def loss(network: nn.Module, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(pictures), (FRAMES,), generator=generator)
        top, left = torch.randint(pictures.shape[-1] - CROP + 1, (2,), generator=generator).tolist()
        image = pictures[rows, :, top : top + CROP, left : left + CROP].float() / 255
        image = image.to(device_of(network))
        with mixed(image.device):
            rebuilt = network.decode(network.encode(image))  # type: ignore[operator]
        return 10 * F.mse_loss(rebuilt.float(), image)

    return loss


def flow(data: Photos, *, frames: int = FRAMES) -> Loss:
    """Mean squared error of the velocity noise - clean at times in [0,1]."""

    def loss(network: nn.Module, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(data.latents), (frames,), generator=generator)
        shown = torch.randint(2, (frames,), generator=generator)
        drawn = torch.where(torch.rand(frames, generator=generator) < SAME, shown, 1 - shown)
        clean, photo, pose = data.latents[rows, drawn], data.latents[rows, shown], data.poses[rows, drawn].float() / 255
        # Not drawn around the middle (Esser et al. 2024): the first steps from noise must find the layout, and are hard here.
        time = torch.rand(frames, generator=generator)
        noise, share = torch.randn(clean.shape, generator=generator), time.view(-1, 1, 1, 1)
        inputs, device = ((1 - share) * clean + share * noise, time, photo, pose), device_of(network)
        with mixed(device, wanted=torch.is_grad_enabled()):
            velocity = network(*(tensor.to(device) for tensor in inputs))
        return (velocity - (noise - clean).to(device)).square().mean()

    return loss


@torch.no_grad()
def photos(pairs: list[Pair], autoencoder: VictimAutoencoder) -> Photos:
    """Of all pairs and their mirror images."""
    both = [*pairs, *(pair.mirrored() for pair in pairs)]
    latents = [autoencoder.encode(pair.pictures.float() / 255) for pair in both]
    return Photos(torch.stack(latents), torch.stack([to_levels(pair.poses()).byte() for pair in both]))


@torch.no_grad()
def held_out_loss(network: nn.Module, data: Photos) -> float:
    generator, loss = torch.Generator().manual_seed(0), flow(data, frames=64)
    return float(torch.stack([loss(network, generator) for _ in range(16)]).mean())


def both_cuts(given: argparse.Namespace, *, held_out: bool) -> list[list[Pair]]:
    return [load_pairs(given.data, side=SIDE, held_out=held_out, closer=closer) for closer in CLOSER]


def train_autoencoder(given: argparse.Namespace) -> None:
    trained, held_out = (torch.cat([pair.pictures for cut in both_cuts(given, held_out=h) for pair in cut]) for h in (False, True))
    torch.manual_seed(given.seed)

    def ship(training: Training, folder: Path) -> str:
        state, network = shipped(training.average, VictimAutoencoder())
        quality = reconstruction_psnr(network, held_out)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(state, folder / FILE.format("autoencoder"), metadata=training.facts(held_out_psnr_db=f"{quality:.2f}"))
        return f"held-out PSNR {quality:.2f} dB"

    run(Training(VictimAutoencoder(), seed=given.seed, muon_from=64, device=given.device), rebuilding(trained), given, ship)


def train_animator(given: argparse.Namespace) -> None:
    autoencoder = load_own(VictimAutoencoder(), given.out / FILE.format("autoencoder"))
    parts = [[photos(cut, autoencoder) for cut in both_cuts(given, held_out=h)] for h in (False, True)]
    trained, held_out = (Photos(*(torch.cat(fields) for fields in zip(*part, strict=True))) for part in parts)
    torch.manual_seed(given.seed)

    def ship(training: Training, folder: Path) -> str:
        state, network = shipped(training.average, NETWORKS[given.network]())
        quality = held_out_loss(network, held_out)
        save_file(state, folder / FILE.format(given.network), metadata=training.facts(held_out_loss=f"{quality:.4f}"))
        return f"held-out loss {quality:.4f}"

    run(Training(NETWORKS[given.network](), seed=given.seed, half_life=300, device=given.device), flow(trained), given, ship)


def main() -> None:
    parser = arguments(__doc__, minutes=25, peak=1e-3)
    parser.add_argument("network", choices=["autoencoder", *NETWORKS])
    given = parser.parse_args()
    (train_autoencoder if given.network == "autoencoder" else train_animator)(given)


if __name__ == "__main__":
    main()
