"""The laboratory's animator as it is trained: AnimateAnyone's networks, narrow, from scratch.

Published animators begin with Stable Diffusion's weights, whose features tell where in a picture they are and what is alike. These begin
with nothing; without help, attention to the reference takes longer to form than all the rest (see `settle`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from diffusers import UNet2DConditionModel, UNetMotionModel
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from torch import Tensor, nn
from torch.nn import functional as F

from ..engine.animators.motion_unet import motion_unet, upstream_names
from ..engine.animators.pose_animator import PoseAnimator
from ..engine.surrogates.reference_net import ANIMATE_ANYONE, ReferenceNet, truncated_unet
from ..engine.surrogates.sd_unet import GROUPS, HEADS, spatial_blocks
from .training import mixed

SIDE, CONTEXT = 128, 64
WIDTHS = (64, 96, 96)
POSE_WIDTHS = (16, 32, 64, 96)
# Sines and cosines of these waves are how features tell where they are.
WAVES = (1, 2, 4)
# How sharply attention looks at its own place in the beginning.
SHARPNESS = 2.5


class Located(nn.Module):
    """Networks that begin with nothing, whose features are taught to tell where in the picture they are.

    probes: of each upper block, which read the place from its tokens. position_error: how badly they can in the last pass in training.
    """

    def __init__(self) -> None:
        super().__init__()
        self.probes = nn.ModuleDict()
        self.position_error = torch.zeros(())
        # In a list: its weights are another module's.
        self._watched: list[nn.Module] = []

    @property
    def watched(self) -> nn.Module:
        return self._watched[0]

    def rehearse(self, generator: torch.Generator) -> None:
        """A pass on noise."""
        raise NotImplementedError

    def watch(self, unet: nn.Module) -> None:
        """Of this UNet the upper blocks."""
        self._watched = [unet]
        for name, block in spatial_blocks(unet):
            if name.startswith("up_blocks."):
                width = block.get_parameter("norm1.weight").shape[0]
                self.probes[name.replace(".", "-")] = nn.Linear(width, 4 * len(WAVES), bias=False)
                block.get_submodule("norm1").register_forward_hook(partial(self._locate, name))

    def compare(self, bank: Mapping[str, Tensor]) -> None:
        """The same probes for features of the photo, so that a place looks alike in both networks."""
        for name in self.probes:
            self._locate(name.replace("-", "."), self, None, bank[name.replace("-", ".")])

    def _locate(self, name: str, module: nn.Module, inputs: object, tokens: Tensor) -> None:
        """Add how badly a block's tokens [B,T,C] tell their place."""
        if self.training:
            told = self.probes[name.replace(".", "-")](tokens)
            self.position_error = self.position_error + F.mse_loss(told.float(), places(tokens.shape[1]).to(told.device).expand_as(told))


class Animator(Located):
    """The two networks, trainable."""

    def __init__(self) -> None:
        super().__init__()
        unet, video = UNet2DConditionModel(**_layout("")), UNetMotionModel(**_layout("Motion"))
        self.reference = ReferenceNet(
            _filled(truncated_unet(unet.state_dict(), heads=HEADS, groups=GROUPS), unet.state_dict()), ANIMATE_ANYONE
        )
        # Both begin with the same weights, as those that are made from one published model do.
        motion = _filled(motion_unet(video.state_dict(), heads=HEADS, groups=GROUPS), {**video.state_dict(), **_clone(unet.state_dict())})
        self.animator = PoseAnimator(motion, ControlNetConditioningEmbedding(WIDTHS[0], 3, POSE_WIDTHS))

        for module in motion.modules():
            if isinstance(module, AnimateDiffTransformer3D):
                # Motion modules begin near the identity (Guo et al. 2024).
                nn.init.zeros_(module.proj_out.weight)
        for layer in (self.animator.guider.conv_in, *self.animator.guider.blocks):
            # A plain start loses thin lines on black within seven layers; SiLU's slope at 0 is a half.
            nn.init.normal_(layer.weight, std=2 / math.sqrt(layer.weight[0].numel()))
            nn.init.zeros_(layer.bias)
        self.watch(motion)

    def forward(self, noisy: Tensor, timesteps: Tensor, reference: Tensor, tokens: Tensor, poses: Tensor, *, guided: bool) -> Tensor:
        """v of [B,4,N,h,w]; timesteps [B], reference [B,4,h,w], tokens [B,1,D], poses [B,N,3,S,S]. Unguided: the reference is unseen."""
        pose = self.animator.guide(poses.flatten(0, 1))
        self.position_error = torch.zeros(())
        if not guided:
            return self.animator.denoise(noisy, timesteps, torch.zeros_like(tokens), pose)
        bank = dict(zip(self.reference.names, self.reference(reference, 0, tokens), strict=True))
        self.compare(bank)
        return self.animator.denoise(noisy, timesteps, tokens, pose, bank)

    def rehearse(self, generator: torch.Generator) -> None:
        """A pass on noise."""
        noisy, reference, tokens = (
            torch.randn(shape, generator=generator) for shape in ((16, 4, 1, 16, 16), (16, 4, 16, 16), (16, 1, CONTEXT))
        )
        timesteps = torch.randint(1000, (16,), generator=generator)
        self(noisy, timesteps, reference, tokens, torch.zeros(16, 1, 3, SIDE, SIDE), guided=True)


