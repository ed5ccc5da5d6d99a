"""The pack's own networks under ComfyUI's memory management."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher

from ....engine.animators.pose_animator import PoseAnimator, load_pose_animator
from ....engine.surrogates.reference_net import ReferenceNet, load_reference_net
from ..memory.devices import patched
from ..memory.precision import working_dtype

# Values that an animator's UNet holds at most in a pass without a graph, for each row, latent position and channel of its first
# level; counted with the allocator's events on the CPU at 256 px.
_FORWARD = 75


@dataclass(frozen=True, eq=False)
class LoadedReferenceNet:
    """What a STILLGUARD_REFERENCE_NET carries."""

    net: ReferenceNet
    patcher: ModelPatcher
    name: str
    in_single: Callable[[], LoadedReferenceNet]
    """The same in fp32, read anew."""


@dataclass(frozen=True, eq=False)
class LoadedPoseAnimator:
    """What a STILLGUARD_POSE_ANIMATOR carries."""

    animator: PoseAnimator
    patcher: ModelPatcher
    name: str
    in_single: Callable[[], LoadedPoseAnimator]
    """The same in fp32, read anew."""

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
        return LoadedReferenceNet(net, patched(net), path.name, partial(reference_net_from, path, "fp32"))


def pose_animator_from(denoiser: Path, motion: Path, guider: Path, precision: str) -> LoadedPoseAnimator:
    """Raises WeightsError for a wrong file."""
    with torch.inference_mode(False):
        animator = load_pose_animator(denoiser, motion, guider, dtype=working_dtype(precision))
        return LoadedPoseAnimator(animator, patched(animator), denoiser.name, partial(pose_animator_from, denoiser, motion, guider, "fp32"))
