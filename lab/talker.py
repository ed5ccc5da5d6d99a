"""A small talking head as it is trained: Hallo's networks, narrow, which begin with the laboratory's animator's weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..engine.animators.motion_unet import Bank
from ..engine.animators.talking_head.denoiser import Masks
from ..engine.animators.talking_head.head import talking_head
from ..engine.animators.talking_head.sampler import BEFORE
from ..engine.weights.catalogue import LAB
from ..engine.weights.filling import State
from .animator import SIDE, WIDTHS
from .networks import Lab

LATENT = SIDE // 8


class Talker(nn.Module):
    """Both networks, trainable. Nothing is told of who it is: the face's embedding is zeros."""

    def __init__(self, state: State, region: Tensor, masks: Masks) -> None:
        """state: a net.pth's tensors, which give the sizes: the UNets' are WIDTHS. Values are drawn anew, but for what the laboratory's
        animator already knows: to look at a portrait, and to denoise. region, masks: see TalkingHead.locate and .denoise, the same for
        all portraits.

        Raises ValueError for other widths.
        """
        super().__init__()
        self.reference, self.head = talking_head(state, "a new talking head")
        self.masks = masks
        self.register_buffer("region", region, persistent=False)
        for module in self.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
        unet, learned = self.head.denoiser.unet, Lab(LAB)
        if (found := tuple(unet.config["block_out_channels"])) != WIDTHS:
            raise ValueError(f"The UNet's widths are {found}: give {WIDTHS}, those of the laboratory's animator.")
        self.reference.unet.load_state_dict(learned.net.unet.state_dict())
        of_animator = learned.animator.unet.state_dict()
        kept = unet.load_state_dict({key: value for key, value in of_animator.items() if not key.endswith(".pos_embed.pe")}, strict=False)
        assert all(".audio_modules." in key or key.endswith(".pos_embed.pe") for key in kept.missing_keys), kept.missing_keys
        # What is new says nothing at first, as in Hallo (Xu et al. 2024).
        silent = [module.proj_out for name, module in unet.named_modules() if ".audio_modules." in name and hasattr(module, "proj_out")]
        for module in (*silent, self.head.face_locator.conv_out, self.head.face_projection.norm):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
        self.requires_grad_(True).train()

    def forward(self, noisy: Tensor, timesteps: Tensor, portrait: Tensor, heard: Tensor, *, guided: bool) -> Tensor:
        """v of [B,4,N,h,w]; timesteps [B], portrait [B,4,h,w], heard: windows [B,N,window,layers,channels]. Unguided it sees and hears
        nothing, but the frames before, which are copies of the portrait."""
        face = self.head.face_tokens(torch.zeros(len(noisy), self.head.face_dim))
        bank: Bank = dict(zip(self.reference.names, self.reference(portrait, 0, face), strict=True))
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