def settle(network: Located, seed: int, *, steps: int = 50) -> None:
    """Let the attention of the upper blocks begin by looking at the same place of the photo.

    Content cannot tell it there: at high noise a frame has none. From nothing, attention to the reference takes longer to form than all the
    rest. So the networks first learn, on noise, to tell where a token lies, and half of the heads begin with that as query and key.
    """
    generator, optimiser = torch.Generator().manual_seed(seed), torch.optim.AdamW(network.parameters(), lr=2e-3)
    for _ in range(steps):
        with mixed(torch.device("cpu")):
            network.rehearse(generator)
        network.zero_grad(set_to_none=True)
        network.position_error.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
    for name, block in spatial_blocks(network.watched):
        if name.startswith("up_blocks."):
            _look_at_own_place(block.get_submodule("attn1"), network.probes[name.replace(".", "-")].get_parameter("weight").detach())


def _look_at_own_place(attention: nn.Module, probe: Tensor) -> None:
    width = probe.shape[1] // HEADS
    # Narrow heads get the longest and the shortest wave.
    waves = list(range(len(WAVES))) if width >= len(probe) else [0, len(WAVES) - 1]
    rows = [quarter * len(WAVES) + wave for quarter in range(4) for wave in waves]
    for part in ("to_q", "to_k"):
        weight = attention.get_parameter(f"{part}.weight").data.unflatten(0, (HEADS, width))
        weight[: HEADS // 2, : len(rows)] = SHARPNESS * probe[rows]
        weight[: HEADS // 2, len(rows) :] = 0


def _layout(kind: str) -> dict[str, Any]:
    """Arguments of diffusers' UNets: as in Stable Diffusion 1.5, narrower, with three levels and one layer in each."""
    down = "DownBlockMotion" if kind else "DownBlock2D"
    up = "UpBlockMotion" if kind else "UpBlock2D"
    return {
        "block_out_channels": WIDTHS,
        "down_block_types": (f"CrossAttn{down}", f"CrossAttn{down}", down),
        "up_block_types": (up, f"CrossAttn{up}", f"CrossAttn{up}"),
        "layers_per_block": 1,
        "cross_attention_dim": CONTEXT,
    }


def places(count: int) -> Tensor:
    """[T,12]: sines and cosines of where each of T tokens of a square lies, for WAVES."""
    side = math.isqrt(count)
    angles = torch.pi * (torch.arange(side) + 0.5) / side * torch.tensor(WAVES)[:, None]
    waves = torch.cat([angles.sin(), angles.cos()]).T
    return torch.cat([waves.repeat_interleave(side, dim=0), waves.repeat(side, 1)], dim=1)


def reference_tail() -> dict[str, Tensor]:
    """Zeros for what AnimateAnyone's reference_unet holds behind the last feature; nothing reads it."""
    unet = UNet2DConditionModel(**_layout(""))
    return {key: torch.zeros_like(value) for key, value in unet.state_dict().items() if not key.startswith(("conv_norm_out.", "conv_out."))}


def _clone(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in state.items()}


def _filled(network: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    network.load_state_dict({key: state[key] for key in network.state_dict()}, assign=True)
    return network


def files(average: dict[str, Tensor], tail: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The four files' tensors under AnimateAnyone's names; `tail` is what a reference UNet holds behind its last feature."""
    parts: dict[str, dict[str, Tensor]] = {name: {} for name in ("reference_unet", "denoising_unet", "motion_module", "pose_guider")}
    for key, value in average.items():
        owner, _, rest = key.partition(".")
        part, _, name = rest.partition(".")
        if owner == "probes":
            continue
        if owner == "reference":
            parts["reference_unet"][name] = value
        elif part == "guider":
            parts["pose_guider"][name] = value
        elif ".motion_modules." in name:
            parts["motion_module"] |= dict.fromkeys(upstream_names(name), value)
        else:
            parts["denoising_unet"][name] = value
    parts["reference_unet"] |= {key: value for key, value in tail.items() if key not in parts["reference_unet"]}
    return {name: {key: value.half().clone() for key, value in state.items()} for name, state in parts.items()}
