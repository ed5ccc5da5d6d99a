"""Train the network that measures likeness: a second image encoder, which no loss reads.

    python -m stillguard.lab.train_measure --data PAIRS --checkpoint run/measure.pt --out OUT

A convolutional network, trained like the encoder of train_encoder.py (which photos show the same person in the same place?) from
another start. It never is a surrogate, so that a picture made to deceive the other encoder is measured by one that knows nothing of it.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ..engine.picture import resize
from ..engine.weights.reading import load_own
from .pairs import load_pairs
from .train_encoder import contrast, retrieval
from .training import Training, arguments, run, shipped

FILE = "stillguard_lab_measure.safetensors"
SIDE, WIDTHS = 96, (32, 64, 96, 128)


class Measure(nn.Module):
    """Pictures [B,3,H,W] in [0,1], squashed to 96 pixels -> embeddings [B,64]."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, WIDTHS[0], 5, stride=2, padding=2)]
        for narrow, wide in pairwise(WIDTHS):
            layers += [nn.GroupNorm(8, narrow), nn.SiLU(), nn.Conv2d(narrow, wide, 3, padding=1, stride=2)]
            layers += [nn.GroupNorm(8, wide), nn.SiLU(), nn.Conv2d(wide, wide, 3, padding=1)]
        self.layers, self.head = nn.Sequential(*layers, nn.GroupNorm(8, WIDTHS[-1]), nn.SiLU()), nn.Linear(36 * WIDTHS[-1], 64)

    def forward(self, pictures: Tensor) -> Tensor:
        small = resize(pictures, (SIDE, SIDE), by="bicubic")
        embeddings: Tensor = self.head(self.layers(small * 2 - 1).flatten(1))
        return embeddings


def embed(network: nn.Module, pictures: Tensor) -> Tensor:
    """Of unit length."""
    return F.normalize(network(pictures), dim=1)


def load_measure(path: Path) -> Measure:
    """Frozen. Raises WeightsError as load_own does."""
    return load_own(Measure(), path)


def main() -> None:
    given = arguments(__doc__, minutes=8, peak=1e-3).parse_args()
    trained, held_out = (torch.stack([pair.pictures for pair in load_pairs(given.data, side=128, held_out=h)]) for h in (False, True))
    torch.manual_seed(given.seed)

    def ship(training: Training, folder: Path) -> str:
        folder.mkdir(parents=True, exist_ok=True)
        state, network = shipped(training.average, Measure())
        share = retrieval(network, held_out, embed)
        save_file(state, folder / FILE, metadata=training.facts(held_out_retrieval=f"{share:.3f}"))
        return f"held-out partner found {100 * share:.1f} %"

    run(Training(Measure(), seed=given.seed, device=given.device), contrast(trained, embed), given, ship)


if __name__ == "__main__":
    main()
