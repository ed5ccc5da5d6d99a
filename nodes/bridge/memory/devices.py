"""Where networks compute: one way to bring them there whole, whatever ComfyUI's memory state."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import comfy.model_management
import torch
from comfy.model_management import VRAMState
from comfy.model_patcher import ModelPatcher
from torch import nn

from ..autograd import make_ordinary


def patched(network: nn.Module) -> ModelPatcher:
    """The pack's own network under ComfyUI's memory management."""
    return ModelPatcher(network, comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device())


@contextlib.contextmanager
def whole(patchers: Sequence[ModelPatcher], *, room: float) -> Iterator[None]:
    """While it lasts, every weight of these is on its patcher's device, beside `room` bytes for what they compute.

    Networks of our own cannot fetch weights while they run, and a backward pass needs them where the forward pass had them. Under
    --novram they go back afterwards; in other states ComfyUI keeps them until it needs the room.
    """
    try:
        bring(patchers, room=room)
        yield
    finally:
        if comfy.model_management.vram_state == VRAMState.NO_VRAM:
            _take_away(patchers)


class Place:
    """A run's networks on their device, which something else may have for a while."""

    def __init__(self) -> None:
        self._taken: tuple[Sequence[ModelPatcher], float] | None = None

    @contextlib.contextmanager
    def taken(self, patchers: Sequence[ModelPatcher], *, room: float) -> Iterator[None]:
        """See `whole`."""
        with whole(patchers, room=room):
            self._taken = patchers, room
            try:
                yield
            finally:
                self._taken = None

    @contextlib.contextmanager
    def lent(self, patcher: ModelPatcher) -> Iterator[None]:
        """While it lasts, the networks are away and core loads this one as it does for any node. It is taken away before they come back.

        Nothing comes back where that did not end well.
        """
        patchers, room = self._taken or ((), 0.0)
        # Here, and not as core would under inference mode: graphs that exist by now keep these weights.
        _take_away(patchers)
        with torch.inference_mode():
            yield
            _take_away([patcher])
        bring(patchers, room=room)


def bring(patchers: Sequence[ModelPatcher], *, room: float = 0) -> None:
    """See `whole`. Raises RuntimeError where a weight stays elsewhere."""
    comfy.model_management.load_models_gpu(list(patchers), memory_required=room, force_full_load=True)
    for patcher in patchers:
        if not is_whole(patcher):
            # With --novram core leaves weights where they are, whatever it is asked for.
            patcher.load(patcher.load_device, full_load=True)
        if not is_whole(patcher):
            raise RuntimeError(f"ComfyUI left weights of {type(patcher.model).__name__} away from {patcher.load_device}: restart it.")
        make_ordinary(patcher.model)


def is_whole(patcher: ModelPatcher) -> bool:
    return all(tensor.device == patcher.load_device for tensor in (*patcher.model.parameters(), *patcher.model.buffers()))


def _take_away(patchers: Sequence[ModelPatcher]) -> None:
    models = [patcher.model for patcher in patchers]
    for loaded in list(comfy.model_management.current_loaded_models):
        # Core may hold it under another patcher, such as one with a LoRA.
        if any(loaded.model.model is model for model in models) and loaded.device != torch.device("cpu"):
            loaded.model_unload()
            comfy.model_management.current_loaded_models.remove(loaded)
