"""Attention between frames, read while a model runs: core's override of its attention function sees queries and keys."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from comfy.ldm.modules.attention import SpatialVideoTransformer, attention_pytorch
from comfy.ldm.modules.diffusionmodules.openaimodel import VideoResBlock
from torch import Tensor, nn


def attention_blocks(network: nn.Module, *, temporal: bool) -> list[nn.Module]:
    """Blocks in the order in which they run, of which the first attention is one between frames, or one over all tokens.

    Of a video UNet (temporal), those on its way down. Raises ValueError where there are none.
    """
    if temporal:
        parts = [part for part in network.get_submodule("input_blocks").modules() if isinstance(part, SpatialVideoTransformer)]
        return [block for part in parts for block in part.time_stack]
    for names in (("blocks",), ("transformer_blocks",), ("double_blocks", "single_blocks")):
        found = [block for name in names for block in getattr(network, name, ())]
        if found:
            return found
    raise ValueError("This model's attention between frames cannot be found: leave Temporal Attention out.")


def papers_blocks(count: int, *, temporal: bool) -> tuple[int, ...]:
    """Which the paper reads: of a UNet those of its last down block, which has two; of a transformer the two in the middle."""
    return tuple(range(max(0, count - 2), count)) if temporal else tuple(sorted({max(0, count // 2 - 1), count // 2}))[: min(2, count)]


def recomputable(network: nn.Module, tapped: Sequence[nn.Module], *, temporal: bool) -> list[nn.Module]:
    """Parts that hold most activations and can be run again in the backward pass: those that are not listened to."""
    kinds = (SpatialVideoTransformer, VideoResBlock)
    parts = [part for part in network.modules() if isinstance(part, kinds)] if temporal else attention_blocks(network, temporal=False)
    return [part for part in parts if not any(module is block for module in part.modules() for block in tapped)]


class Taps:
    """Records maps [B,heads,F,F] of some blocks during a forward pass, rows adding up to 1.

    Where attention is over all tokens, queries and keys are averaged over each frame's places first: a map of all tokens would not
    fit any memory. tokens: of one frame, or None where attention is between frames already. A block's first attention is read.
    """

    def __init__(self, blocks: Sequence[nn.Module], *, frames: int, tokens: int | None) -> None:
        self._blocks, self._frames, self._tokens = blocks, frames, tokens
        self._armed = False
        self.maps: list[Tensor] = []

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        hooks = [block.register_forward_pre_hook(self._arm) for block in self._blocks]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _arm(self, module: nn.Module, inputs: object) -> None:
        self._armed = True

    def override(self, function: object, q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any) -> Tensor:
        """In place of core's attention function, by one that has a backward pass on every machine."""
        if self._armed:
            self._armed = False
            separate = bool(kwargs.get("skip_reshape"))
            self.maps.append(_map(*(self._by_frame(x if separate else x.unflatten(2, (heads, -1)).transpose(1, 2)) for x in (q, k))))
        attended: Tensor = attention_pytorch(q, k, v, heads, *args, **kwargs)
        return attended

    def _by_frame(self, x: Tensor) -> Tensor:
        """[B,heads,T,D] -> [B,heads,F,D]. Text or reference tokens stand before the video's."""
        if self._tokens is None:
            return x
        return x[:, :, -self._frames * self._tokens :].unflatten(2, (self._frames, self._tokens)).mean(dim=3)


def _map(q: Tensor, k: Tensor) -> Tensor:
    scores: Tensor = q.float() @ k.float().mT / q.shape[-1] ** 0.5
    return scores.softmax(dim=-1)
