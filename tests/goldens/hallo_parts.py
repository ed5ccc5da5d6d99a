"""The networks of a Hallo set, and its inputs in the shapes that ours take."""

from __future__ import annotations

from functools import cached_property

import torch
from diffusers import AutoencoderKL
from stillguard.engine.animators.motion_unet import Bank
from stillguard.engine.animators.talking_head.denoiser import Masks, Mode
from stillguard.engine.animators.talking_head.head import load_talking_head
from torch import Tensor

from .folder import Folder

MODES: dict[str, Mode] = {"eval": "reference", "train": "faithful"}
"""What the sets call the two networks, after the flag that chooses them in the official code."""
REGIONS = ("full", "face", "lip")
OUTPUT, LOSS = 5e-5, 1e-5
"""Tolerances that the sets' README suggests, of the largest value and relative."""


class VAE:
    """diffusers' autoencoder, unscaled."""

    def __init__(self, folder: Folder) -> None:
        self.network = AutoencoderKL(**folder.config("vae")).eval().requires_grad_(False)
        self.network.load_state_dict(folder.weights("vae"))

    def encode(self, image: Tensor) -> Tensor:
        return self.network.encode(image * 2 - 1).latent_dist.mean

    def posterior(self, image: Tensor) -> tuple[Tensor, Tensor]:
        drawn_from = self.network.encode(image * 2 - 1).latent_dist
        return drawn_from.mean, drawn_from.std


class Parts:
    """Everything from the folder's own files."""

    def __init__(self, folder: Folder) -> None:
        denoiser, self.run = folder.config("denoising_unet"), folder.config("run")
        self.net, self.head = load_talking_head(
            folder.file("net"),
            heads=denoiser["attention_head_dim"],
            groups=denoiser["norm_num_groups"],
            motion_heads=denoiser["motion_module_kwargs"]["num_attention_heads"],
        )
        self.vae, self.inputs, self.values = VAE(folder), folder.vectors("inputs"), folder.values()
        self._folder = folder

    @property
    def clean(self) -> Tensor:
        """[1,3,S,S] in [0,1]."""
        # Kernels round differently for channels that lie beside each other, and a gradient of almost nothing then has another sign.
        return self.inputs["image_u8"].movedim(-1, 0)[None].float().contiguous() / 255

    @property
    def seen(self) -> Tensor:
        """The protected picture, [1,3,S,S] in [0,1]."""
        return (self.inputs["x_g"][None] + 1) / 2

    @property
    def before(self) -> Tensor:
        """Motion frames [M,3,S,S] in [0,1]."""
        return self.inputs["mf_motion_u8"].float() / 255

    @property
    def region(self) -> Tensor:
        """[1,1,S,S] in [0,1]."""
        return self.inputs["face_region_u8"][None, None].float() / 255

    @cached_property
    def tokens(self) -> Tensor:
        return self.head.face_tokens(self.inputs["face_emb"][None])

    @property
    def frames(self) -> int:
        """Of the case with several."""
        return int(self.inputs["mf_noisy"].shape[2])

    @property
    def face_several(self) -> Tensor:
        """Where the face is in each of them: moved to the right, a latent's width a frame."""
        return torch.cat([self.region.roll(8 * frame, -1) for frame in range(self.frames)])

    @property
    def first_audio(self) -> int:
        """The first frame whose audio is drawn."""
        return int(self.values["audio_randint_inclusive_range"][0])

    def audio(self, prefix: str = "") -> Tensor:
        """Tokens of the single frame, or of "mf_": the window of draw 0, and those from the first whole one on."""
        at = range(self.first_audio, self.first_audio + self.frames) if prefix else [int(self.inputs["audio_idx"][0])]
        return self.head.audio_tokens(self.head.windows(self.inputs["audio_raw"], list(at)))[None]

    def masks(self, prefix: str = "") -> Masks:
        return tuple(self.level(prefix, index) for index in range(self.head.levels))

    def level(self, prefix: str, index: int) -> Tensor:
        flat = torch.stack([self.inputs[f"{prefix}{region}_mask.{index}"] for region in REGIONS])
        side = round(flat.shape[-1] ** 0.5)
        return flat.view(*flat.shape[:2], side, side)

    def bank(self, latents: Tensor) -> tuple[Bank, Bank]:
        """What the ReferenceNet makes of the portrait's latent and those of the motion frames behind it."""
        features = dict(zip(self.net.names, self.net(latents, 0, self.tokens.expand(len(latents), -1, -1)), strict=True))
        return {name: rows[:1] for name, rows in features.items()}, {name: rows[None, 1:] for name, rows in features.items()}
