"""Networks that take turns on a device too small for all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import comfy.model_management
import torch
from torch import nn

from ....engine.residency import one_at_a_time
from ..autograd import make_ordinary
from .resident import Resident


def takes_turns() -> bool:
    """Whether networks have to be copied to where they compute. Not where its memory is the host's: a copy would take more of it."""
    return bool(comfy.model_management.get_torch_device().type not in ("cpu", "mps"))


def who_takes_turns(residents: Sequence[Resident[Any]]) -> tuple[list[Resident[Any]], list[Resident[Any]]]:
    """Whose networks take turns on ComfyUI's device alone, and whose take one together. What computes elsewhere stays there."""
    device = comfy.model_management.get_torch_device()
    here = [resident for resident in residents if resident.patcher.load_device == device]
    alone = [resident for resident in here if resident.network is not None]
    crowded = any(resident.needs_encoders for resident in alone)
    return alone, [resident for resident in here if resident.encoder_call is not None] if crowded else []


@contextlib.contextmanager
def taking_turns(alone: Sequence[Resident[Any]], together: Sequence[Resident[Any]]) -> Iterator[None]:
    """While it lasts, networks of `alone` take turns on ComfyUI's device, and those of `together` take one turn, all of them.

    Their weights have to be in the host's memory, and are there afterwards.
    """
    device = comfy.model_management.get_torch_device()
    with contextlib.ExitStack() as stack:
        networks = []
        for resident in alone:
            assert resident.network is not None  # or it would not take turns alone
            make_ordinary(resident.patcher.model)
            # A LoRA's or another node's own tensors among the options, as core moves them when it loads a model.
            resident.patcher.model_patches_to(device)
            stack.enter_context(_beside(resident.patcher.model, resident.network, device))
            networks.append(resident.network)
        if together:
            for resident in together:
                make_ordinary(resident.patcher.model)
            networks.append(stack.enter_context(_together(together)))
        trained = [parameter for resident in (*alone, *together) for parameter in resident.trained]
        stack.enter_context(one_at_a_time(networks, device, trained=trained))
        yield


@contextlib.contextmanager
def _beside(model: nn.Module, network: nn.Module, device: torch.device) -> Iterator[None]:
    """What belongs to a model and takes no turns, such as a pose guider or a noise schedule, is small and stays on the device."""
    others = [part for part in model.children() if part is not network]
    try:
        for part in others:
            part.to(device)
        yield
    finally:
        for part in others:
            part.to("cpu")


class _Together(nn.Module):
    """Networks that take one turn: whichever of them runs, it runs in here."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, run: Callable[[], object]) -> object:
        return run()


@contextlib.contextmanager
def _together(encoders: Sequence[Resident[Any]]) -> Iterator[nn.Module]:
    together = _Together([encoder.patcher.model for encoder in encoders])
    calls = [encoder.encoder_call for encoder in encoders if encoder.encoder_call is not None]
    before = [call.run for call in calls]
    try:
        for call in calls:
            call.run = together
        yield together
    finally:
        for call, run in zip(calls, before, strict=True):
            call.run = run
