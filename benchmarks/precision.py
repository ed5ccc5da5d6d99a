"""How good gradients are in half precision.

    nox -s benchmarks -- precision [--golden FOLDER] [--families SVD Wan ...] [--videos-only]

For each network and loss: in how many values of the picture's gradient the sign is that of fp32, and the cosine with it; in bf16 and
in fp16 with scaled gradients, with the VAE in the same precision and in fp32; 8 levels away from the clean picture, where a run starts,
and 1 level away. On the laboratory's shipped networks and on small random video models; --golden adds a set of check vectors, such as
tests/data/dormant. Kernels are those of the CPU, which compute in half precision too, only slowly.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from bench import cpu_shim
from bench.comfyui import comfyui
from skimage import data
from torch import Tensor

cpu_shim.install()
sys.path.insert(0, str(comfyui()))

import comfy.cli_args  # noqa: E402

comfy.cli_args.args.cpu = not torch.cuda.is_available()

import comfy.model_management  # noqa: E402
import comfy.sd  # noqa: E402
from goldens.dormant_parts import ANIMATOR, Parts  # noqa: E402
from goldens.folder import Folder  # noqa: E402
from stillguard.engine import Objective, Observation, Term  # noqa: E402
from stillguard.engine.animators.pose_animator import last_timesteps, load_pose_animator, noise_schedule  # noqa: E402
from stillguard.engine.compute.half import with_scaled_gradient  # noqa: E402
from stillguard.engine.draws import SeededDraws  # noqa: E402
from stillguard.engine.losses import dormant  # noqa: E402
from stillguard.engine.losses.posed import PosedClip, ReferenceSetup  # noqa: E402
from stillguard.engine.objective import Loss  # noqa: E402
from stillguard.engine.picture import resize  # noqa: E402
from stillguard.engine.surrogates.reference_net import load_reference_net  # noqa: E402
from stillguard.engine.surrogates.tiny_autoencoder import load_tiny_autoencoder  # noqa: E402
from stillguard.engine.weights.catalogue import LAB  # noqa: E402
from stillguard.nodes.bridge.autograd import autograd_session  # noqa: E402
from stillguard.nodes.bridge.memory import precision  # noqa: E402
from stillguard.nodes.bridge.surrogates.clip_vision import clip_vision_view  # noqa: E402
from stillguard.nodes.bridge.surrogates.clip_vision_files import image_encoder_from  # noqa: E402
from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates  # noqa: E402
from stillguard.nodes.bridge.surrogates.vae import vae_view  # noqa: E402
from stillguard.nodes.losses.i2vguard import contrastive_frames, temporal_attention  # noqa: E402
from video_models import FILES, Loaded, load  # noqa: E402

HALF, BRAIN, SINGLE = torch.float16, torch.bfloat16, torch.float32
# Of the networks, then of the VAE.
CHOICES = {
    "bf16, VAE bf16": (BRAIN, BRAIN),
    "bf16, VAE fp32": (BRAIN, SINGLE),
    "fp16, VAE fp16": (HALF, HALF),
    "fp16, VAE fp32": (HALF, SINGLE),
}
DISTANCES = (8, 1)

Gradients = dict[tuple[str, int], Tensor]


class Encoder:
    """A VAE's encoder that computes in a given precision, as the views of sockets do."""

    def __init__(self, encode: Callable[[Tensor], Tensor], network: torch.nn.Module, dtype: torch.dtype) -> None:
        self._encode, self._dtype = encode, dtype
        network.to(dtype)

    def encode(self, image: Tensor) -> Tensor:
        def run(image: Tensor) -> tuple[Tensor]:
            return (self._encode(image.to(self._dtype)),)

        return (with_scaled_gradient(run, image, network=self) if self._dtype == HALF else run(image))[0].float()


@dataclass(frozen=True)
class Surroundings:
    """What Dormant's terms are made from. nets: each with what its cross-attention reads."""

    clean: Tensor
    vae: Encoder
    nets: dict[str, tuple[Any, Any]]
    animator: Any
    pose: Tensor


def laboratory(nets: torch.dtype, vae: torch.dtype) -> Surroundings:
    photo = resize(torch.from_numpy(data.astronaut()).permute(2, 0, 1)[None].float() / 255, (128, 128))
    autoencoder = load_tiny_autoencoder()
    encoder = clip_vision_view(Surrogates(), image_encoder_from(LAB / "stillguard_lab_encoder.safetensors"), "squash")
    net = load_reference_net(LAB / "stillguard_lab_reference_unet.safetensors", dtype=nets)
    files = (LAB / f"stillguard_lab_{part}.safetensors" for part in ("denoising_unet", "motion_module", "pose_guider"))
    own = Encoder(autoencoder.encode, autoencoder, vae)
    return Surroundings(photo, own, {"ReferenceNet": (net, encoder)}, load_pose_animator(*files, dtype=nets), torch.zeros(1, 3, 128, 128))


def golden(folder: Path, nets: torch.dtype, vae: torch.dtype) -> Surroundings:
    parts = Parts(Folder(folder))
    own = Encoder(parts.vae.encode, parts.vae._network, vae)
    context = {"reference_unet": parts.clip}
    names = [name for name in ("reference_unet", "appearance_encoder", "magicpose") if Folder(folder).has(f"weights/{name}")]
    networks = {name: (parts.net(name).to(nets), context.get(name, parts.text)) for name in names}
    animator = parts.animator.to(nets) if Folder(folder).has(*ANIMATOR) else None
    return Surroundings(parts.clean, own, networks, animator, parts.pose[:1])


