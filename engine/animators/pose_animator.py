"""The pose-driven animator: AnimateAnyone's denoiser with reference attention (Hu et al. 2024, as released by MooreThreads)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor, nn

from ..compute.half import with_scaled_gradient
from ..packages import needed
from ..surrogates.sd_unet import GROUPS, HEADS, check_family, spatial_blocks
from ..weights.filling import State, fill, on_meta
from ..weights.reading import WeightsError, read_weights
from .motion_unet import Bank, diffusers_names, motion_unet, read_bank

if TYPE_CHECKING:
    from diffusers import DDIMScheduler, UNetMotionModel
    from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding


def noise_schedule(betas: Literal["linear", "scaled_linear"] = "linear") -> DDIMScheduler:
    """AnimateAnyone's schedule, and Hallo's at work: linear betas rescaled to zero terminal SNR, v-prediction, trailing steps.

    "scaled_linear" is the one that Hallo was trained with.
    """
    with needed("diffusers"):
        from diffusers import DDIMScheduler
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule=betas,
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
        read_bank(unet)

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
    state = diffusers_names({**temporal, **spatial})
    try:
        unet = motion_unet(state, heads=heads, groups=groups)
    except (KeyError, ValueError) as error:
        raise _no_denoiser(names[0]) from error
    fill(unet, state, dtype, name=" with ".join(names), what="a whole AnimateAnyone denoiser")
    return unet


def pose_guider(state: State, name: str, *, dtype: torch.dtype = torch.float32) -> ControlNetConditioningEmbedding:
    """The pose guider from the tensors of a file of this name. Raises WeightsError when they are none."""
    try:
        guider = picture_encoder(state)
    except (KeyError, ValueError) as error:
        raise WeightsError(f"{name} is not a pose guider: choose AnimateAnyone's pose_guider.pth.") from error
    fill(guider, state, dtype, name=name, what="a pose guider")
    return guider


def picture_encoder(state: State) -> ControlNetConditioningEmbedding:
    """diffusers' encoder of conditioning pictures, without weights, of the layout that `state` has.

    Raises KeyError or ValueError where the tensors of `state` have no such layout.
    """
    with needed("diffusers"):
        from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
    strided = sorted((int(key.split(".")[1]), key) for key in state if key.startswith("blocks.") and key.endswith(".weight"))[1::2]
    if not strided:
        raise ValueError("It has no strided layers.")
    widths = (state["conv_in.weight"].shape[0], *(state[key].shape[0] for _, key in strided))
    out = state["conv_out.weight"].shape[0]
    return cast(ControlNetConditioningEmbedding, on_meta(lambda: ControlNetConditioningEmbedding(out, 3, widths)))


def _no_denoiser(name: str) -> WeightsError:
    return WeightsError(f"{name} is not AnimateAnyone's denoiser: choose denoising_unet.pth.")
