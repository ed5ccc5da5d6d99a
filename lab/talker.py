"""A small talking head as it is trained: Hallo's networks, narrow, from scratch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..engine.animators.motion_unet import Bank
from ..engine.animators.talking_head.denoiser import Masks
from ..engine.animators.talking_head.head import talking_head
from ..engine.animators.talking_head.sampler import BEFORE
from ..engine.weights.filling import State
from .animator import SIDE, Located

LATENT = SIDE // 8


class Talker(Located):
    """Both networks, trainable. Nothing is told of who it is: the face's embedding is zeros."""

    def __init__(self, state: State, region: Tensor, masks: Masks) -> None:
        """state: a net.pth's tensors, which give the sizes; values are drawn anew. region, masks: see TalkingHead.locate and .denoise, the
        same for all portraits."""
        super().__init__()
        self.reference, self.head = talking_head(state, "a new talking head")
        self.masks = masks
        self.register_buffer("region", region, persistent=False)
        for module in self.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
        self.requires_grad_(True).train()
        unet = self.head.denoiser.unet
        # Both begin with the same weights, as those that are made from one published model do.
        unet.load_state_dict(self.reference.unet.state_dict(), strict=False)
        for name, module in unet.named_modules():
            # Motion and audio begin as the identity.
            if name.endswith(".proj_out") and (".motion_modules." in name or ".audio_modules." in name):
                nn.init.zeros_(module.get_parameter("weight"))
                nn.init.zeros_(module.get_parameter("bias"))
        self.watch(unet)

    def forward(self, noisy: Tensor, timesteps: Tensor, portrait: Tensor, heard: Tensor, *, guided: bool) -> Tensor:
        """v of [B,4,N,h,w]; timesteps [B], portrait [B,4,h,w], heard: windows [B,N,window,layers,channels]. Unguided it sees and hears
        nothing, but the frames before, which are copies of the portrait."""
        self.position_error = torch.zeros(())
        face = self.head.face_tokens(torch.zeros(len(noisy), self.head.face_dim))
        bank: Bank = dict(zip(self.reference.names, self.reference(portrait, 0, face), strict=True))
        self.compare(bank)
        motion = {name: feature[:, None].expand(-1, BEFORE, -1, -1) for name, feature in bank.items()}
        audio = self.head.audio_tokens(heard.flatten(0, 1)).unflatten(0, heard.shape[:2])
        return self.head.denoise(
            noisy,
            timesteps,
            face,
            self.head.locate(self.get_buffer("region")),
            audio if guided else torch.zeros_like(audio),
            self.masks,
            bank if guided else None,
            motion,
        )

    def rehearse(self, generator: torch.Generator) -> None:
        """See Located."""
        noisy, portrait = (torch.randn(shape, generator=generator) for shape in ((8, 4, 1, LATENT, LATENT), (8, 4, LATENT, LATENT)))
        timesteps = torch.randint(1000, (8,), generator=generator)
        heard = torch.zeros(8, 1, 1, self.head.audio_projection.proj1.in_features, 1)
        self(noisy, timesteps, portrait, heard, guided=True)
