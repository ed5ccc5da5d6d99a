"""What the I2V Surrogate and I2VGuard's loss nodes return: settings and sockets, from which a run builds the engine's losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from ..engine.losses import i2vguard

if TYPE_CHECKING:
    import comfy.clip_vision
    import comfy.sd
    from comfy.model_patcher import ModelPatcher

    from .bridge.surrogates.residents import Surrogates
    from .bridge.video.conditioner import VideoSize
    from .bridge.video.families import Conditioning, Family
    from .bridge.video.model import Sampling


@dataclass(frozen=True, eq=False)
class I2VSurrogateSpec:
    """A user's own image-to-video model. video: IMAGE [F,H,W,C] in place of a sampled prior; blocks: whose attention is read."""

    model: ModelPatcher
    family: Family
    vae: comfy.sd.VAE
    clip_vision: comfy.clip_vision.ClipVisionModel | None
    positive: Conditioning
    negative: Conditioning
    size: VideoSize
    sampling: Sampling
    video: Tensor | None
    blocks: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class TargetLatentSpec:
    """target: IMAGE [1,H,W,C]."""

    drives: ClassVar[bool] = True
    one_photo: ClassVar[bool] = False
    weight: float
    vae: comfy.sd.VAE
    target: Tensor
    scaled: bool = True
    name: str = "Target Latent"

    def build(self, surrogates: Surrogates) -> i2vguard.TargetLatent:
        return i2vguard.TargetLatent(surrogates.vae(self.vae), _picture(self.target))


@dataclass(frozen=True, eq=False)
class ContrastiveFramesSpec:
    drives: ClassVar[bool] = True
    one_photo: ClassVar[bool] = False
    weight: float
    surrogate: I2VSurrogateSpec
    target: Tensor
    reach: float = 2.0
    scaled: bool = True
    name: str = "Contrastive Frames"

    def build(self, surrogates: Surrogates) -> i2vguard.ContrastiveFrames:
        return i2vguard.ContrastiveFrames(surrogates.video_setup(self.surrogate), _picture(self.target), self.reach)


@dataclass(frozen=True, eq=False)
class TemporalAttentionSpec:
    drives: ClassVar[bool] = True
    one_photo: ClassVar[bool] = False
    weight: float
    surrogate: I2VSurrogateSpec
    scaled: bool = True
    name: str = "Temporal Attention"

    def build(self, surrogates: Surrogates) -> i2vguard.TemporalAttention:
        return i2vguard.TemporalAttention(surrogates.video_setup(self.surrogate))


@dataclass(frozen=True)
class L2PenaltySpec:
    drives: ClassVar[bool] = False
    one_photo: ClassVar[bool] = False
    weight: float
    scaled: bool = False
    name: str = "L2 Penalty"

    def build(self, surrogates: Surrogates) -> i2vguard.L2Penalty:
        return i2vguard.L2Penalty()


def _picture(image: Tensor) -> Tensor:
    """IMAGE [1,H,W,C] -> [1,3,H,W]."""
    return image.detach().clone().movedim(-1, 1)[:1, :3].float().expand(-1, 3, -1, -1)
