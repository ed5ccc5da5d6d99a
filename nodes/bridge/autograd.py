"""Gradients inside ComfyUI, which runs every node under torch.inference_mode."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import comfy.cli_args
import comfy.model_management
import torch
from torch import nn

from ...engine.compute.unpatched import own_attention

# Versions of ComfyUI that compile their models do so whatever `in_training` says; this is their switch.
_COMPILER = "disable_comfy_compiler"


@contextlib.contextmanager
def autograd_session() -> Iterator[None]:
    """Autograd on, and core's kernels that have no backward off; everything as before afterwards, cancelled or not."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_set(comfy.model_management, "in_training"))
        if hasattr(comfy.cli_args.args, _COMPILER):
            stack.enter_context(_set(comfy.cli_args.args, _COMPILER))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(own_attention())
        yield


@contextlib.contextmanager
def _set(owner: object, switch: str) -> Iterator[None]:
    before = getattr(owner, switch)
    setattr(owner, switch, True)
    try:
        yield
    finally:
        setattr(owner, switch, before)


def make_ordinary(model: nn.Module) -> None:
    """Replace weights that became inference tensors, as they do where ComfyUI moves a model while another node runs.

    Call outside of inference mode, as in `autograd_session`; elsewhere new ones would be no better, and it does nothing.
    """
    if torch.is_inference_mode_enabled():
        return
    for part in model.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            if parameter.is_inference():
                part._parameters[name] = nn.Parameter(parameter.detach().clone(), requires_grad=False)
        for name, buffer in list(part.named_buffers(recurse=False)):
            if buffer.is_inference():
                part._buffers[name] = buffer.clone()


def ordinary(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor from another node as an ordinary one; call inside `autograd_session`."""
    return tensor.detach().clone()
