"""What the convolutional networks of the metrics share: normalisation that learns no more, and strict loading."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...weights.filling import fill
from ...weights.reading import read_weights

Network = TypeVar("Network", bound=nn.Module)


class FrozenNorm(nn.Module):
    """Batch normalisation in eval mode, with the names of PyTorch's own, for maps of any number of dimensions."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.empty(channels))

    def forward(self, maps: Tensor) -> Tensor:
        return F.batch_norm(maps, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)  # type: ignore[arg-type]


def load_frozen(make: Callable[[], Network], path: Path, *, what: str, unused: tuple[str, ...] = (), prefix: str = "") -> Network:
    """Read a network's file, strictly, in fp32 on the CPU, frozen, in eval mode.

    unused: beginnings of names that the file may hold beside the network's own. prefix: taken off names that have it.
    Raises WeightsError, one sentence, for a file that is not `what`, naming the tensors that are missing or unknown.
    """
    state = {key.removeprefix(prefix): value for key, value in read_weights(path).items()}
    # Counters of training steps, which some PyTorch versions wrote.
    state = {key: value for key, value in state.items() if not key.endswith(".num_batches_tracked") and not key.startswith(unused)}
    # Without memory for weights that come from the file anyway.
    with torch.device("meta"):
        network = make()
    fill(network, state, torch.float32, name=path.name, what=what)
    return network
