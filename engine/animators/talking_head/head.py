"""Hallo's networks as one: what a portrait, a face and speech make of noisy frames; and its file, net.pth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ...compute.half import with_scaled_gradient
from ...surrogates.reference_net import HALLO, ReferenceNet, read_part, truncated_unet
from ...surrogates.sd_unet import GROUPS, HEADS, check_family, spatial_blocks
from ...weights.filling import State, fill, on_meta
from ...weights.reading import WeightsError, read_weights
from ..motion_unet import Bank, diffusers_names
from ..pose_animator import picture_encoder
from .audio import AudioProjection, FaceProjection, windows
from .denoiser import Masks, Mode, Scale, TalkingDenoiser, talking_unet

if TYPE_CHECKING:
    from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding

_PARTS = ("reference_unet", "denoising_unet", "face_locator", "imageproj", "audioproj")


class TalkingHead(nn.Module):
    """Denoiser, face locator and the projections of face and audio. The ReferenceNet, which reads the portrait, is a network of its own."""

    def __init__(
        self,
        denoiser: TalkingDenoiser,
        face_locator: ControlNetConditioningEmbedding,
        face_projection: FaceProjection,
        audio_projection: AudioProjection,
    ) -> None:
        super().__init__()
        self.denoiser, self.face_locator = denoiser, face_locator
        self.face_projection, self.audio_projection = face_projection, audio_projection
        self.names: tuple[str, ...] = tuple(name for name, _ in spatial_blocks(denoiser.unet))

    @property
    def dtype(self) -> torch.dtype:
        return self.denoiser.unet.dtype  # type: ignore[no-any-return]

    @property
    def context_dim(self) -> int:
        """Width of the face's tokens."""
        return int(self.denoiser.unet.config["cross_attention_dim"])

    @property
    def face_dim(self) -> int:
        """Numbers in an embedding of the face."""
        return self.face_projection.proj.in_features

    @property
    def levels(self) -> int:
        """For how many sizes `denoise` is given masks, each half of the one before."""
        return len(self.denoiser.unet.down_blocks)

    @property
    def longest(self) -> int:
        """Frames that the motion modules' positions reach, those before the clip included."""
        return int(self.denoiser.unet.config["motion_max_seq_length"])

    @property
    def checkpointing(self) -> bool:
        """Recompute activations in the backward pass instead of keeping them."""
        return bool(self.denoiser.unet.is_gradient_checkpointing)

    @checkpointing.setter
    def checkpointing(self, wanted: bool) -> None:
        unet = self.denoiser.unet
        (unet.enable_gradient_checkpointing if wanted else unet.disable_gradient_checkpointing)()

    def windows(self, features: Tensor, frames: Sequence[int] | None = None) -> Tensor:
        """Speech features [N,layers,channels], 25 a second -> windows [n,2k+1,layers,channels] around these frames, or around all.

        Raises ValueError for features of another encoder.
        """
        one, read = features.shape[1] * features.shape[2], self.audio_projection.proj1.in_features
        if read % (2 * one) != one:
            raise ValueError(
                f"The audio encoder gives {features.shape[1]} layers of {features.shape[2]} numbers, which this talking head cannot read: "
                "use wav2vec2-base."
            )
        return windows(features, read // one // 2, frames)

    def audio_tokens(self, windows: Tensor) -> Tensor:
        """Windows of N frames -> [N,tokens,D]. A talking head that hears nothing is given zeros in their place."""
        tokens: Tensor = self.audio_projection(windows.to(self.dtype))
        return tokens

    def face_tokens(self, embedding: Tensor) -> Tensor:
        """[B,face_dim] -> [B,tokens,context_dim]. Without a face, and for the unconditional row, the embedding is zeros."""
        tokens: Tensor = self.face_projection(embedding.to(self.dtype))
        return tokens

    def locate(self, region: Tensor) -> Tensor:
        """Where the face is, [N,1 or 3,H,W] in [0,1] -> features [N,C,H/8,W/8] for `denoise`."""
        features: Tensor = self.face_locator(region.expand(-1, 3, -1, -1).to(self.dtype))
        return features

    def denoise(
        self,
        noisy: Tensor,
        timestep: int | Tensor,
        context: Tensor,
        face: Tensor,
        audio: Tensor,
        masks: Masks,
        bank: Bank | None = None,
        motion: Bank | None = None,
        *,
        mode: Mode = "faithful",
        scale: Scale = (1, 1, 1),
    ) -> Tensor:
        """The prediction v of [B,4,N,h,w] fp32, from noisy latents of the same shape.

        timestep: one for all rows, or [B]. context: from `face_tokens`, [B,T,D]. face: from `locate`, [1 or N,C,h,w]. audio: from
        `audio_tokens`, [B,N,T,D]. masks: for each level [3,1 or N,h_i,w_i]. bank: the portrait's features [B or B*N,tokens,C], see
        PoseAnimator.denoise. motion: those of the frames before the clip, [1 or B,M,tokens,C], which every motion module reads that the
        mode lets see them. scale: how much background, face and lips hear. M + N is at most `longest`.
        """
        dtype = self.dtype
        of_portrait, before = tuple(bank or {}), tuple(motion or {})

        def run(noisy: Tensor, context: Tensor, *features: Tensor) -> tuple[Tensor]:
            read = [feature.to(dtype) for feature in features]
            sample: Tensor = self.denoiser(
                noisy.to(dtype),
                timestep if isinstance(timestep, Tensor) else torch.full((), timestep, device=noisy.device),
                context.to(dtype),
                face.to(dtype),
                audio.to(dtype),
                tuple(level.to(dtype) for level in masks),
                dict(zip(of_portrait, read[: len(of_portrait)], strict=True)),
                dict(zip(before, read[len(of_portrait) :], strict=True)),
                mode=mode,
                scale=scale,
            )
            return (sample,)

        inputs = (noisy, context, *(bank or {}).values(), *(motion or {}).values())
        (velocity,) = with_scaled_gradient(run, *inputs, network=self) if dtype == torch.float16 else run(*inputs)
        return velocity.float()


def load_talking_head(
    path: Path, *, dtype: torch.dtype = torch.float32, heads: int = HEADS, groups: int = GROUPS, motion_heads: int = HEADS
) -> tuple[ReferenceNet, TalkingHead]:
    """Read Hallo's net.pth, frozen, in eval mode, on the CPU: the network that reads the portrait, and the rest.

    heads, groups, motion_heads: which no file tells; the defaults are the published network's.
    Raises WeightsError, one sentence, for a file that is none, naming the tensors that are missing or unknown.
    """
    return talking_head(read_weights(path), path.name, dtype=dtype, heads=heads, groups=groups, motion_heads=motion_heads)


def talking_head(
    state: State,
    name: str,
    *,
    dtype: torch.dtype = torch.float32,
    heads: int = HEADS,
    groups: int = GROUPS,
    motion_heads: int = HEADS,
) -> tuple[ReferenceNet, TalkingHead]:
    """As `load_talking_head`, from tensors that were read from a file called `name`."""
    parts = {part: _below(state, f"{part}.") for part in _PARTS}
    if not all(parts.values()):
        raise _no_talking_head(name)
    for part in _PARTS[:2]:
        check_family(parts[part], name)
    try:
        reference = truncated_unet(parts["reference_unet"], heads=heads, groups=groups)
        unet = talking_unet(parts["denoising_unet"], heads=heads, groups=groups, motion_heads=motion_heads)
        locator = picture_encoder(parts["face_locator"])
        face, audio = _projections(parts["imageproj"], parts["audioproj"])
    except (KeyError, ValueError) as error:
        raise _no_talking_head(name) from error
    parts["reference_unet"] = read_part(parts["reference_unet"], reference)
    parts["denoising_unet"] = diffusers_names(parts["denoising_unet"])
    # As one network, so that a sentence says everything that is missing, under the names that the file has.
    whole = nn.ModuleDict(dict(zip(_PARTS, cast(Any, (reference, unet, locator, face, audio)), strict=True)))
    known = {f"{part}.{key}": tensor for part, tensors in parts.items() for key, tensor in tensors.items()}
    unknown = {key for key in state if not key.startswith(tuple(f"{part}." for part in _PARTS))}
    fill(whole, known, dtype, name=name, what="a whole Hallo", unknown=unknown)
    return ReferenceNet(reference, HALLO), TalkingHead(TalkingDenoiser(unet), locator, face, audio)


def _projections(face: State, audio: State) -> tuple[FaceProjection, AudioProjection]:
    """Of the face and of the audio, without weights."""
    read_face, width = face["proj.weight"].shape[1], face["norm.weight"].shape[0]
    of_face = on_meta(lambda: FaceProjection(read_face, face["proj.weight"].shape[0] // width, width))
    (inner, heard), depth = audio["proj1.weight"].shape, audio["norm.weight"].shape[0]
    of_audio = on_meta(lambda: AudioProjection(heard, inner, audio["proj3.weight"].shape[0] // depth, depth))
    return cast(FaceProjection, of_face), cast(AudioProjection, of_audio)


def _below(state: State, prefix: str) -> State:
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def _no_talking_head(name: str) -> WeightsError:
    return WeightsError(f"{name} is not Hallo's talking head: choose its net.pth.")
