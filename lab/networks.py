"""The laboratory's networks outside of ComfyUI."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..engine.animators.pose_animator import last_timesteps, load_pose_animator, noise_schedule
from ..engine.animators.pose_sampler import animate
from ..engine.losses import dormant
from ..engine.losses.posed import PosedClip, ReferenceSetup
from ..engine.objective import Loss, Objective, Term
from ..engine.observation import Observation
from ..engine.surrogates.reference_net import load_reference_net
from ..engine.surrogates.sd_unet import LATENT_SCALE
from ..engine.surrogates.tiny_autoencoder import load_tiny_autoencoder
from ..engine.weights.reading import load_own
from .train_encoder import network, project


class LabEncoder:
    """The image encoder, frozen."""

    def __init__(self, path: Path) -> None:
        self._network = load_own(network(), path)

    def embed(self, image: Tensor) -> Tensor:
        """[B,3,H,W] in [0,1] -> [B,64]."""
        return project(self._network, image)


class Lab:
    """Networks of a folder that train_encoder.py and train_animator.py wrote, as surrogates and as the victim."""

    def __init__(self, folder: Path) -> None:
        file = "stillguard_lab_{}.safetensors".format
        self.vae, self.encoder = load_tiny_autoencoder(), LabEncoder(folder / file("encoder"))
        self.net = load_reference_net(folder / file("reference_unet"))
        parts = (folder / file(name) for name in ("denoising_unet", "motion_module", "pose_guider"))
        self.animator = load_pose_animator(*parts)

    def objective(self, pose: Tensor, *, vae: float = 0.0, reference: float = 0.0, frames: float = 0.0, clip: float = 0.0) -> Objective:
        """Dormant's with the given weights; pose [1,3,S,S]."""
        setup = ReferenceSetup(self.net, self.vae, self.encoder)
        incoherence = dormant.FrameIncoherence(
            PosedClip(self.animator, setup, pose, noise_schedule().alphas_cumprod, last_timesteps(), noised=True)
        )
        losses: dict[str, tuple[float, Loss]] = {
            "vae": (vae, dormant.VAELatent(self.vae, LATENT_SCALE)),
            "clip": (clip, dormant.CLIPSemantic(self.encoder)),
            "reference": (reference, dormant.ReferenceFeature(setup)),
            "frames": (frames, incoherence),
        }
        return Objective(tuple(Term(name, weight, loss) for name, (weight, loss) in losses.items()))

    @torch.no_grad()
    def animation(self, photo: Tensor, poses: Tensor, *, steps: int = 20, guidance: float = 1.5, seed: int = 0) -> Tensor:
        """[N,3,S,S] in [0,1], one frame for each pose."""
        setup, seen = ReferenceSetup(self.net, self.vae, self.encoder), Observation(photo)
        tokens, bank, guide = setup.tokens(seen), setup.bank(seen, 0), self.animator.guide(poses)
        *_, last = animate(
            self.animator, tokens=tokens, bank=bank, pose=guide, steps=steps, guidance=guidance, window=8, overlap=2, seed=seed
        )
        video: Tensor = self.vae.decode(last.latents[0].movedim(1, 0) / LATENT_SCALE).clamp(0, 1)
        return video
