r"""Train the small pose-driven animator that ships with the pack, in AnimateAnyone's checkpoint format.

    python -m stillguard.lab.train_animator --data PAIRS --encoder OUT/stillguard_lab_encoder.safetensors \
        --checkpoint run/animator.pt --out OUT

Reference UNet, denoiser with reference attention, motion modules and pose guider are trained together from scratch: given one photo
of a pair and a pose, predict the other photo, or given a sequence of both poses, clips of 2 to 8 frames (v-prediction on the zero-SNR
schedule, Hu et al. 2024; Lin et al. 2024), in the latent space of the shipped autoencoder at 128 pixels.
It can be stopped and called again. The figure that it prints is the loss on held-out pairs at fixed noise.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import UNet2DConditionModel, UNetMotionModel
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..engine.surrogates.pose_animator import PoseAnimator, motion_unet, noise_schedule, upstream_names
from ..engine.surrogates.reference_net import ANIMATE_ANYONE, ReferenceNet, truncated_unet
from ..engine.surrogates.sd_unet import GROUPS, HEADS, LATENT_SCALE, spatial_blocks
from ..engine.surrogates.tiny_autoencoder import TinyAutoencoder, load_tiny_autoencoder
from .pairs import Pair, load_pairs
from .train_encoder import network as encoder_network
from .train_encoder import project
from .training import Loss, Training, arguments, run

SIDE, CONTEXT = 128, 64
WIDTHS = (64, 96, 96)
POSE_WIDTHS = (16, 32, 64, 96)
# Shares of the short side that training pictures are cut to, so that whole people and portraits are both known.
CLOSER = (1.0, 0.6)
# How much steeper than diffusers' own the first weights of queries and keys are.
SHARPNESS = 2.5
# A batch of `FRAMES` is as many single frames, or fewer clips of 2, 4 or 8; one in ten has no reference.
FRAMES, SINGLE, DROPPED = 16, 0.7, 0.1


class Clips(NamedTuple):
    """latents: [N,2,4,h,w] as UNets see them; poses: [N,2,3,S,S] uint8; tokens: [N,2,1,D], each photo's embedding."""

    latents: Tensor
    poses: Tensor
    tokens: Tensor


class Animator(nn.Module):
    """The two networks, trainable."""

    def __init__(self) -> None:
        super().__init__()
        unet, video = UNet2DConditionModel(**_layout("")), UNetMotionModel(**_layout("Motion"))
        for _, block in spatial_blocks(unet):
            # Attention begins by looking for what is alike: with equal weights, for the same place of the photo.
            key, query = block.get_submodule("attn1.to_k"), block.get_submodule("attn1.to_q")
            query.weight.data.mul_(SHARPNESS)
            key.weight.data.copy_(query.weight)
        self.reference = ReferenceNet(
            _filled(truncated_unet(unet.state_dict(), heads=HEADS, groups=GROUPS), unet.state_dict()), ANIMATE_ANYONE
        )
        # Both begin with the same weights, as those that are made from one published model do.
        motion = _filled(motion_unet(video.state_dict(), heads=HEADS, groups=GROUPS), {**video.state_dict(), **_clone(unet.state_dict())})
        self.animator = PoseAnimator(motion, ControlNetConditioningEmbedding(WIDTHS[0], 3, POSE_WIDTHS))

        for module in motion.modules():
            if isinstance(module, AnimateDiffTransformer3D):
                # Motion modules begin as the identity (Guo et al. 2024).
                nn.init.zeros_(module.proj_out.weight)

    def forward(self, noisy: Tensor, timesteps: Tensor, reference: Tensor, tokens: Tensor, poses: Tensor, *, guided: bool) -> Tensor:
        """v of [B,4,N,h,w]; timesteps [B], reference [B,4,h,w], tokens [B,1,D], poses [B,N,3,S,S]. Unguided: the reference is unseen."""
        pose = self.animator.guide(poses.flatten(0, 1))
        if not guided:
            return self.animator.denoise(noisy, timesteps, torch.zeros_like(tokens), pose)
        bank = dict(zip(self.reference.names, self.reference(reference, 0, tokens), strict=True))
        return self.animator.denoise(noisy, timesteps, tokens, pose, bank)


def _layout(kind: str) -> dict[str, Any]:
    """Arguments of diffusers' UNets: as in Stable Diffusion 1.5, narrower, with three levels and one layer in each."""
    down = "DownBlockMotion" if kind else "DownBlock2D"
    up = "UpBlockMotion" if kind else "UpBlock2D"
    return {
        "block_out_channels": WIDTHS,
        "down_block_types": (f"CrossAttn{down}", f"CrossAttn{down}", down),
        "up_block_types": (up, f"CrossAttn{up}", f"CrossAttn{up}"),
        "layers_per_block": 1,
        "cross_attention_dim": CONTEXT,
    }


def reference_tail() -> dict[str, Tensor]:
    """Zeros for what AnimateAnyone's reference_unet holds behind the last feature; nothing reads it."""
    unet = UNet2DConditionModel(**_layout(""))
    return {key: torch.zeros_like(value) for key, value in unet.state_dict().items() if not key.startswith(("conv_norm_out.", "conv_out."))}


def _clone(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in state.items()}


