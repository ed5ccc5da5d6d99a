"""What Dormant's loss nodes return: settings and sockets, from which a run builds the engine's losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ..engine.animators.pose_animator import last_timesteps, noise_schedule
from ..engine.losses import dormant
from ..engine.surrogates.reference_net import ANIMATE_ANYONE
from ..engine.weights.catalogue import catalogue
from .bridge.model_files import find_file
from .bridge.surrogates.views import embedding_width

if TYPE_CHECKING:
    import comfy.clip_vision
    import comfy.sd

    from .bridge.surrogates.animators import LoadedPoseAnimator, LoadedReferenceNet
    from .bridge.surrogates.residents import Surrogates
    from .bridge.surrogates.views import Preparation


@dataclass(frozen=True)
class VAELatentSpec:
    drives: ClassVar[bool] = True
    one_photo: ClassVar[bool] = False
    weight: float
    vae: comfy.sd.VAE
    scale: float | None
    tiled: bool = False
    name: str = "VAE Latent"

    def build(self, surrogates: Surrogates) -> dormant.VAELatent:
        return dormant.VAELatent(surrogates.tiled_vae(self.vae) if self.tiled else surrogates.vae(self.vae), self.scale)


@dataclass(frozen=True)
class CLIPSemanticSpec:
    drives: ClassVar[bool] = True
    one_photo: ClassVar[bool] = False
    weight: float
    clip_vision: comfy.clip_vision.ClipVisionModel
    preparation: Preparation = "crop"
    name: str = "CLIP Semantic"

    def build(self, surrogates: Surrogates) -> dormant.CLIPSemantic:
        return dormant.CLIPSemantic(surrogates.clip_vision(self.clip_vision, self.preparation))


@dataclass(frozen=True)
class LPIPSPenaltySpec:
    drives: ClassVar[bool] = False
    one_photo: ClassVar[bool] = False
    weight: float
    backbone: str
    threshold: float
    name: str = "LPIPS Penalty"

    def build(self, surrogates: Surrogates) -> dormant.LPIPSPenalty:
        return dormant.LPIPSPenalty(surrogates.perceptual(find_file(catalogue()["lpips_vgg16"], self.backbone)), self.threshold)


@dataclass(frozen=True, eq=False)
class Sockets:
    """What ReferenceNets are shown a picture through. official: in every detail as Dormant's official code does it.

    text: the empty prompt's embedding [1,T,D]; None stands for zeros.
    """

    vae: comfy.sd.VAE
    clip_vision: comfy.clip_vision.ClipVisionModel | None
    text: Tensor | None
    official: bool = False

    @property
    def preparation(self) -> Preparation:
        # As animators prepare the photo that they are given, or as the official code does.
        return "official" if self.official else "squash"

    def check(self, loaded: LoadedReferenceNet) -> None:
        """Raises ValueError, one sentence, where a socket does not fit the net."""
        wanted, of_image = loaded.net.context_dim, loaded.net.format.context == "image"
        if self.vae.latent_channels != 4:
            raise ValueError(
                f"The VAE makes latents of {self.vae.latent_channels} channels and ReferenceNets read 4: load the VAE of SD 1.5."
            )
        if of_image and self.clip_vision is None:
            raise ValueError(f"{loaded.name} reads the photo through an image encoder: connect clip_vision (of sd-image-variations).")
        width = embedding_width(self.clip_vision) if of_image and self.clip_vision is not None else wanted
        if width != wanted:
            raise ValueError(
                f"The image encoder gives {width or 'no projected'} numbers and {loaded.name} reads {wanted}: load the image encoder of "
                "sd-image-variations (ViT-L/14) with Load CLIP Vision."
            )
        if not of_image and self.text is None and self.official:
            raise ValueError(f"{loaded.name} reads the empty prompt in the profile 'reference': connect clip (of an SD 1.5 checkpoint).")
        if not of_image and self.text is not None and self.text.shape[-1] != wanted:
            raise ValueError(
                f"The text encoder gives {self.text.shape[-1]} numbers and {loaded.name} reads {wanted}: load an SD 1.5 checkpoint's CLIP."
            )

    def setup(self, loaded: LoadedReferenceNet, surrogates: Surrogates) -> dormant.ReferenceSetup:
        """Raises ValueError as `check` does."""
        self.check(loaded)
        net = surrogates.reference_net(loaded)
        vae = surrogates.tiled_vae(self.vae) if self.official else surrogates.vae(self.vae)
        if net.format.context == "text" or self.clip_vision is None:
            return dormant.ReferenceSetup(net, vae, self._text(loaded))
        encoder = surrogates.clip_vision(self.clip_vision, self.preparation)
        return dormant.ReferenceSetup(net, vae, encoder, unconditional=self.official)

    def _text(self, loaded: LoadedReferenceNet) -> Tensor:
        if self.text is None:
            return torch.zeros(1, 77, loaded.net.context_dim)
        return self.text.to(torch.float32, copy=True)


@dataclass(frozen=True, eq=False)
class ReferenceFeatureSpec:
    drives: ClassVar[bool] = True
    one_photo: ClassVar[bool] = False
    weight: float
    net: LoadedReferenceNet
    sockets: Sockets

    @property
    def name(self) -> str:
        return f"ReferenceNet {self.net.net.format.name}"

    def build(self, surrogates: Surrogates) -> dormant.ReferenceFeature:
        fixed = self.net.net.format.timestep
        return dormant.ReferenceFeature(self.sockets.setup(self.net, surrogates), last_timesteps() if fixed is None else (fixed,))


@dataclass(frozen=True, eq=False)
class FrameIncoherenceSpec:
    """pose: IMAGE [1 or more,H,W,C] of the clean picture."""

    drives: ClassVar[bool] = True
    one_photo: ClassVar[bool] = True
    weight: float
    animator: LoadedPoseAnimator
    net: LoadedReferenceNet
    pose: Tensor
    sockets: Sockets
    frames: int = 5
    guidance: float = 3.5
    alignment: float = 1.0
    consistency: float = 1.0
    name: str = "Frame Incoherence"

    def build(self, surrogates: Surrogates) -> dormant.FrameIncoherence:
        check_pair(self.net, self.animator)
        pose = self.pose.detach().clone().movedim(-1, 1)[:, :3].float().expand(-1, 3, -1, -1)
        animator = surrogates.animator(self.animator, frames=self.frames)
        return dormant.FrameIncoherence(
            animator,
            self.sockets.setup(self.net, surrogates),
            pose,
            noise_schedule().alphas_cumprod,
            last_timesteps(),
            self.frames,
            self.guidance,
            # Pure noise, as officially, leaves next to no gradient at the late steps that are drawn.
            noised=not self.sockets.official,
            alignment=self.alignment,
            consistency=self.consistency,
        )


def check_pair(net: LoadedReferenceNet, animator: LoadedPoseAnimator) -> None:
    """Raises ValueError unless the net is the one that the animator's attention reads."""
    if net.net.format is not ANIMATE_ANYONE:
        raise ValueError(
            f"{net.name} is a ReferenceNet of {net.net.format.name}, which this animator cannot read: load reference_unet.pth."
        )
    if net.net.names != animator.animator.names or net.net.context_dim != animator.animator.context_dim:
        raise ValueError(f"{net.name} and {animator.name} are of different sizes: load both from the same publication.")
