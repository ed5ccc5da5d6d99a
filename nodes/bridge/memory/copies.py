"""Copies of a user's models with weights of their own, which autograd may use.

`independent_copy` makes one, a view holds it during a run, `keep` leaves it for the next run, and core's unloading drops it.
"""

from __future__ import annotations

import copy
import re
import uuid
import weakref
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP
from comfy.supported_models_base import BASE
from torch import Tensor, nn

# Where core's dynamic VRAM keeps native memory and what it compiled, on the model and on its modules. Core asks whether they are
# there, so that even a plain number among them would make a copy reach into the original's memory.
_RUNTIME = re.compile(r"_v|_v_\w+|_pin\w*|_prefetch\w*|_comfy_\w+|dynamic_(pins|vbars|patchers)")


# By what a copy was made of: its change (see `independent_copy`), and the copy.
_KEPT: weakref.WeakKeyDictionary[ModelPatcher, tuple[Hashable, ModelPatcher]] = weakref.WeakKeyDictionary()
_TO_BE_FREED: list[ModelPatcher] = []
_OWN = "stillguard"


def independent_copy(
    patcher: ModelPatcher, *, change_name: Hashable = None, change: Callable[[ModelPatcher], None] | None = None
) -> ModelPatcher:
    """A frozen copy with weights of its own and all patches made part of them, under a patcher without dynamic VRAM.

    The cached model that other nodes share is never touched: its weights are inference tensors, and under dynamic VRAM they
    live in memory that may be reused between the forward and the backward pass. Patches (LoRA, merges, ModelSampling) are applied
    here, so that no way of bringing the copy to a device can leave them out. change: is made to a fresh copy, for good;
    change_name: tells it from others. A copy with the same change that an earlier run left (`keep`) is given again.
    Call inside `autograd_session`. Raises ValueError for patches that only core's own loading applies.
    """
    _TO_BE_FREED.clear()
    kept = _KEPT.pop(patcher, None)
    if kept is not None and kept[0] == change_name:
        return kept[1]
    twin = _reloaded(patcher) if patcher.cached_patcher_init is not None else _copied(patcher)
    twin.parent, twin.clone_base_uuid, twin.hook_backup = None, uuid.uuid4(), {}
    _cast_to_working_dtypes(twin.model)
    with torch.no_grad():
        _make_patches_permanent(twin)
    twin.model.eval().requires_grad_(False)
    if change is not None:
        change(twin)
    # Core unloads it where it needs the device's memory, or was asked to free all: then the host's is free too.
    twin.add_callback_with_key(CallbacksMP.ON_DETACH, _OWN, partial(_drop, weakref.ref(patcher)))
    return twin


def keep(patcher: ModelPatcher, change_name: Hashable, twin: ModelPatcher) -> None:
    """Leave a copy for the next run: as long as the model that it was made of lives, and until core unloads it.

    Not where the host's memory has no room for another one of its size.
    """
    if comfy.model_management.get_free_memory(torch.device("cpu")) > twin.model_size():
        _KEPT[patcher] = (change_name, twin)


def _drop(patcher: weakref.ref[ModelPatcher], twin: ModelPatcher, unpatch_all: bool) -> None:
    original = patcher()
    if original is not None and _KEPT.pop(original, None) is not None:
        # Core is going through current_loaded_models, and a patcher that is freed now would change that list: its weights go at once, and
        # the patcher itself when the next copy is made.
        twin.model.to("meta")
        _TO_BE_FREED.append(twin)


def _reloaded(patcher: ModelPatcher) -> ModelPatcher:
    twin = patcher.clone(disable_dynamic=True, force_deepcopy=True)
    twin.is_injected = False
    # Loaders of checkpoints bring a model to the device at once, under a patcher that is gone by now: core must not count it there.
    books = comfy.model_management.current_loaded_models
    books[:] = [entry for entry in books if entry.real_model is None or entry.real_model() is not twin.model]
    twin.unpatch_model(twin.offload_device)
    return twin


def _copied(patcher: ModelPatcher) -> ModelPatcher:
    """Of a model that no file can give again, such as one that a loader built from a state dict."""
    kept: tuple[Any, ...] = (dict(patcher.backup), dict(patcher.backup_buffers), dict(patcher.object_patches_backup), set())
    twin = patcher.clone(disable_dynamic=True, model_override=(_deepcopy_in_host_memory(patcher.model), kept))
    # What core has patched in place while the original is loaded is the original's state and not its weights.
    twin.unpatch_model(twin.offload_device)
    return twin


def _make_patches_permanent(twin: ModelPatcher) -> None:
    if twin.weight_wrapper_patches:
        raise ValueError(
            "The model changes its weights at every use (a weight wrapper), which gradients cannot follow: connect it without that patch."
        )
    # Shared with the original, whose own place on a device must not change with the copy's.
    twin.object_patches = {
        name: copy.deepcopy(patch) if isinstance(patch, (nn.Module, Tensor)) else patch for name, patch in twin.object_patches.items()
    }
    twin.patch_model(load_weights=False)
    for key in twin.patches:
        # Where core computes it, so that the numbers are core's own.
        twin.patch_weight_to_device(key, device_to=twin.load_device)
        weight = comfy.utils.get_attr(twin.model, key)
        comfy.utils.set_attr_param(twin.model, key, weight.detach().to(twin.offload_device))
    twin.patches, twin.object_patches, twin.backup, twin.object_patches_backup = {}, {}, {}, {}


def _deepcopy_in_host_memory(model: nn.Module) -> nn.Module:
    # deepcopy takes what the memo holds instead of copying; the list keeps the stand-ins' identities alive.
    memo: dict[int, Any] = {}
    for part in model.modules():
        for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
            if type(tensor) in (Tensor, nn.Parameter):
                host = tensor.detach().to("cpu", copy=True)
                memo[id(tensor)] = nn.Parameter(host, requires_grad=False) if isinstance(tensor, nn.Parameter) else host
    handles = [value for part in model.modules() for _, value in _handles(part)]
    # Core's description of a model answers None to every question that it does not know, deepcopy's included, and never changes.
    shared = [value for part in model.modules() for value in vars(part).values() if isinstance(value, BASE)]
    memo |= {id(handle): None for handle in handles} | {id(value): value for value in shared}
    twin: nn.Module = copy.deepcopy(model, memo)
    for part, original in zip(twin.modules(), model.modules(), strict=True):
        for name, value in _handles(original):
            if isinstance(value, ModelPatcher):
                setattr(part, name, None)
            else:
                vars(part).pop(name, None)
    return twin


def _handles(part: nn.Module) -> Iterator[tuple[str, Any]]:
    """Attributes that stand for memory outside of this object: a copy that frees one frees the original's."""
    for name, value in vars(part).items():
        if value is not None and (_RUNTIME.fullmatch(name) or _frees_something(value)):
            yield name, value


def _frees_something(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_frees_something(entry) for entry in value.values())
    if isinstance(value, (list, tuple, set)):
        return any(_frees_something(entry) for entry in value)
    return not isinstance(value, nn.Module) and hasattr(type(value), "__del__")


def _cast_to_working_dtypes(model: nn.Module) -> None:
    """Core's note of each weight's dtype, made real: a dynamic patcher keeps the file's dtype and casts at each use."""
    for part in model.modules():
        for name, parameter in part.named_parameters(recurse=False):
            parameter.data = parameter.data.to(getattr(part, f"{name}_comfy_model_dtype", None) or parameter.dtype)
        for name, buffer in list(part.named_buffers(recurse=False)):
            part._buffers[name] = buffer.to(getattr(part, f"{name}_comfy_model_dtype", None) or buffer.dtype)
