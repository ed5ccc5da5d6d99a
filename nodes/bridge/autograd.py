"""Gradients inside ComfyUI, which runs every node under torch.inference_mode."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from torch import nn

from ...engine.unpatched import own_attention

# Where dynamic VRAM keeps native memory: on the model and on its modules. A copy of a handle would free the original's memory.
_MODEL_HANDLES = ("dynamic_pins", "dynamic_vbars", "dynamic_patchers")
_MODULE_HANDLES = ("_v", "_v_weight", "_v_bias", "_v_signature", "_pin_state", "_pins", "_prefetch")


@contextlib.contextmanager
def autograd_session() -> Iterator[None]:
    """Autograd on, and core's kernels that have no backward off; everything as before afterwards, cancelled or not."""
    before = comfy.model_management.in_training
    comfy.model_management.in_training = True
    try:
        with torch.inference_mode(False), torch.enable_grad(), own_attention():
            yield
    finally:
        comfy.model_management.in_training = before


def independent_copy(patcher: ModelPatcher) -> ModelPatcher:
    """A copy with weights of its own that autograd may use, frozen, under a patcher without dynamic VRAM.

    The cached model that other nodes share is never touched: its weights are inference tensors, and under dynamic VRAM they
    live in memory that may be reused between the forward and the backward pass. Call inside `autograd_session`.
    """
    if patcher.cached_patcher_init is not None:
        twin = patcher.clone(disable_dynamic=True, force_deepcopy=True)
    else:
        twin = ModelPatcher(_deepcopy_without_handles(patcher.model), patcher.load_device, patcher.offload_device)
        twin.model.to(patcher.offload_device)
    _cast_to_working_dtypes(twin.model)
    twin.model.eval().requires_grad_(False)
    return twin


def _deepcopy_without_handles(model: nn.Module) -> nn.Module:
    owners = [(model, _MODEL_HANDLES), *((part, _MODULE_HANDLES) for part in model.modules())]
    found = [vars(owner)[name] for owner, names in owners for name in names if vars(owner).get(name) is not None]
    # deepcopy takes what the memo holds instead of copying; the list keeps the stand-ins' identities alive.
    twin = copy.deepcopy(model, {id(handle): object() for handle in found})
    for owner, names in [(twin, _MODEL_HANDLES), *((part, _MODULE_HANDLES) for part in twin.modules())]:
        for name in names:
            vars(owner).pop(name, None)
    return twin


def _cast_to_working_dtypes(model: nn.Module) -> None:
    """Core's note of each weight's dtype, made real: a dynamic patcher keeps the file's dtype and casts at each use."""
    for part in model.modules():
        for name, parameter in part.named_parameters(recurse=False):
            parameter.data = parameter.data.to(getattr(part, f"{name}_comfy_model_dtype", None) or parameter.dtype)
        for name, buffer in list(part.named_buffers(recurse=False)):
            part._buffers[name] = buffer.to(getattr(part, f"{name}_comfy_model_dtype", None) or buffer.dtype)


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
