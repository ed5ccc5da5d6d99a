"""Train the small image encoder that ships with the pack: which photos show the same person in the same place?

    python -m stillguard.lab.train_encoder --data PAIRS --checkpoint run/encoder.pt --out OUT

A vision transformer in the format of CLIP's (transformers' CLIPVisionModelWithProjection), trained from scratch by contrast (InfoNCE, van
den Oord et al. 2018; views as in SimCLR, Chen et al. 2020): two differently cut and coloured photos of a pair shall be nearer to each other
than to those of all other pairs of the batch. It can be stopped and called again. The figure that it prints is how often, among
held-out pairs, a photo's nearest neighbour is its partner.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from ..engine.picture import resize
from .pairs import load_pairs
from .training import Loss, Training, arguments, device_of, run, shipped

FILE = "stillguard_lab_encoder.safetensors"
CONFIG: dict[str, Any] = {
    "model_type": "clip_vision_model",
    "image_size": 96,
    "patch_size": 12,
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_channels": 3,
    "projection_dim": 64,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
BATCH, TEMPERATURE = 64, 0.1


def network() -> CLIPVisionModelWithProjection:
    return CLIPVisionModelWithProjection(CLIPVisionConfig(**{key: value for key, value in CONFIG.items() if key != "model_type"}))


def project(encoder: nn.Module, pictures: Tensor) -> Tensor:
    """[B,3,S,S] in [0,1] -> embeddings [B,64], prepared as ComfyUI's CLIP Vision Encode prepares whole pictures."""
    mean, std = (torch.tensor(values, device=pictures.device).view(3, 1, 1) for values in (MEAN, STD))
    side = CONFIG["image_size"]
    small = resize(pictures, (side, side), by="bicubic")
    embeddings: Tensor = encoder(pixel_values=(small - mean) / std).image_embeds
    return embeddings


def embed(encoder: nn.Module, pictures: Tensor) -> Tensor:
    """As `project`, of unit length."""
    return F.normalize(project(encoder, pictures), dim=1)


def view(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """A random cut of 60 to 100 % of the sides, mirrored or not, in other light; [B,3,S,S] uint8 -> the same in [0,1]."""

    def number(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    side, views = pictures.shape[-1], []
    for picture in pictures.float() / 255:
        size = round(side * number(0.6, 1.0))
        top, left = (int(number(0, side - size + 1)) for _ in range(2))
        cut = resize(picture[None, :, top : top + size, left : left + size], (96, 96))
        light = torch.tensor([number(0.8, 1.25) for _ in range(3)]).view(3, 1, 1) * number(0.7, 1.4)
        grey = cut.mean(dim=1, keepdim=True)
        cut = (grey + (cut - grey) * number(0.3, 1.3)) * light
        views.append(cut.flip(-1) if number(0, 1) < 0.5 else cut)
    return torch.cat(views).clamp(0, 1)


def contrast(pictures: Tensor, embed: Callable[[nn.Module, Tensor], Tensor] = embed) -> Loss:
    """The loss over random batches of [N,2,3,S,S] uint8; `embed` gives pictures [B,3,S,S] in [0,1] embeddings of unit length."""

    def loss(encoder: nn.Module, generator: torch.Generator) -> Tensor:
        chosen = pictures[torch.randperm(len(pictures), generator=generator)[:BATCH]]
        device = device_of(encoder)
        first, second = (embed(encoder, view(chosen[:, half], generator).to(device)) for half in (0, 1))
        alike, labels = first @ second.T / TEMPERATURE, torch.arange(len(first), device=device)
        return (F.cross_entropy(alike, labels) + F.cross_entropy(alike.T, labels)) / 2

    return loss


@torch.no_grad()
def retrieval(encoder: nn.Module, pictures: Tensor, embed: Callable[[nn.Module, Tensor], Tensor] = embed) -> float:
    """[N,2,3,S,S] uint8 -> share of held-out photos whose nearest of all other photos is their partner; chance is 1 in all of them."""
    flat = embed(encoder, pictures.flatten(0, 1).float() / 255)
    alike = flat @ flat.T - 2 * torch.eye(len(flat))
    return float((alike.argmax(dim=1) == torch.arange(len(flat)) ^ 1).float().mean())


def main() -> None:
    given = arguments(__doc__, minutes=10, peak=1e-3).parse_args()
    trained, held_out = (torch.stack([pair.pictures for pair in load_pairs(given.data, side=128, held_out=h)]) for h in (False, True))
    torch.manual_seed(given.seed)

    def ship(training: Training, folder: Path) -> str:
        state, encoder = shipped(training.average, network())
        share = retrieval(encoder, held_out)
        folder.mkdir(parents=True, exist_ok=True)
        facts = training.facts(config=json.dumps(CONFIG), held_out_retrieval=f"{share:.3f}")
        save_file(state, folder / FILE, metadata=facts)
        return f"held-out partner found {100 * share:.1f} %"

    run(Training(network(), seed=given.seed, device=given.device), contrast(trained), given, ship)


if __name__ == "__main__":
    main()
