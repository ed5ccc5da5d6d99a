"""The pose-driven animator: AnimateAnyone's denoiser with reference attention (Hu et al. 2024, as released by MooreThreads)."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..compute.half import with_scaled_gradient
from ..compute.unpatched import unpatched
from ..packages import needed
from ..surrogates.sd_unet import GROUPS, HEADS, check_family, spatial_blocks, unet_config
from ..weights.filling import State, fill, on_meta
from ..weights.reading import WeightsError, read_weights

if TYPE_CHECKING:
    from diffusers import DDIMScheduler, UNetMotionModel
    from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding

Bank = Mapping[str, Tensor]
"""Reference features by the name of the spatial attention that reads them, each [B,tokens,C]."""

LONGEST_CLIP = 32
"""Frames that the motion modules' positions reach."""

# The original's names of a motion module's parts, and those of diffusers' UNetMotionModel.
_MOTION_NAMES = (
    (".temporal_transformer.", "."),
    (".attention_blocks.0.pos_encoder.pe", ".pos_embed.pe"),
    (".attention_blocks.0.", ".attn1."),
    (".attention_blocks.1.", ".attn2."),
    (".norms.0.", ".norm1."),
    (".norms.1.", ".norm2."),
    (".ff_norm.", ".norm3."),
)
# A second copy of the same sinusoid; diffusers shares the first.
_SECOND_POSITIONS = ".attention_blocks.1.pos_encoder.pe"


def noise_schedule() -> DDIMScheduler:
    """AnimateAnyone's schedule: linear betas rescaled to zero terminal SNR, v-prediction, trailing steps."""
    with needed("diffusers"):
        from diffusers import DDIMScheduler
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="linear",
        clip_sample=False,
        steps_offset=1,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )


def last_timesteps(steps: int = 30, last: int = 10) -> tuple[int, ...]:
    """Where the last of a victim's denoising steps happen; of the defaults Dormant draws one at each of its own steps."""
    schedule = noise_schedule()
    schedule.set_timesteps(steps)
    return tuple(int(timestep) for timestep in schedule.timesteps[-last:])


class PoseAnimator(nn.Module):
    """Denoiser, motion modules and pose guider of one animator."""

    def __init__(self, unet: UNetMotionModel, guider: ControlNetConditioningEmbedding) -> None:
        """unet: as `motion_unet` makes it."""
        super().__init__()
        self.unet, self.guider = unet, guider
        self.names: tuple[str, ...] = tuple(name for name, _ in spatial_blocks(unet))
        for name, block in spatial_blocks(unet):
            block.attn1.set_processor(_BankAttention(name))  # type: ignore[operator, union-attr]
            block.attn2.set_processor(_BankAttention(None))  # type: ignore[operator, union-attr]

    @property
    def context_dim(self) -> int:
        """Width of the embeddings that cross-attention reads."""
        return int(self.unet.config["cross_attention_dim"])

    @property
    def checkpointing(self) -> bool:
        """Recompute activations in the backward pass instead of keeping them."""
        return bool(self.unet.is_gradient_checkpointing)

    @checkpointing.setter
    def checkpointing(self, wanted: bool) -> None:
        (self.unet.enable_gradient_checkpointing if wanted else self.unet.disable_gradient_checkpointing)()

    def guide(self, pose: Tensor) -> Tensor:
        """Pose pictures [N,3,H,W] in [0,1] -> features [N,C,H/8,W/8] for `denoise`."""
        features: Tensor = self.guider(pose.to(self.unet.dtype))
        return features

    def denoise(self, noisy: Tensor, timestep: int | Tensor, context: Tensor, pose: Tensor, bank: Bank | None = None) -> Tensor:
        """The prediction v of [B,4,N,h,w] fp32, from noisy latents of the same shape.

        timestep: one for all rows, or [B]. context: [B,T,D]. pose: from `guide`, [N,C,h,w], the same for every row, or
        [B*N,C,h,w]. bank: reference features with B rows, read by every frame's spatial self-attention (Hu et al. 2024, section
        3.2); without it attention sees the frame alone, as in the unconditional row of classifier-free guidance. N is at most LONGEST_CLIP.
        """
        dtype, frames, names = self.unet.dtype, noisy.shape[2], tuple(bank or {})

        def run(noisy: Tensor, context: Tensor, *features: Tensor) -> tuple[Tensor]:
            # Registered for one pass: a hook that stayed would form a cycle with the UNet and keep its weights in memory.
            hook = self.unet.conv_in.register_forward_hook(partial(_with_pose, pose.to(dtype)))
            try:
                sample = self.unet(
                    noisy.to(dtype),
                    timestep if isinstance(timestep, Tensor) else torch.full((), timestep, device=noisy.device),
                    context.to(dtype).repeat_interleave(frames, dim=0),
                    cross_attention_kwargs={"bank": {name: f.to(dtype) for name, f in zip(names, features, strict=True)}},
                    return_dict=False,
                )[0]
            finally:
                hook.remove()
            return (sample,)

        inputs = (noisy, context, *(bank or {}).values())
        (velocity,) = with_scaled_gradient(run, *inputs, network=self) if dtype == torch.float16 else run(*inputs)
        return velocity.float()


