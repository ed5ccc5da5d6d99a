"""Gradients inside ComfyUI, which runs every node under torch.inference_mode."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from torch import nn


@contextlib.contextmanager
def autograd_session(*, tolerate_mutation: bool = False) -> Iterator[None]:
    """Autograd on, and core's kernels that have no backward off; everything as before afterwards, cancelled or not.

    tolerate_mutation: let networks edit tensors in place that the backward pass needs, as core's CLIP layers do. It watches
    every operation, so it is used only where it is needed.
    """
    before = comfy.model_management.in_training
    comfy.model_management.in_training = True
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            if tolerate_mutation:
                stack.enter_context(torch.autograd.graph.allow_mutation_on_saved_tensors())
            yield
    finally:
        comfy.model_management.in_training = before


def independent_copy(patcher: ModelPatcher) -> ModelPatcher:
    """A copy with weights of its own that autograd may use, frozen, under a patcher without dynamic VRAM.

    The cached model that other nodes share is never touched: its weights are inference tensors, and under dynamic VRAM they
    live in memory that may be reused between the forward and the backward pass. Call inside `autograd_session`.
    """
    with torch.inference_mode(False):
        if patcher.cached_patcher_init is not None:
            twin = patcher.clone(disable_dynamic=True, force_deepcopy=True)
        else:
            twin = ModelPatcher(copy.deepcopy(patcher.model), patcher.load_device, patcher.offload_device)
            twin.model.to(patcher.offload_device)
        _make_ordinary(twin.model)
    twin.model.eval().requires_grad_(False)
    return twin


def _make_ordinary(module: nn.Module) -> None:
    """Replace inference tensors, which autograd refuses, by equal ordinary ones."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and parameter.is_inference():
                part._parameters[name] = nn.Parameter(parameter.clone(), requires_grad=False)
        for name, buffer in part._buffers.items():
            if buffer is not None and buffer.is_inference():
                part._buffers[name] = buffer.clone()
        for name, value in list(vars(part).items()):
            if isinstance(value, torch.Tensor) and value.is_inference():
                setattr(part, name, value.clone())


def ordinary(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor from another node as an ordinary one; call inside `autograd_session`."""
    return tensor.detach().clone()
