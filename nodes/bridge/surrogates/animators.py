"""The pack's own networks under ComfyUI's memory management."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ....engine.animators.pose_animator import PoseAnimator, last_timesteps, load_pose_animator
from ....engine.compute.memory import META
from ....engine.observation import Features, Observation
from ....engine.surrogates.reference_net import ANIMATE_ANYONE, ReferenceNet, load_reference_net
from ....engine.surrogates.sd_unet import spatial_blocks
from ..memory.devices import patched
from ..memory.precision import working_dtype
from ..memory.room import Pass
from .resident import Resident
from .run_surrogates import Surrogates

# Values that an animator's UNet holds at most in a pass without a graph, for each row, latent position and channel of its first
# level; counted with the allocator's events on the CPU at 256 px.
_FORWARD = 75


@dataclass(frozen=True, eq=False)
class LoadedReferenceNet:
    """What a STILLGUARD_REFERENCE_NET carries."""

    net: ReferenceNet
    patcher: ModelPatcher
    name: str
    in_fp32: Callable[[], LoadedReferenceNet]
    """The same in fp32, read anew."""


@dataclass(frozen=True, eq=False)
class LoadedPoseAnimator:
    """What a STILLGUARD_POSE_ANIMATOR carries."""

    animator: PoseAnimator
    patcher: ModelPatcher
    name: str
    in_fp32: Callable[[], LoadedPoseAnimator]
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


def check_pair(net: LoadedReferenceNet, animator: LoadedPoseAnimator) -> None:
    """Raises ValueError unless the net is the one that the animator's attention reads."""
    if net.net.format is not ANIMATE_ANYONE:
        raise ValueError(
            f"{net.name} is a ReferenceNet of {net.net.format.name}, which this animator cannot read: load reference_unet.pth."
        )
    if net.net.names != animator.animator.names or net.net.context_dim != animator.animator.context_dim:
        raise ValueError(f"{net.name} and {animator.name} are of different sizes: load both from the same publication.")


def reference_net_view(surrogates: Surrogates, loaded: LoadedReferenceNet) -> ReferenceNet:
    def make(in_fp32: bool) -> Resident[ReferenceNet]:
        used = loaded.in_fp32() if in_fp32 else loaded
        return Resident("The ReferenceNet", used.net, used.patcher, {"features": reference_pass(used.net)}, network=used.net.unet)

    return surrogates.get(id(loaded), make).view


def animator_view(surrogates: Surrogates, loaded: LoadedPoseAnimator, *, frames: int) -> PoseAnimator:
    def make(in_fp32: bool) -> Resident[PoseAnimator]:
        used = loaded.in_fp32() if in_fp32 else loaded
        view = used.animator
        return Resident("The pose animator", view, used.patcher, network=view.unet, checkpointed=view)

    resident = surrogates.get(id(loaded), make)
    resident.passes["frames", frames] = animator_pass(resident.view, frames=frames)
    return resident.view


def reference_pass(net: ReferenceNet, *, rows: int = 1) -> Pass:
    """rows: 2 with the unconditional one, which only Dormant's official code has."""
    of_image = net.format.context == "image"

    def ask(seen: Observation) -> Features:
        latent = torch.empty(rows, 4, *_eighth(seen), device=META).requires_grad_()
        context = torch.empty(rows, 1 if of_image else 77, net.context_dim, device=META).requires_grad_(of_image)
        return seen.features(net, "reference", lambda: net(latent, 0, context))

    return Pass("ReferenceNet", (net,), ask, clean=len(last_timesteps()) if net.format.timestep is None else 1)


def animator_pass(animator: PoseAnimator, *, frames: int) -> Pass:
    """The row of a clip that depends on the picture: through its ReferenceNet's features and its embedding."""

    def ask(seen: Observation) -> Features:
        height, width = _eighth(seen)
        noisy, context = torch.empty(1, 4, frames, height, width, device=META), torch.empty(1, 1, animator.context_dim, device=META)
        pose = torch.empty(frames, animator.unet.config["block_out_channels"][0], height, width, device=META)
        return (animator.denoise(noisy, 0, context.requires_grad_(), pose, bank_shapes(animator.unet, height, width)),)

    return Pass("animator", (animator,), ask, clean=0, checkpointed=animator)


def _eighth(seen: Observation) -> tuple[int, int]:
    """Sides of the picture's latents."""
    return seen.image.shape[-2] // 8, seen.image.shape[-1] // 8


def bank_shapes(unet: Any, height: int, width: int) -> dict[str, Tensor]:
    """Shapes of what an animator's UNet reads of its ReferenceNet in latents of this size."""
    deepest = len(unet.down_blocks) - 1

    def feature(name: str, block: Any) -> Tensor:
        part, index = name.split(".")[:2]
        level = {"down_blocks": int(index), "up_blocks": deepest - int(index)}[part] if index.isdigit() else deepest
        tokens = -(-height // 2**level) * -(-width // 2**level)
        return torch.empty(1, tokens, block.norm1.normalized_shape[0], device=META).requires_grad_()

    return {name: feature(name, block) for name, block in spatial_blocks(unet)}
