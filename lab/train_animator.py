r"""Train the small pose-driven animator that ships with the pack, in AnimateAnyone's checkpoint format.

    python -m stillguard.lab.train_animator --data PAIRS --encoder OUT/stillguard_lab_encoder.safetensors \
        --checkpoint run/animator.pt --out OUT

Reference UNet, denoiser with reference attention, motion modules and pose guider are trained together from scratch: given one photo
of a pair and a pose, predict the other photo, or given a sequence of both poses, clips of 2 to 8 frames (v-prediction on the zero-SNR
schedule, Hu et al. 2024; Lin et al. 2024), in the latent space of the shipped autoencoder at 128 pixels.
It can be stopped and called again. The figure that it prints is the loss on held-out pairs at fixed noise.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..engine.animators.pose_animator import noise_schedule
from ..engine.picture import to_levels
from ..engine.surrogates.sd_unet import LATENT_SCALE
from ..engine.surrogates.tiny_autoencoder import SHIPPED, TinyAutoencoder, load_tiny_autoencoder
from ..engine.weights.reading import load_own
from .animator import SIDE, Animator, files, reference_tail, settle
from .pairs import Pair, load_pairs
from .train_encoder import network as encoder_network
from .train_encoder import project
from .training import Loss, Training, arguments, device_of, mixed, run, shipped

# Shares of the short side that training pictures are cut to, so that whole people and portraits are both known.
CLOSER = (1.0, 0.6)
# Weight of the loss that keeps features able to tell where they are.
POSITION = 0.1
# A batch of `FRAMES` is as many single frames, or fewer clips of 2, 4 or 8; one in ten has no reference.
FRAMES, SINGLE, DROPPED = 16, 0.7, 0.1


class Clips(NamedTuple):
    """latents: [N,2,4,h,w] as UNets see them; poses: [N,2,3,S,S] uint8; tokens: [N,2,1,D], each photo's embedding."""

    latents: Tensor
    poses: Tensor
    tokens: Tensor


@torch.no_grad()
def clips(pairs: list[Pair], vae: TinyAutoencoder, encoder: nn.Module) -> Clips:
    """Of all pairs and their mirror images."""
    both = [*pairs, *(pair.mirrored() for pair in pairs)]
    pictures = torch.stack([pair.pictures for pair in both])
    latents, tokens = [], []
    for part in pictures.flatten(0, 1).split(64):
        image = part.float() / 255
        latents.append(vae.encode(image) * LATENT_SCALE)
        tokens.append(project(encoder, image))
    poses = torch.stack([to_levels(pair.poses()).byte() for pair in both])
    whole = torch.cat(latents)
    return Clips(whole.unflatten(0, (-1, 2)), poses, torch.cat(tokens)[:, None].unflatten(0, (-1, 2)))


def denoising(data: Clips, *, frames: int = FRAMES) -> Loss:
    """The loss over random batches of `frames` frames."""
    signal = noise_schedule().alphas_cumprod

    def loss(network: nn.Module, generator: torch.Generator) -> Tensor:
        def whole(high: int, *shape: int) -> Tensor:
            return torch.randint(high, shape, generator=generator)

        length = 1 if float(torch.rand((), generator=generator)) < SINGLE else 2 ** (1 + int(whole(3)))
        batch = frames // length
        rows, shown = whole(len(data.latents), batch), whole(2, batch)  # which photo is the reference
        # Single frames are the other photo; clips show both in any order.
        order = 1 - shown[:, None] if length == 1 else whole(2, batch, length)
        clean, poses = data.latents[rows[:, None], order].transpose(1, 2), data.poses[rows[:, None], order].float() / 255
        reference, tokens = data.latents[rows, shown], data.tokens[rows, shown]
        timesteps = whole(1000, batch)
        guided = bool(torch.rand((), generator=generator) >= DROPPED)
        noise = torch.randn(clean.shape, generator=generator)
        a, b = (value.sqrt().view(-1, 1, 1, 1, 1) for value in (signal[timesteps], 1 - signal[timesteps]))
        inputs, device = (a * clean + b * noise, timesteps, reference, tokens, poses), device_of(network)
        with mixed(device, wanted=torch.is_grad_enabled()):
            velocity = network(*(tensor.to(device) for tensor in inputs), guided=guided)
        error = (velocity - (a * noise - b * clean).to(device)).square().mean()
        return error + POSITION * network.position_error if isinstance(network, Animator) and network.training else error

    return loss


def prepared(given: argparse.Namespace, vae: TinyAutoencoder, encoder: nn.Module, *, held_out: bool) -> Clips:
    """Of all pairs of one side of the split, kept beside the checkpoint, because encoding them takes minutes."""
    made_from = hashlib.sha256(b"".join(map(Path.read_bytes, (SHIPPED, given.encoder, given.data / "poses.npz")))).hexdigest()[:16]
    kept = given.checkpoint.with_suffix(f".{made_from}.{'held_out' if held_out else 'trained'}")
    if not kept.exists():
        parts = [clips(load_pairs(given.data, side=SIDE, held_out=held_out, closer=closer), vae, encoder) for closer in CLOSER]
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(".partial")
        save_file(dict(zip(Clips._fields, (torch.cat(fields).contiguous() for fields in zip(*parts, strict=True)), strict=True)), partial)
        partial.replace(kept)
    return Clips(**load_file(kept))


@torch.no_grad()
def held_out_loss(network: nn.Module, data: Clips) -> float:
    generator = torch.Generator().manual_seed(0)
    loss = denoising(data, frames=64)
    return float(torch.stack([loss(network, generator) for _ in range(16)]).mean())


def main() -> None:
    parser = arguments(__doc__, minutes=40, peak=1e-3)
    parser.add_argument("--encoder", type=Path, required=True, help="the shipped image encoder")
    given = parser.parse_args()
    encoder = load_own(encoder_network(), given.encoder)
    vae = load_tiny_autoencoder()
    trained, held_out = (prepared(given, vae, encoder, held_out=choice) for choice in (False, True))
    torch.manual_seed(given.seed)
    animator = Animator()
    if not given.checkpoint.exists():
        settle(animator, given.seed)

    def ship(training: Training, folder: Path) -> str:
        _, network = shipped(training.average, Animator())
        quality = held_out_loss(network, held_out)
        folder.mkdir(parents=True, exist_ok=True)
        for name, state in files(training.average, reference_tail()).items():
            save_file(state, folder / f"stillguard_lab_{name}.safetensors", metadata=training.facts(held_out_loss=f"{quality:.4f}"))
        return f"held-out loss {quality:.4f}"

    run(Training(animator, seed=given.seed, half_life=300, device=given.device), denoising(trained), given, ship)


if __name__ == "__main__":
    main()
