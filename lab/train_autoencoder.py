"""Train the autoencoder that ships with the pack, from scratch, on pictures of a folder.

    python -m stillguard.lab.train_autoencoder --data PAIRS --checkpoint run/vae.pt --minutes 120 --out stillguard_lab_vae.safetensors

It can be stopped at any moment and called again with the same arguments: it goes on from the checkpoint (weights, running
average, optimiser, random state, minutes used). Pairs whose number is a multiple of ten are never trained on; the figure that
it prints is the reconstruction PSNR on their first pictures at 256 px, aspect kept, in fp16 as shipped.
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
from torch import Tensor
from torch.nn import functional as F

from ..engine.surrogates.tiny_autoencoder import TinyAutoencoder

HELD_OUT_EVERY = 10
LATENT_PENALTY = 1e-3
EMA_HALF_LIFE = 150


def is_held_out(path: Path) -> bool:
    return int(path.stem.split("_")[0]) % HELD_OUT_EVERY == 0


def load_pictures(folder: Path, *, held_out: bool, longest_side: int) -> list[Tensor]:
    """uint8 tensors [3,H,W] with sides that are multiples of 8."""
    pictures = []
    for path in sorted(folder.glob("*_[01].jpg")):
        if is_held_out(path) != held_out or (held_out and path.stem.endswith("1")):
            continue
        with Image.open(path) as file:
            picture = file.convert("RGB")
        scale = longest_side / max(picture.size)
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
        top, left = (int(torch.randint(n - crop + 1, (), generator=generator)) for n in picture.shape[1:])
        patch = picture[:, top : top + crop, left : left + crop]
        crops.append(patch.flip(-1) if torch.rand((), generator=generator) < 0.5 else patch)
    return torch.stack(crops).float().div_(255)


def reconstruction_psnr(network: TinyAutoencoder, pictures: list[Tensor]) -> float:
    """Mean over pictures of the PSNR in dB of decode(encode(x)), clamped to [0,1]."""
    values = []
    with torch.inference_mode():
        for picture in pictures:
            image = picture[None].float() / 255
            error = F.mse_loss(network.decode(network.encode(image)).clamp(0, 1), image)
            values.append(-10 * math.log10(float(error)))
    return sum(values) / len(values)


def initialise(network: TinyAutoencoder) -> None:
    """He initialisation with quiet residual branches: without normalisation layers a plain start diverges at this depth."""
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
        else:
            torch.nn.init.kaiming_normal_(parameter, nonlinearity="relu")
            if name.endswith("conv.4.weight"):
                parameter.data.mul_(0.1)


def learning_rate(progress: float, *, peak: float) -> float:
    """Linear warm-up over the first 2 %, then cosine to zero; progress is the share of the training time used."""
    return peak * min(progress / 0.02, 1.0) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def crop_schedule(progress: float) -> tuple[int, int]:
    """(crop, batch): many small crops while the colours settle, then larger ones so that borders matter less."""
    return (64, 16) if progress < 0.5 else (128, 6)


def shipped_state(network: TinyAutoencoder, average: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: average[key].half().contiguous() for key in network.state_dict()}


def train(arguments: argparse.Namespace) -> None:
    torch.manual_seed(arguments.seed)
    generator = torch.Generator().manual_seed(arguments.seed)
    network = TinyAutoencoder().to(memory_format=torch.channels_last)
    initialise(network)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.0, betas=(0.9, 0.99))
    average = {key: value.clone() for key, value in network.state_dict().items()}
    step, used = 0, 0.0
    if arguments.checkpoint.exists():
        saved = torch.load(arguments.checkpoint, weights_only=True)
        network.load_state_dict(saved["network"])
        optimiser.load_state_dict(saved["optimiser"])
        generator.set_state(saved["generator"])
        average, step, used = saved["average"], saved["step"], saved["seconds"]
    training = load_pictures(arguments.data, held_out=False, longest_side=288)
    held_out = load_pictures(arguments.data, held_out=True, longest_side=256)
    budget = arguments.minutes * 60
    judged = TinyAutoencoder()

    def checkpoint() -> None:
        judged.load_state_dict({key: value.float() for key, value in shipped_state(network, average).items()})
        quality = reconstruction_psnr(judged, held_out)
        arguments.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        partial = arguments.checkpoint.with_suffix(".partial")
        torch.save(
            {
                "network": network.state_dict(),
                "optimiser": optimiser.state_dict(),
                "generator": generator.get_state(),
                "average": average,
                "step": step,
                "seconds": used,
            },
            partial,
        )
        partial.replace(arguments.checkpoint)
        facts = {"step": str(step), "minutes": f"{used / 60:.1f}", "held_out_psnr_db": f"{quality:.2f}", "seed": str(arguments.seed)}
        save_file(shipped_state(network, average), arguments.out, metadata=facts)
        print(f"step {step}  {used / 60:.1f} min  held-out PSNR {quality:.2f} dB", flush=True)

    last_saved = used
    while used < budget:
        start = time.process_time()
        progress = used / budget
        crop, batch = crop_schedule(progress)
        rate = learning_rate(progress, peak=arguments.learning_rate)
        for group in optimiser.param_groups:
            group["lr"] = rate
        image = draw_batch(training, batch=batch, crop=crop, generator=generator).contiguous(memory_format=torch.channels_last)
        with torch.autocast(arguments.device, dtype=torch.bfloat16):
            latent = network.encode(image)
            rebuilt = network.decode(latent)
        loss = F.l1_loss(rebuilt.float(), image) + LATENT_PENALTY * latent.float().square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimiser.step()
        step += 1
        keep = min(0.5 ** (1 / EMA_HALF_LIFE), step / (step + 10))
        for key, value in network.state_dict().items():
            average[key].lerp_(value, 1 - keep)
        used += (time.process_time() - start) / torch.get_num_threads()
        if step % 20 == 0:
            print(f"step {step}  {used / 60:.2f} min  loss {float(loss.detach()):.4f}  lr {rate:.1e}", flush=True)
        if used - last_saved > arguments.save_every * 60:
            checkpoint()
            last_saved = used
    checkpoint()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with NNN_0.jpg and NNN_1.jpg")
    parser.add_argument("--checkpoint", type=Path, required=True, help="training state, made and continued")
    parser.add_argument("--out", type=Path, required=True, help="the fp16 file to ship")
    parser.add_argument("--minutes", type=float, default=120, help="processor time over the number of threads")
    parser.add_argument("--save-every", type=float, default=5, help="minutes between checkpoints")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", choices=["cpu"])
    train(parser.parse_args())


if __name__ == "__main__":
    main()