def dormant_losses(made: Surroundings) -> dict[str, Loss]:
    losses: dict[str, Loss] = {"VAE latent": dormant.VAELatent(made.vae)}
    setups = {name: ReferenceSetup(net, made.vae, context) for name, (net, context) in made.nets.items()}
    losses |= {f"{name} feature": dormant.ReferenceFeature(setup) for name, setup in setups.items()}
    # The committed part of the check vectors lacks the ReferenceNet that belongs to its animator.
    frames = next((setup for name, setup in setups.items() if name in ("ReferenceNet", "reference_unet")), None)
    if made.animator is not None and frames is not None:
        signal = noise_schedule().alphas_cumprod
        for name, noised in (("frames from noise", False), ("frames from the noised latent", True)):
            clip = PosedClip(made.animator, frames, made.pose, signal, last_timesteps(), frames=3, noised=noised)
            losses[name] = dormant.FrameIncoherence(clip)
    return losses


def gradients(losses: dict[str, Loss], photo: Tensor, around: Callable[[], Any]) -> Gradients:
    clean, found = Observation(photo), {}
    noise = torch.rand(photo.shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    for distance in DISTANCES:
        for name, loss in losses.items():
            leaf = (photo + noise * (distance / 255)).clamp(0, 1).requires_grad_()
            with around():
                value = Objective((Term(name, 1.0, loss),)).backward(clean, Observation(leaf, draws=SeededDraws(5)))[name]
            assert leaf.grad is not None
            found[name, distance] = leaf.grad / value.abs()
        found["all, weighed alike", distance] = torch.stack([found[name, distance] for name in losses]).sum(0)
    return found


def table(title: str, exact: Gradients, others: dict[str, Gradients]) -> None:
    print(f"\n| {title} | levels away | {' | '.join(others)} |\n|{'---|' * (len(others) + 2)}")
    for (name, distance), truth in exact.items():
        cells = []
        for other in others.values():
            gradient = other[name, distance]
            agree = float((gradient.sign() == truth.sign()).float().mean())
            cosine = float(torch.nn.functional.cosine_similarity(gradient.flatten().double(), truth.flatten().double(), dim=0))
            cells.append(f"{agree:.1%} ({cosine:.3f})")
        print(f"| {name} | {distance} | {' | '.join(cells)} |", flush=True)


def compare(title: str, make: Callable[[torch.dtype, torch.dtype], Surroundings]) -> None:
    def of(nets: torch.dtype, vae: torch.dtype) -> Gradients:
        with autograd_session():
            made = make(nets, vae)
            return gradients(dormant_losses(made), made.clean, autograd_session)

    table(title, of(SINGLE, SINGLE), {name: of(*dtypes) for name, dtypes in CHOICES.items()})


@contextmanager
def taken_as_they_are(dtype: torch.dtype) -> Iterator[None]:
    """As on a device that is fast with every precision."""
    before = comfy.model_management.unet_manual_cast, precision.gradient_dtype
    comfy.model_management.unet_manual_cast, precision.gradient_dtype = (lambda *_, **__: None), (lambda device: dtype)
    try:
        yield
    finally:
        comfy.model_management.unet_manual_cast, precision.gradient_dtype = before


def loaded_in(loaded: Loaded, dtype: torch.dtype) -> Loaded:
    path, options = loaded.model.cached_patcher_init[1][0], {"model_options": {"dtype": dtype}}
    if loaded.family.name == "SVD":
        return replace(loaded, model=comfy.sd.load_checkpoint_guess_config(path, output_clip=False, output_vae=False, **options)[0])
    return replace(loaded, model=comfy.sd.load_diffusion_model(path, **options))


def video_gradients(loaded: Loaded, nets: torch.dtype, vae: torch.dtype, side: int) -> Gradients:
    photo = resize(torch.from_numpy(data.astronaut()).permute(2, 0, 1)[None].float() / 255, (side, side))
    frames = photo.movedim(1, -1).repeat(loaded.spec().size.length, 1, 1, 1)
    with taken_as_they_are(nets):
        with torch.inference_mode():
            spec = loaded_in(loaded, nets).spec(side=side, video=frames)
        with autograd_session():
            surrogates, black = Surrogates(), torch.zeros(1, 8, 8, 3)
            chosen = (contrastive_frames(1.0, spec, black), temporal_attention(1.0, spec))
            losses: dict[str, Loss] = {entry.name: entry.make(surrogates) for entry in chosen}
            view = vae_view(surrogates, spec.vae)
            precision.cast(view.patcher.model, view.dtype, vae)
            view.dtype = vae
            with surrogates.on_device(height=side, width=side, low_memory=False):
                return gradients(losses, deepcopy(photo), surrogates.step)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golden", type=Path, help="folder of check vectors")
    parser.add_argument("--families", nargs="*", default=["Wan", "LTX", "CogVideoX", "Hunyuan (concat)"], choices=list(FILES))
    parser.add_argument("--side", type=int, default=64, help="pixels of the video models' pictures, a multiple of 32")
    parser.add_argument("--videos-only", action="store_true", help="leave the laboratory's networks out, which take minutes")
    given = parser.parse_args()
    if not given.videos_only:
        compare("the laboratory's networks", laboratory)
    if given.golden:
        compare("check vectors", lambda nets, vae: golden(given.golden, nets, vae))
    with tempfile.TemporaryDirectory() as folder:
        for family in given.families:
            loaded = load(family, Path(folder))
            others = {name: video_gradients(loaded, *dtypes, given.side) for name, dtypes in CHOICES.items()}
            table(family, video_gradients(loaded, SINGLE, SINGLE, given.side), others)


if __name__ == "__main__":
    main()
