"""Train the autoencoder that ships with the pack, from scratch, on pictures of a folder.

    python -m stillguard.lab.train_autoencoder --data PAIRS --checkpoint run/vae.pt --out OUT

It can be stopped and called again with the same arguments. Pairs whose number is a multiple of ten are never trained on; the figure that
it prints is the reconstruction PSNR on their first pictures at 256 px, aspect kept, rounded to fp16 as shipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ..engine.metrics.visibility import psnr
from ..engine.surrogates.sd_unet import LATENT_SCALE
from ..engine.surrogates.tiny_autoencoder import TinyAutoencoder
from .pairs import is_held_out
from .training import Loss, Training, arguments, device_of, mixed, run, share_done, shipped

FILE = "stillguard_lab_vae.safetensors"
LONGEST_SIDE = 256
LATENT_PENALTY = 1e-4


def load_pictures(folder: Path, *, held_out: bool) -> list[Tensor]:
    """uint8 tensors [3,H,W] at LONGEST_SIDE, with sides that are multiples of 8; of held-out pairs only the first picture."""
    pictures = []
    for path in sorted(folder.glob("*_[01].jpg")):
        if is_held_out(int(path.stem.split("_")[0])) != held_out or (held_out and path.stem.endswith("1")):
            continue
        with Image.open(path) as file:
            picture = file.convert("RGB")
        scale = LONGEST_SIDE / max(picture.size)
        size = (max(8, round(picture.width * scale / 8) * 8), max(8, round(picture.height * scale / 8) * 8))
        pictures.append(torch.from_numpy(np.array(picture.resize(size, Image.Resampling.LANCZOS))).permute(2, 0, 1).contiguous())
    if not pictures:
        raise SystemExit(f"No pictures named NNN_0.jpg / NNN_1.jpg in {folder}: give the folder of pairs with --data.")
    return pictures


def draw_batch(pictures: list[Tensor], *, batch: int, crop: int, generator: torch.Generator) -> Tensor:
    """Random crops with a random flip, [batch,3,crop,crop] in [0,1]."""
    crops = []
    for index in torch.randint(len(pictures), (batch,), generator=generator).tolist():
        picture = pictures[index]
        top, left = (int(torch.randint(max(1, n - crop + 1), (), generator=generator)) for n in picture.shape[1:])
        patch = picture[:, top : top + crop, left : left + crop]
        patch = F.pad(patch.float(), (0, crop - patch.shape[2], 0, crop - patch.shape[1]), mode="replicate")
        crops.append(patch.flip(-1) if torch.rand((), generator=generator) < 0.5 else patch)
    return torch.stack(crops).div_(255)


@torch.inference_mode()
def reconstruction_psnr(network: nn.Module, pictures: Iterable[Tensor]) -> float:
    """Mean over pictures [3,H,W] uint8 of the PSNR in dB of decode(encode(x)), clamped to [0,1]."""
    images = (picture[None].float() / 255 for picture in pictures)
    return float(torch.cat([psnr(image, network.decode(network.encode(image)).clamp(0, 1)) for image in images]).mean())  # type: ignore[operator]


def initialise(network: TinyAutoencoder) -> None:
    """He initialisation with quiet residual branches: without normalisation layers a plain start diverges at this depth."""
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu")
            if name.endswith("conv.4.weight"):
                parameter.data.mul_(0.1)


def crop_and_batch(progress: float) -> tuple[int, int]:
    """Small crops while the filters form, larger ones in the end so that borders matter less."""
    return (64, 16) if progress < 0.6 else (128, 6)


def rebuilding(pictures: list[Tensor], progress: Callable[[], float]) -> Loss:
    """Ten times the mean squared error, which is what PSNR measures, and a light pull of latents towards zero."""

    def loss(network: nn.Module, generator: torch.Generator) -> Tensor:
        crop, batch = crop_and_batch(progress())
        image = draw_batch(pictures, batch=batch, crop=crop, generator=generator)
        image = image.contiguous(memory_format=torch.channels_last).to(device_of(network))
        with mixed(image.device):
            latent = network.encode(image)  # type: ignore[operator]
            rebuilt = network.decode(latent)  # type: ignore[operator]
        return 10 * F.mse_loss(rebuilt.float(), image) + LATENT_PENALTY * latent.float().square().mean()

    return loss


def shipped_state(average: dict[str, Tensor], pictures: list[Tensor]) -> dict[str, Tensor]:
    """fp16 weights with the scale that gives latents of these pictures unit variance after Stable Diffusion 1.5's factor."""
    state, network = shipped(average, TinyAutoencoder())
    with torch.inference_mode():
        latents = torch.cat([network.encode(picture[None].float() / 255).flatten() for picture in pictures[::32]])
    return {**state, "vae_scale": (latents.std() * LATENT_SCALE).half()}


def begin(seed: int, device: str = "cpu") -> Training:
    torch.manual_seed(seed)
    network = TinyAutoencoder()
    initialise(network)
    # In equal time, Muon reached the loss of Adam in well under half of the steps on this network.
    return Training(network, seed=seed, muon_from=64, weight_decay=0.0, clip=0.5, device=device)


def ship(training: Training, folder: Path, pictures: list[Tensor], held_out: list[Tensor]) -> float:
    """Write the file of the pack with its facts; returns the held-out PSNR of exactly what was written."""
    state, network = shipped(shipped_state(training.average, pictures), TinyAutoencoder())
    quality = reconstruction_psnr(network, held_out)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / FILE, metadata=training.facts(held_out_psnr_db=f"{quality:.2f}"))
    return quality


def main() -> None:
    given = arguments(__doc__, minutes=90, peak=2e-3).parse_args()
    pictures, held_out = (load_pictures(given.data, held_out=choice) for choice in (False, True))
    training = begin(given.seed, given.device)
    loss = rebuilding(pictures, lambda: share_done(training, given))
    run(training, loss, given, lambda now, folder: f"held-out PSNR {ship(now, folder, pictures, held_out):.2f} dB")


if __name__ == "__main__":
    main()
