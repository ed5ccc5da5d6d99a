"""Through which sockets ReferenceNets are shown a picture."""

from __future__ import annotations

from dataclasses import dataclass

import comfy.clip_vision
import comfy.sd
import torch
from torch import Tensor

from ....engine.losses.posed import ReferenceSetup
from .animators import LoadedReferenceNet, reference_net_view
from .clip_vision import Preparation, clip_vision_view, embedding_width
from .run_surrogates import Surrogates
from .vae import tiled_vae_view, vae_view


@dataclass(frozen=True, eq=False)
class ReferenceSockets:
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

    def setup(self, loaded: LoadedReferenceNet, surrogates: Surrogates) -> ReferenceSetup:
        """Raises ValueError as `check` does."""
        self.check(loaded)
        net = reference_net_view(surrogates, loaded)
        vae = tiled_vae_view(surrogates, self.vae) if self.official else vae_view(surrogates, self.vae)
        if net.format.context == "text" or self.clip_vision is None:
            return ReferenceSetup(net, vae, self._text(loaded))
        encoder = clip_vision_view(surrogates, self.clip_vision, self.preparation)
        return ReferenceSetup(net, vae, encoder, unconditional=self.official)

    def _text(self, loaded: LoadedReferenceNet) -> Tensor:
        if self.text is None:
            return torch.zeros(1, 77, loaded.net.context_dim)
        return self.text.to(torch.float32, copy=True)