def _with_pose(pose: Tensor, module: nn.Module, inputs: object, output: Tensor) -> Tensor:
    return output + pose.repeat(output.shape[0] // pose.shape[0], 1, 1, 1)


class _BankAttention:
    """diffusers' own attention, over the frame's tokens and the reference's."""

    def __init__(self, name: str | None) -> None:
        with needed("diffusers"):
            from diffusers.models.attention_processor import AttnProcessor2_0
        self._name, self._attend = name, unpatched(AttnProcessor2_0())

    def __call__(
        self,
        attention: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        bank: Bank | None = None,
    ) -> Tensor:
        if self._name is not None and bank:
            reference = bank[self._name]
            frames = hidden_states.shape[0] // reference.shape[0]
            encoder_hidden_states = torch.cat([hidden_states, reference.repeat_interleave(frames, dim=0)], dim=1)
        attended: Tensor = self._attend(attention, hidden_states, encoder_hidden_states, attention_mask)
        return attended


class _PerFrameGroupNorm(nn.GroupNorm):
    """Statistics of each frame on its own, as in the original; diffusers' motion modules take them over all frames."""

    def forward(self, video: Tensor) -> Tensor:
        """[B,C,N,h,w] -> the same."""
        normed = super().forward(rearrange(video, "b c n h w -> (b n) c h w"))
        return rearrange(normed, "(b n) c h w -> b c n h w", b=len(video))


def _recomputable(module: nn.Module, block: nn.Module) -> Callable[..., Tensor]:
    """The forward pass of a motion module's block, with gradient checkpointing when it is on: diffusers leaves these modules out."""
    # Weak references: the block's `forward` becomes this function, and strong ones would form a cycle that keeps the weights in memory.
    switch, forward = weakref.proxy(module), partial(type(block).forward, weakref.proxy(block))

    def run(*inputs: Any, **named: Any) -> Tensor:
        if torch.is_grad_enabled() and switch.gradient_checkpointing:
            recomputed: Tensor = checkpoint(forward, *inputs, use_reentrant=False, **named)
            return recomputed
        result: Tensor = forward(*inputs, **named)
        return result

    return run


def motion_unet(state: State, *, heads: int, groups: int) -> UNetMotionModel:
    """diffusers' UNetMotionModel without weights, of the layout that `state` has, normalising as the original does.

    Raises KeyError or ValueError where the tensors of `state` have no such layout.
    """
    with needed("diffusers"):
        from diffusers import UNetMotionModel
    config = unet_config(state, heads=heads, groups=groups)
    config["num_attention_heads"] = config["motion_num_attention_heads"] = config.pop("heads")
    for key in ("down_block_types", "up_block_types"):
        config[key] = tuple(f"{kind}Motion" for kind in config[key])
    config["motion_max_seq_length"] = LONGEST_CLIP
    config["use_motion_mid_block"] = any(name.startswith("mid_block.motion_modules.") for name in state)

    def make() -> UNetMotionModel:
        unet = unpatched(UNetMotionModel(**config))
        for name, module in list(unet.named_modules()):
            if name.split(".")[-2:-1] == ["motion_modules"]:
                # The original always has 32 groups and this epsilon here, whatever the rest of the UNet has.
                cast(Any, module).norm = _PerFrameGroupNorm(32, module.norm.num_channels, eps=1e-6)
                # The switch that enable_gradient_checkpointing looks for on every module.
                cast(Any, module).gradient_checkpointing = False
                for block in cast(nn.ModuleList, module.transformer_blocks):
                    block.forward = _recomputable(module, block)
        return unet

    return cast(UNetMotionModel, on_meta(cast(Any, make)))


def load_pose_animator(
    denoiser: Path, motion: Path, guider: Path, *, dtype: torch.dtype = torch.float32, heads: int = HEADS, groups: int = GROUPS
) -> PoseAnimator:
    """Read denoising_unet, motion_module and pose_guider, frozen, in eval mode, on the CPU.

    Where denoiser and motion module both hold a tensor, the denoiser's counts, as upstream loads them. heads, groups: see
    `load_reference_net`. Raises WeightsError, one sentence, for a wrong file, naming the tensors that are missing or unknown.
    """
    unet = denoiser_unet(
        read_weights(denoiser), read_weights(motion), (denoiser.name, motion.name), dtype=dtype, heads=heads, groups=groups
    )
    return PoseAnimator(unet, pose_guider(read_weights(guider), guider.name, dtype=dtype))


def denoiser_unet(
    spatial: State, temporal: State, names: tuple[str, str], *, dtype: torch.dtype = torch.float32, heads: int = HEADS, groups: int = GROUPS
) -> UNetMotionModel:
    """The denoiser from the tensors of denoising_unet and motion_module, which were read from files of these names.

    Raises WeightsError, one sentence, where they are not what they should be.
    """
    if "conv_in.weight" not in spatial or not any(key.startswith("down_blocks.") for key in spatial):
        raise _no_denoiser(names[0])
    if "conv_out.weight" not in spatial:
        raise WeightsError(
            f"{names[0]} is a ReferenceNet, which has no output layer: choose AnimateAnyone's denoising_unet.pth here, and this file in "
            "Load ReferenceNet."
        )
    check_family(spatial, names[0])
    temporal = {key: tensor for key, tensor in temporal.items() if "motion_module" in key}
    if not temporal:
        raise WeightsError(f"{names[1]} holds no motion modules: choose AnimateAnyone's motion_module.pth.")
    state = {_motion_name(key): tensor for key, tensor in {**temporal, **spatial}.items() if not key.endswith(_SECOND_POSITIONS)}
    try:
        unet = motion_unet(state, heads=heads, groups=groups)
    except (KeyError, ValueError) as error:
        raise _no_denoiser(names[0]) from error
    fill(unet, state, dtype, name=" with ".join(names), what="a whole AnimateAnyone denoiser")
    return unet


def pose_guider(state: State, name: str, *, dtype: torch.dtype = torch.float32) -> ControlNetConditioningEmbedding:
    """The pose guider from the tensors of a file of this name. Raises WeightsError when they are none."""
    with needed("diffusers"):
        from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
    strided = sorted((int(key.split(".")[1]), key) for key in state if key.startswith("blocks.") and key.endswith(".weight"))[1::2]
    if not {"conv_in.weight", "conv_out.weight"} <= state.keys() or not strided:
        raise WeightsError(f"{name} is not a pose guider: choose AnimateAnyone's pose_guider.pth.")
    widths = (state["conv_in.weight"].shape[0], *(state[key].shape[0] for _, key in strided))
    out = state["conv_out.weight"].shape[0]
    guider = cast(ControlNetConditioningEmbedding, on_meta(lambda: ControlNetConditioningEmbedding(out, 3, widths)))
    fill(guider, state, dtype, name=name, what="a pose guider")
    return guider


def _no_denoiser(name: str) -> WeightsError:
    return WeightsError(f"{name} is not AnimateAnyone's denoiser: choose denoising_unet.pth.")


def upstream_names(name: str) -> list[str]:
    """AnimateAnyone's name of a motion module's tensor in UNetMotionModel; two names for the positions, which it holds twice."""
    module, _, inner = re.fullmatch(r"(.*\.motion_modules\.\d+)(\.)(.*)", name).groups()  # type: ignore[union-attr]
    inner = f".{inner}"
    if inner.endswith(".pos_embed.pe"):
        first = inner.replace(".pos_embed.pe", ".attention_blocks.0.pos_encoder.pe")
        return [f"{module}.temporal_transformer{copy}" for copy in (first, first.replace("blocks.0.pos", "blocks.1.pos"))]
    for old, new in _MOTION_NAMES[2:]:
        inner = inner.replace(new, old)
    return [f"{module}.temporal_transformer{inner}"]


def _motion_name(name: str) -> str:
    for old, new in _MOTION_NAMES if ".motion_modules." in name else ():
        name = name.replace(old, new)
    return name
