"""The talking head under ComfyUI's memory management: the network that reads the portrait, and the one that makes it speak."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ....engine.animators.motion_unet import Bank
from ....engine.animators.talking_head.head import TalkingHead, load_talking_head
from ....engine.animators.talking_head.sampler import BEFORE
from ....engine.compute.memory import META, footprint, weightless
from ....engine.observation import Features, Observation
from ....engine.surrogates.reference_net import ReferenceNet
from ..memory.devices import patched
from ..memory.precision import working_dtype
from ..memory.room import Pass
from .animators import bank_shapes
from .resident import Resident
from .run_surrogates import Surrogates


@dataclass(frozen=True, eq=False)
class LoadedTalkingHead:
    """What a STILLGUARD_TALKING_HEAD carries."""

    net: ReferenceNet
    net_patcher: ModelPatcher
    head: TalkingHead
    head_patcher: ModelPatcher
    name: str
    in_fp32: Callable[[], LoadedTalkingHead]
    """The same in fp32, read anew."""

    def memory_required(self, height: int, width: int, *, frames: int) -> float:
        """Bytes beside the weights that one look at a clip takes without gradients."""
        with weightless((self.head,)), torch.no_grad():
            return float(footprint(lambda: (_denoised(self.head, height // 8, width // 8, frames),), lambda outputs: None).peak)


def talking_head_from(path: Path, precision: str) -> LoadedTalkingHead:
    """Raises WeightsError for a file that is none."""
    # Nodes run under inference mode, whose tensors autograd refuses later.
    with torch.inference_mode(False):
        net, head = load_talking_head(path, dtype=working_dtype(precision))
        return LoadedTalkingHead(net, patched(net), head, patched(head), path.name, partial(talking_head_from, path, "fp32"))


def check_vae(vae: comfy.sd.VAE) -> None:
    """Raises ValueError for a VAE whose latents Hallo does not read."""
    if vae.latent_channels != 4 or vae.latent_dim != 2:
        kind = "a video" if vae.latent_dim != 2 else "a picture"
        raise ValueError(
            f"The VAE makes latents of {vae.latent_channels} channels of {kind} and the talking head reads 4 of a picture: load the VAE of "
            "SD 1.5."
        )


def talking_head_views(surrogates: Surrogates, loaded: LoadedTalkingHead) -> tuple[ReferenceNet, TalkingHead]:
    def used(in_fp32: bool) -> LoadedTalkingHead:
        # One file holds both networks.
        return surrogates.once((id(loaded), "fp32"), loaded.in_fp32) if in_fp32 else loaded

    def make_net(in_fp32: bool) -> Resident[ReferenceNet]:
        one = used(in_fp32)
        passes = {"portrait": portrait_pass(one.net, one.head.face_projection.tokens)}
        return Resident("The talking head's ReferenceNet", one.net, one.net_patcher, dict(passes), network=one.net.unet)

    def make_head(in_fp32: bool) -> Resident[TalkingHead]:
        one = used(in_fp32)
        passes = {"frame": frame_pass(one.head)}
        return Resident("The talking head", one.head, one.head_patcher, dict(passes), network=one.head.denoiser, checkpointed=one.head)

    return surrogates.get((id(loaded), "net"), make_net).view, surrogates.get((id(loaded), "head"), make_head).view


def portrait_pass(net: ReferenceNet, tokens: int) -> Pass:
    """tokens: of the face, which do not depend on the picture that is optimised."""

    def ask(seen: Observation) -> Features:
        latent = torch.empty(1, 4, *_eighth(seen), device=META).requires_grad_()
        return seen.features(net, "portrait", lambda: net(latent, 0, torch.empty(1, tokens, net.context_dim, device=META)))

    return Pass("ReferenceNet", (net,), ask)


def frame_pass(head: TalkingHead) -> Pass:
    """The one frame that the nullifying loss asks for."""

    def ask(seen: Observation) -> Features:
        return (_denoised(head, *_eighth(seen), 1),)

    return Pass("talking head", (head,), ask, clean=0, checkpointed=head)


def _denoised(head: TalkingHead, height: int, width: int, frames: int) -> Tensor:
    """From shapes alone. The frames before are copies of the portrait, so that gradients come through them too."""
    unet, projection = head.denoiser.unet, head.audio_projection
    bank: Bank = bank_shapes(unet, height, width)
    motion = {name: feature[:, None].expand(-1, BEFORE, -1, -1) for name, feature in bank.items()}
    sides = [(-(-height // 2**level), -(-width // 2**level)) for level in range(head.levels)]
    return head.denoise(
        torch.empty(1, 4, frames, height, width, device=META),
        0,
        torch.empty(1, head.face_projection.tokens, head.context_dim, device=META),
        torch.empty(1, unet.config["block_out_channels"][0], height, width, device=META),
        torch.empty(1, frames, projection.tokens, projection.norm.normalized_shape[0], device=META),
        tuple(torch.empty(3, 1, *side, device=META) for side in sides),
        bank,
        motion,
    )


def _eighth(seen: Observation) -> tuple[int, int]:
    """Sides of the picture's latents."""
    return seen.image.shape[-2] // 8, seen.image.shape[-1] // 8
