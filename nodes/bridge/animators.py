"""The pack's own networks under ComfyUI's memory management."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from torch import nn

from ...engine.surrogates.pose_animator import PoseAnimator, load_pose_animator
from ...engine.surrogates.reference_net import ReferenceNet, load_reference_net

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def working_dtype(precision: str) -> torch.dtype:
    """One of PRECISIONS, or for "auto" bf16 or fp16 where the GPU is fast with it and fp32 on the CPU."""
    if precision in PRECISIONS:
        return PRECISIONS[precision]
    device = comfy.model_management.get_torch_device()
    if device.type == "cpu":
        return torch.float32
    if comfy.model_management.should_use_bf16(device):
        return torch.bfloat16
    return torch.float16 if comfy.model_management.should_use_fp16(device) else torch.float32


def _patcher(network: nn.Module) -> ModelPatcher:
    return ModelPatcher(network, comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device())


# Values that an animator's UNet holds at most in a pass without a graph, for each row, latent position and channel of its first
# level; counted with the allocator's events on the CPU at 256 px.
_FORWARD = 75


@dataclass(frozen=True, eq=False)
class LoadedReferenceNet:
    """What a STILLGUARD_REFERENCE_NET carries."""

    net: ReferenceNet
    patcher: ModelPatcher
    name: str


@dataclass(frozen=True, eq=False)
class LoadedPoseAnimator:
    """What a STILLGUARD_POSE_ANIMATOR carries."""

    animator: PoseAnimator
    patcher: ModelPatcher
    name: str

    def memory_required(self, height: int, width: int, *, frames: int) -> float:
        """Bytes of a pass over a clip without gradients."""
        unet: Any = self.animator.unet
        values = frames * _FORWARD * unet.config["block_out_channels"][0] * (height // 8) * (width // 8)
        return float(values * unet.dtype.itemsize)


def reference_net_from(path: Path, precision: str) -> LoadedReferenceNet:
    """Raises WeightsError for a file that is none."""
    # Nodes run under inference mode, whose tensors autograd refuses later.
    with torch.inference_mode(False):
        net = load_reference_net(path, dtype=working_dtype(precision))
        return LoadedReferenceNet(net, _patcher(net), path.name)


def pose_animator_from(denoiser: Path, motion: Path, guider: Path, precision: str) -> LoadedPoseAnimator:
    """Raises WeightsError for a wrong file."""
    with torch.inference_mode(False):
        animator = load_pose_animator(denoiser, motion, guider, dtype=working_dtype(precision))
        return LoadedPoseAnimator(animator, _patcher(animator), denoiser.name)
