"""Low-rank adapters (LoRA, Hu et al. 2022) on Linear layers of a frozen network."""

# Not peft, which is no dependency of the pack and puts other layers into the network, nor core's training nodes, which an engine without
# ComfyUI cannot import: neither draws from a given generator, scales gradients in fp16 or goes through our own recomputation.

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..draws import Draws

ATTENTION = ("Attention", "CrossAttention", "GEGLU")
"""Classes of diffusers' and core's UNets whose Linear layers Mist v2 adapts: attention, and what widens in the feed-forward part."""

Matrices = tuple[Tensor, Tensor]
"""Down [rank, inputs] and up [outputs, rank]."""


def adaptable(network: nn.Module, kinds: Collection[str] = ATTENTION) -> dict[str, nn.Linear]:
    """Every Linear layer inside a module of one of these classes, by its name in the network, in the network's order."""
    found: dict[str, nn.Linear] = {}
    for prefix, part in network.named_modules():
        if type(part).__name__ in kinds:
            layers = ((name, layer) for name, layer in part.named_modules(prefix=prefix) if isinstance(layer, nn.Linear))
            found.update(layers)
    return found


class Adapters:
    """What layers give becomes W x + b + scale * U D x while `applied`, and only then: of the network nothing is changed or kept.

    They are hooks, so that it does not matter where and in which precision a layer keeps W, or how it computes with it. U D x is computed
    in the precision of x, from matrices in fp32.
    """

    def __init__(self, layers: Mapping[str, nn.Linear], *, rank: int = 4, scale: float = 1.0, device: torch.device | None = None) -> None:
        """Of no effect before `begin` and training. device: where the layers compute."""
        self.scale, self.rank, self._layers = scale, rank, dict(layers)
        self._own = {
            name: (_frozen(rank, layer.in_features, device), _frozen(layer.out_features, rank, device))
            for name, layer in self._layers.items()
        }
        self._applied: dict[str, Matrices] = {}

    @property
    def matrices(self) -> dict[str, Matrices]:
        """By the names of the layers."""
        return dict(self._own)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Down and up of each layer in turn."""
        return [matrix for pair in self._own.values() for matrix in pair]

    @torch.no_grad()
    def begin(self, draws: Draws) -> None:
        """Down is drawn from a normal distribution of deviation 1 / rank (Ryu's lora, as Mist v2 uses it), up is zero."""
        for name, (down, up) in self._own.items():
            down.copy_(draws.normal(f"down {name}", tuple(down.shape)) / self.rank)
            up.zero_()

    def within(self, part: nn.Module) -> dict[str, Matrices]:
        """What is used now, or if nothing is, the own matrices, of the layers inside a part of the network."""
        inside = {id(layer) for layer in part.modules()}
        return {name: self._applied.get(name, own) for name, own in self._own.items() if id(self._layers[name]) in inside}

    @contextlib.contextmanager
    def applied(self, matrices: Mapping[str, Matrices] | None = None) -> Iterator[None]:
        """matrices: to be used in place of the own ones, or for the time being of those that are applied already."""
        given = self._own if matrices is None else matrices
        before = dict(self._applied)
        handles = [self._layers[name].register_forward_hook(partial(self._add, name)) for name in given if name not in before]
        self._applied = before | dict(given)
        try:
            yield
        finally:
            self._applied = before
            for handle in handles:
                handle.remove()

    def _add(self, name: str, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        (x,), (down, up) = inputs, self._applied[name]
        return output + self.scale * F.linear(F.linear(x, down.to(x)), up.to(x)).to(output.dtype)


NO_ADAPTERS = Adapters({})
"""Of a network that does not learn."""


def flattened(matrices: Mapping[str, Matrices]) -> list[Tensor]:
    """Down and up of each layer in turn, for functions that are given tensors."""
    return [matrix for pair in matrices.values() for matrix in pair]


def paired(names: Iterable[str], matrices: Sequence[Tensor]) -> dict[str, Matrices]:
    """The way back."""
    return dict(zip(names, zip(matrices[::2], matrices[1::2], strict=True), strict=True))


def _frozen(rows: int, columns: int, device: torch.device | None) -> nn.Parameter:
    return nn.Parameter(torch.zeros(rows, columns, device=device), requires_grad=False)
