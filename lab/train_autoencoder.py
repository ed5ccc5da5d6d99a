"""Train the autoencoder that ships with the pack, from scratch, on pictures of a folder.

    python -m stillguard.lab.train_autoencoder --data PAIRS --checkpoint run/vae.pt --minutes 90 --out stillguard_lab_vae.safetensors

It can be stopped at any moment and called again with the same arguments: it goes on from the checkpoint (weights, running
average, optimisers, random state, minutes used). Pairs whose number is a multiple of ten are never trained on; the figure that
it prints is the reconstruction PSNR on their first pictures at 256 px, aspect kept, rounded to fp16 as shipped.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ..engine.surrogates.sd_unet import LATENT_SCALE
from ..engine.surrogates.tiny_autoencoder import TinyAutoencoder
from .pairs import is_held_out
from .training import Optimisers, learning_rate

LONGEST_SIDE = 256
LATENT_PENALTY = 1e-4
EMA_HALF_LIFE = 150


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
def reconstruction_psnr(network: TinyAutoencoder, pictures: list[Tensor]) -> float:
    """Mean over pictures of the PSNR in dB of decode(encode(x)), clamped to [0,1]."""
    values = []
    for picture in pictures:
        image = picture[None].float() / 255
        error = F.mse_loss(network.decode(network.encode(image)).clamp(0, 1), image)
        values.append(-10 * math.log10(float(error)))
    return sum(values) / len(values)


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


def train_step(network: TinyAutoencoder, image: Tensor) -> Tensor:
    """Gradients of the mean squared error, which is what PSNR measures, and of a light pull of latents towards zero."""
    network.zero_grad(set_to_none=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        latent = network.encode(image)
        rebuilt = network.decode(latent)
    loss = F.mse_loss(rebuilt.float(), image)
    (10 * loss + LATENT_PENALTY * latent.float().square().mean()).backward()
    nn.utils.clip_grad_norm_(network.parameters(), 0.5)
    return loss.detach()


def shipped_state(average: dict[str, Tensor], pictures: list[Tensor]) -> dict[str, Tensor]:
    """fp16 weights with the scale that gives latents of these pictures unit variance after Stable Diffusion 1.5's factor."""
    network = TinyAutoencoder()
    network.load_state_dict({key: value.half().float() for key, value in average.items()})
    with torch.inference_mode():
        latents = torch.cat([network.encode(picture[None].float() / 255).flatten() for picture in pictures[::32]])
    average = {**average, "vae_scale": latents.std() * LATENT_SCALE}
    return {key: value.half().contiguous() for key, value in average.items()}


class Training:
    """Everything that a checkpoint holds."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.seed = seed
        self.generator = torch.Generator().manual_seed(seed)
        self.network = TinyAutoencoder()
        initialise(self.network)
        # In equal time, Muon reached the loss of Adam in well under half of the steps on this network.
        self.optimisers = Optimisers(self.network.parameters(), muon_from=64, weight_decay=0.0)
        self.average = {key: value.clone() for key, value in self.network.state_dict().items()}
        self.steps, self.seconds = 0, 0.0

    def step(self, pictures: list[Tensor], *, budget: float, peak: float) -> Tensor:
        began = time.process_time()
        progress = self.seconds / budget
        crop, batch = crop_and_batch(progress)
        image = draw_batch(pictures, batch=batch, crop=crop, generator=self.generator)
        loss = train_step(self.network, image.contiguous(memory_format=torch.channels_last))
        self.optimisers.step(learning_rate(progress, peak=peak))
        self.steps += 1
        keep = min(0.5 ** (1 / EMA_HALF_LIFE), self.steps / (self.steps + 10))
        for key, value in self.network.state_dict().items():
            self.average[key].lerp_(value, 1 - keep)
        self.seconds += (time.process_time() - began) / torch.get_num_threads()
        return loss

    def load(self, path: Path) -> None:
        saved = torch.load(path, weights_only=True)
        self.network.load_state_dict(saved["network"])
        self.optimisers.load_state_dict(saved["optimisers"])
        self.generator.set_state(saved["generator"])
        self.average, self.steps, self.seconds = saved["average"], saved["steps"], saved["seconds"]
        self.seed = saved.get("seed", self.seed)

    def save(self, path: Path) -> None:
        """Replace the checkpoint whole, so that an interrupted save leaves the one before."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        state = {"network": self.network.state_dict(), "optimisers": self.optimisers.state_dict(), "generator": self.generator.get_state()}
        progress = {"average": self.average, "steps": self.steps, "seconds": self.seconds, "seed": self.seed}
        torch.save({**state, **progress}, partial)
        partial.replace(path)

    def ship(self, path: Path, pictures: list[Tensor], held_out: list[Tensor]) -> float:
        """Write the file of the pack with its facts; returns the held-out PSNR of exactly what was written."""
        state = shipped_state(self.average, pictures)
        network = TinyAutoencoder()
        network.load_state_dict({key: value.float() for key, value in state.items()})
        quality = reconstruction_psnr(network, held_out)
        facts = {
            "steps": str(self.steps),
            "minutes": f"{self.seconds / 60:.0f}",
            "held_out_psnr_db": f"{quality:.2f}",
            "seed": str(self.seed),
        }
        save_file(state, path, metadata=facts)
        return quality


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with NNN_0.jpg and NNN_1.jpg")
    parser.add_argument("--checkpoint", type=Path, required=True, help="training state, made and continued")
    parser.add_argument("--out", type=Path, required=True, help="the fp16 file to ship")
    parser.add_argument("--minutes", type=float, default=90, help="processor time over the number of threads")
    parser.add_argument("--save-every", type=float, default=10, help="minutes between checkpoints")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    training = Training(arguments.seed)
    if arguments.checkpoint.exists():
        training.load(arguments.checkpoint)
    pictures, held_out = (load_pictures(arguments.data, held_out=choice) for choice in (False, True))
    saved, budget = training.seconds, arguments.minutes * 60
    while training.seconds < budget:
        loss = training.step(pictures, budget=budget, peak=arguments.learning_rate)
        if training.steps % 20 == 0:
            print(
                f"step {training.steps}  {training.seconds / 60:.2f} min  training PSNR {-10 * math.log10(float(loss)):.2f} dB", flush=True
            )
        if training.seconds - saved > arguments.save_every * 60 or training.seconds >= budget:
            saved = training.seconds
            training.save(arguments.checkpoint)
            print(f"step {training.steps}  held-out PSNR {training.ship(arguments.out, pictures, held_out):.2f} dB", flush=True)


if __name__ == "__main__":
    main()