def _filled(network: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    network.load_state_dict({key: state[key] for key in network.state_dict()}, assign=True)
    return network


@torch.no_grad()
def clips(pairs: list[Pair], vae: TinyAutoencoder, encoder: nn.Module) -> Clips:
    """Of all pairs and their mirror images."""
    both = [*pairs, *(pair.mirrored() for pair in pairs)]
    pictures = torch.stack([pair.pictures for pair in both])
    latents, tokens = [], []
    for part in pictures.flatten(0, 1).split(64):
        image = part.float() / 255
        latents.append(vae.encode(image) * LATENT_SCALE)
        tokens.append(project(encoder, image))
    poses = torch.stack([(pair.poses() * 255).round().byte() for pair in both])
    whole = torch.cat(latents)
    return Clips(whole.unflatten(0, (-1, 2)), poses, torch.cat(tokens)[:, None].unflatten(0, (-1, 2)))


def denoising(data: Clips, *, frames: int = FRAMES) -> Loss:
    """The loss over random batches of `frames` frames."""
    signal = noise_schedule().alphas_cumprod

    def loss(network: nn.Module, generator: torch.Generator) -> Tensor:
        def whole(high: int, *shape: int) -> Tensor:
            return torch.randint(high, shape, generator=generator)

        length = 1 if float(torch.rand((), generator=generator)) < SINGLE else 2 ** (1 + int(whole(3)))
        batch = frames // length
        rows, shown = whole(len(data.latents), batch), whole(2, batch)  # which photo is the reference
        # Single frames are the other photo; clips show both in any order.
        order = 1 - shown[:, None] if length == 1 else whole(2, batch, length)
        clean, poses = data.latents[rows[:, None], order].transpose(1, 2), data.poses[rows[:, None], order].float() / 255
        reference, tokens = data.latents[rows, shown], data.tokens[rows, shown]
        timesteps = whole(1000, batch)
        guided = bool(torch.rand((), generator=generator) >= DROPPED)
        noise = torch.randn(clean.shape, generator=generator)
        a, b = (value.sqrt().view(-1, 1, 1, 1, 1) for value in (signal[timesteps], 1 - signal[timesteps]))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=torch.is_grad_enabled()):
            velocity = network(a * clean + b * noise, timesteps, reference, tokens, poses, guided=guided)
        return (velocity - (a * noise - b * clean)).square().mean()

    return loss


def prepared(given: argparse.Namespace, vae: TinyAutoencoder, encoder: nn.Module, *, held_out: bool) -> Clips:
    """Of all pairs of one side of the split, kept beside the checkpoint, because encoding them takes minutes."""
    kept = given.checkpoint.with_suffix(".held_out.data" if held_out else ".data")
    if not kept.exists():
        parts = [clips(load_pairs(given.data, side=SIDE, held_out=held_out, closer=closer), vae, encoder) for closer in CLOSER]
        kept.parent.mkdir(parents=True, exist_ok=True)
        save_file(dict(zip(Clips._fields, (torch.cat(fields).contiguous() for fields in zip(*parts, strict=True)), strict=True)), kept)
    return Clips(**load_file(kept))


@torch.no_grad()
def held_out_loss(network: nn.Module, data: Clips) -> float:
    generator = torch.Generator().manual_seed(0)
    loss = denoising(data, frames=64)
    return float(torch.stack([loss(network, generator) for _ in range(16)]).mean())


def files(average: dict[str, Tensor], tail: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The four files' tensors under AnimateAnyone's names; `tail` is what a reference UNet holds behind its last feature."""
    parts: dict[str, dict[str, Tensor]] = {name: {} for name in ("reference_unet", "denoising_unet", "motion_module", "pose_guider")}
    for key, value in average.items():
        owner, _, rest = key.partition(".")
        part, _, name = rest.partition(".")
        if owner == "reference":
            parts["reference_unet"][name] = value
        elif part == "guider":
            parts["pose_guider"][name] = value
        elif ".motion_modules." in name:
            parts["motion_module"] |= dict.fromkeys(upstream_names(name), value)
        else:
            parts["denoising_unet"][name] = value
    parts["reference_unet"] |= {key: value for key, value in tail.items() if key not in parts["reference_unet"]}
    return {name: {key: value.half().clone() for key, value in state.items()} for name, state in parts.items()}


def main() -> None:
    parser = arguments(__doc__, minutes=40, peak=1e-3)
    parser.add_argument("--encoder", type=Path, required=True, help="the shipped image encoder")
    given = parser.parse_args()
    encoder = encoder_network().eval()
    encoder.load_state_dict({key: value.float() for key, value in load_file(given.encoder).items()}, strict=False)
    vae = load_tiny_autoencoder()
    trained, held_out = (prepared(given, vae, encoder, held_out=choice) for choice in (False, True))
    torch.manual_seed(given.seed)
    animator = Animator()

    def ship(training: Training, folder: Path) -> str:
        network = Animator()
        network.load_state_dict({key: value.half().float() for key, value in training.average.items()})
        quality = held_out_loss(network.eval(), held_out)
        folder.mkdir(parents=True, exist_ok=True)
        for name, state in files(training.average, reference_tail()).items():
            save_file(state, folder / f"stillguard_lab_{name}.safetensors", metadata=training.facts(held_out_loss=f"{quality:.4f}"))
        return f"held-out loss {quality:.4f}"

    run(Training(animator, seed=given.seed, half_life=300), denoising(trained), given, ship)


if __name__ == "__main__":
    main()
