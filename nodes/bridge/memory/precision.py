"""In which precision networks compute that gradients flow through. benchmarks/precision.py measured what follows from it."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import torch
from torch import nn

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
HALF = (torch.float16, torch.bfloat16)


def gradient_dtype(device: torch.device) -> torch.dtype:
    """fp16, with scaled gradients, where the device is fast with it; else fp32.

    Never bf16, whose eight bits turn the signs of many pixels' gradients, and never half precision on a CPU, which emulates it.
    """
    # Core's flags can ask for fp16 on a CPU too.
    half = device.type != "cpu" and comfy.model_management.should_use_fp16(device)
    return torch.float16 if half else torch.float32


def working_dtype(precision: str) -> torch.dtype:
    """One of PRECISIONS, or for "auto" that of `gradient_dtype`."""
    return PRECISIONS[precision] if precision in PRECISIONS else gradient_dtype(comfy.model_management.get_torch_device())


def copied_dtype(own: torch.dtype, device: torch.device) -> torch.dtype:
    """That of the copy of a network which core runs in `own`. fp32 stays fp32: nothing is made worse than the user has it."""
    return gradient_dtype(device) if own in HALF else own


def cast(network: nn.Module, own: torch.dtype, dtype: torch.dtype) -> None:
    """Its weights of one precision in another; those that are kept in a third stay."""
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.dtype == own:
            tensor.data = tensor.data.to(dtype)


def cast_denoiser(model: Any, device: torch.device, *, in_fp32: bool) -> None:
    """Let core's model compute in the precision that its gradient needs. in_fp32: in fp32, whatever the device.

    Where core never runs the model in fp16, because its numbers do not fit, it stays in bf16 on a GPU. In fp32 weights are cast as they
    are used, so that they take no more memory than before.
    """
    own = model.get_dtype_inference()
    wanted = torch.float32 if in_fp32 else copied_dtype(own, device)
    if wanted == own or (wanted == torch.float16 and torch.float16 not in model.model_config.supported_inference_dtypes):
        return
    if wanted == torch.float16:
        cast(model.diffusion_model, torch.bfloat16, torch.float16)
        model.diffusion_model.dtype, model.manual_cast_dtype = torch.float16, None
        return
    model.manual_cast_dtype = torch.float32
    for part in model.diffusion_model.modules():
        if hasattr(part, "comfy_cast_weights"):
            part.comfy_cast_weights = True
