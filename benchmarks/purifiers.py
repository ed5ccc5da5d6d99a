"""How much of a protection's effect each purifier leaves, and what it does to a clean picture.

    nox -s benchmarks -- purifiers --data PAIRS [--taef2 FOLDER]

A photo of 256 px is protected with VAE Latent through a trained autoencoder. Clean and protected picture are purified with the same
seed and reconstructed by that autoencoder. The diffusion purifiers get denoisers that are really trained, on PAIRS, for some minutes on
one core and kept in the bench's cache: one in pixels, with ADM's interface, and one in the shipped autoencoder's latents, in the layout
of Stable Diffusion 1.5, which runs through the nodes' own code in core's classes. The x4 upscaler cannot be trained here: of DiffShortcut
and Noisy Upscaling only what they do to the picture before the upscaler is measured.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from bench import animator_files, comfyui, cpu_shim, paths, weights
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

cpu_shim.install()
sys.path.insert(0, str(comfyui.comfyui()))

import comfy.cli_args  # noqa: E402

comfy.cli_args.args.cpu = not torch.cuda.is_available()

import comfy.model_management  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.supported_models  # noqa: E402
from comfy.model_patcher import ModelPatcher  # noqa: E402
from comfy.taesd.taesd import Decoder, Encoder  # noqa: E402
from diffusers import UNet2DConditionModel, UNet2DModel  # noqa: E402
from stillguard.engine import Objective, Term, protect  # noqa: E402
from stillguard.engine.conversions import from_pillow  # noqa: E402
from stillguard.engine.losses.dormant import VAELatent  # noqa: E402
from stillguard.engine.metrics.visibility import visibility  # noqa: E402
from stillguard.engine.picture import resize  # noqa: E402
from stillguard.engine.purify import diffusion, gridpure, impress  # noqa: E402
from stillguard.engine.surrogates.perceptual import PerceptualNetwork, load_perceptual_network  # noqa: E402
from stillguard.engine.surrogates.sd_unet import LATENT_SCALE  # noqa: E402
from stillguard.engine.surrogates.tiny_autoencoder import SHIPPED, TinyAutoencoder, load_tiny_autoencoder  # noqa: E402
from stillguard.engine.transforms import GaussianNoise  # noqa: E402
from stillguard.lab.train_autoencoder import draw_batch, load_pictures  # noqa: E402
from stillguard.lab.training import Training, run  # noqa: E402
from stillguard.nodes.bridge.attack.purify_diffusion import GridSettings, LatentForm, dds_images, diffpure_images, gridpure_images  # noqa: E402

CACHE = paths.BENCH / "purifiers"
NOISIEST = 250  # steps of 1000 that the denoisers learn; purifiers ask for no more
WIDTHS, CONTEXT = (64, 64, 64, 64), 32
LDM_SHAPE = {
    "use_checkpoint": False,
    "image_size": 32,
    "use_spatial_transformer": True,
    "legacy": False,
    "adm_in_channels": None,
    "use_temporal_attention": False,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": WIDTHS[0],
    "channel_mult": [width // WIDTHS[0] for width in WIDTHS],
    "num_res_blocks": [1, 1, 1, 1],
    "transformer_depth": [1, 1, 1, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "context_dim": CONTEXT,
    "dtype": torch.float32,
}


class PixelDenoiser(nn.Module):
    """ADM's interface: noise, then v = 0. Reads 2x2 pixels as channels, as FFDNet does, for a quarter of the work."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = UNet2DModel(
            in_channels=12,
            out_channels=12,
            block_out_channels=(48, 96, 128),
            layers_per_block=1,
            down_block_types=("DownBlock2D",) * 3,
            up_block_types=("UpBlock2D",) * 3,
            norm_num_groups=8,
            add_attention=False,
        )

    def noise(self, noisy: Tensor, timestep: Tensor) -> Tensor:
        return F.pixel_shuffle(self.unet(F.pixel_unshuffle(noisy, 2), timestep).sample, 2)

    def forward(self, noisy: Tensor, timestep: Tensor) -> Tensor:
        noise = self.noise(noisy, timestep)
        return torch.cat([noise, torch.zeros_like(noise)], dim=1)


class LatentDenoiser(nn.Module):
    """Stable Diffusion 1.5's UNet, narrow, without a prompt."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = UNet2DConditionModel(block_out_channels=WIDTHS, layers_per_block=1, cross_attention_dim=CONTEXT)

    def noise(self, noisy: Tensor, timestep: Tensor) -> Tensor:
        return self.unet(noisy, timestep, torch.zeros(len(noisy), 1, CONTEXT)).sample


def train(network: PixelDenoiser | LatentDenoiser, name: str, data: Path | None, minutes: float) -> None:
    """Learn to tell the noise, on crops; the weights' running average is kept in the cache, where a finished training lies too."""
    file = CACHE / f"{name}.safetensors"
    if not file.is_file():
        if data is None:
            raise SystemExit("The denoisers are not trained yet: give a folder of photos NNN_0.jpg, NNN_1.jpg with --data.")
        batch, kept = (latent_batches if isinstance(network, LatentDenoiser) else pixel_batches)(data)

        def loss(network: nn.Module, generator: torch.Generator) -> Tensor:
            clean = batch(generator)
            timestep = torch.randint(0, NOISIEST, (len(clean),), generator=generator)
            share, noise = kept[timestep].view(-1, 1, 1, 1), torch.randn(clean.shape, generator=generator)
            return F.mse_loss(network.noise(share.sqrt() * clean + (1 - share).sqrt() * noise, timestep), noise)

        def ship(training: Training, folder: Path) -> str:
            if training.seconds >= minutes * 60:
                save_file({key: value.contiguous() for key, value in training.average.items()}, file, metadata=training.facts())
            return f"{name} denoiser"

        schedule = {"minutes": minutes, "steps": None, "save_every": 2.0, "learning_rate": 1e-3}
        checkpoint = CACHE / f"{name}.pt"
        run(Training(network, seed=0), loss, SimpleNamespace(checkpoint=checkpoint, out=CACHE, **schedule), ship)
    network.load_state_dict(load_file(file))
    network.eval().requires_grad_(False)


def pixel_batches(data: Path) -> tuple[Callable[[torch.Generator], Tensor], Tensor]:
    pictures = load_pictures(data, held_out=False)
    return lambda generator: draw_batch(pictures, batch=8, crop=64, generator=generator) * 2 - 1, diffusion.linear_alphas().float()


def latent_batches(data: Path) -> tuple[Callable[[torch.Generator], Tensor], Tensor]:
    vae = load_tiny_autoencoder()
    with torch.inference_mode():
        latents = [vae.encode(p[None].float() / 255)[0] * LATENT_SCALE for p in load_pictures(data, held_out=False)[::8]]

    def one(index: int, generator: torch.Generator, side: int = 16) -> Tensor:
        latent = latents[index]
        top, left = (int(torch.randint(max(1, n - side + 1), (), generator=generator)) for n in latent.shape[1:])
        part = latent[:, top : top + side, left : left + side]
        return F.pad(part, (0, side - part.shape[2], 0, side - part.shape[1]), mode="replicate")

    def batch(generator: torch.Generator) -> Tensor:
        return torch.stack([one(index, generator) for index in torch.randint(len(latents), (8,), generator=generator).tolist()])

    # Stable Diffusion's schedule.
    return batch, (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000).square()).cumprod(0)


def core_form(denoiser: LatentDenoiser) -> LatentForm:
    """The trained network in core's class of Stable Diffusion 1.5, with the shipped autoencoder from core's VAE."""
    config = comfy.supported_models.SD15(dict(LDM_SHAPE))
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", device="cpu")
    state = {animator_files.ldm_name(key): value for key, value in denoiser.unet.state_dict().items()}
    model.diffusion_model.load_state_dict(state)
    noisy, prompt = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 1, CONTEXT)
    theirs, ours = model.diffusion_model(noisy, torch.tensor([40.0]), context=prompt), denoiser.noise(noisy, torch.tensor([40]))
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4)
    patcher = ModelPatcher(model, comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device())
    return LatentForm(patcher, comfy.sd.VAE(sd=load_file(SHIPPED)), [[prompt, {}]])


@dataclass(frozen=True)
class Scene:
    """An autoencoder, a clean picture and what VAE Latent made of it."""

    name: str
    vae: TinyAutoencoder | Taef2
    lpips: PerceptualNetwork
    clean: Tensor
    protected: Tensor

    @torch.no_grad()
    def effect(self, first: Tensor, second: Tensor) -> float:
        """LPIPS between what the autoencoder makes of both."""
        return float(self.lpips(*(self.vae.decode(self.vae.encode(picture)).clamp(0, 1) for picture in (first, second))))

    def row(self, name: str, purify: Callable[[Tensor], Tensor]) -> str:
        began, before = time.perf_counter(), self.effect(self.clean, self.protected)
        clean, protected = (purify(picture).clamp(0, 1) for picture in (self.clean, self.protected))
        seconds = (time.perf_counter() - began) / 2
        left, distance = self.effect(clean, protected) / before, self.effect(self.clean, protected) / before
        (seen,) = visibility(self.clean, clean, lpips=self.lpips)
        (visible,) = visibility(clean, protected, lpips=self.lpips)
        cells = (f"{left:.2f}", f"{distance:.2f}", f"{visible.lpips:.3f}", f"{seen.lpips:.3f}", f"{seen.psnr:.1f}", f"{seconds:.0f}")
        return f"| {self.name} | {name} | {' | '.join(cells)} |"


def pixel_rows(denoiser: PixelDenoiser, seed: int) -> dict[str, Callable[[Tensor], Tensor]]:
    def last(states: Any) -> Tensor:
        image: Tensor = deque(states, maxlen=1)[0].image
        return image

    def diffpure(timesteps: int) -> Callable[[Tensor], Tensor]:
        return lambda picture: last(diffusion.diffpure(picture, denoiser, timesteps=timesteps, seed=seed))

    def grid(picture: Tensor) -> Tensor:
        draws = diffusion.normal_draws((1, 3, 256, 256), seed)
        return last(gridpure.gridpure(picture, lambda w: last(diffusion.diffpure(w, denoiser, timesteps=10, noises=draws))))

    timesteps = diffusion.timesteps_for(2 * 11 / 255)
    return {
        "DiffPure, pixels, 150 of 1000": diffpure(150),
        "DiffPure, pixels, 50 of 1000": diffpure(50),
        f"DDSPure, pixels, radius 11 (step {timesteps})": lambda picture: diffusion.dds_one_shot(
            picture, denoiser, timesteps=timesteps, seed=seed
        ),
        "GrIDPure, pixels, 10 times 10 of 1000": grid,
    }


def latent_rows(form: LatentForm, seed: int) -> dict[str, Callable[[Tensor], Tensor]]:
    def node(purify: Callable[..., Tensor], **settings: Any) -> Callable[[Tensor], Tensor]:
        def purified(picture: Tensor) -> Tensor:
            with torch.inference_mode():
                image = purify(picture.movedim(1, -1), form, **settings, seed=seed, node_id=None).movedim(-1, 1)
            return image.clone()

        return purified

    grid = GridSettings(timesteps=50, steps=5, iterations=10, gamma=0.1, window=256)
    return {
        "the latents' VAE alone": lambda picture: form.decoded(form.encoded(picture), picture).clone(),
        "DiffPure, latents, 150 of 1000": node(diffpure_images, timesteps=150, steps=20),
        "DiffPure, latents, 200 of 1000": node(diffpure_images, timesteps=200, steps=20),
        "DDSPure, latents, radius 11": node(dds_images, radius=11.0),
        "GrIDPure, latents, 10 times 50 of 1000": lambda picture: node(lambda image, form, **s: gridpure_images(image, form, grid, **s))(
            picture
        ),
    }


def common_rows(scene: Scene, iterations: int, seed: int) -> dict[str, Callable[[Tensor], Tensor]]:
    def impressed(picture: Tensor) -> Tensor:
        steps = impress.impress(
            picture, lambda image: scene.vae.decode(scene.vae.encode(image)), scene.lpips, iterations=iterations, seed=seed
        )
        return deque(steps, maxlen=1)[0].image

    size = (scene.clean.shape[-2], scene.clean.shape[-1])
    return {
        "nothing": lambda picture: picture,
        f"Impress, {iterations} iterations": impressed,
        "half of DiffShortcut: 128 px and back": lambda picture: resize(resize(picture, (128, 128)), size),
        "half of Noisy Upscaling: noise 0.1": GaussianNoise(0.1, seed),
    }


def scene(name: str, vae: TinyAutoencoder | Taef2, lpips: PerceptualNetwork, clean: Tensor, arguments: argparse.Namespace) -> Scene:
    objective = Objective((Term("VAE Latent", 10.0, VAELatent(vae)),))
    *_, last = protect(clean, objective, steps=arguments.steps, seed=arguments.seed)
    return Scene(name, vae, lpips, clean, last.image)


class Taef2(nn.Module):
    """FLUX.2's tiny autoencoder, from its two files."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(32, use_gn=True), Decoder(32, use_gn=True)
        for part, network in (("encoder", self.encoder), ("decoder", self.decoder)):
            network.load_state_dict({key: value.float() for key, value in load_file(folder / f"taef2_{part}.safetensors").items()})
        self.eval().requires_grad_(False)

    def encode(self, image: Tensor) -> Tensor:
        return self.encoder(image)

    def decode(self, latent: Tensor) -> Tensor:
        return self.decoder(latent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="photos to train the denoisers on; not needed once they are in the cache")
    parser.add_argument("--minutes", type=float, default=10, help="of processor time for the denoiser in pixels")
    parser.add_argument("--latent-minutes", type=float, default=4, help="of processor time for the denoiser in latents")
    parser.add_argument("--taef2", type=Path, help="folder with taef2_encoder.safetensors and taef2_decoder.safetensors")
    parser.add_argument("--steps", type=int, default=100, help="of the protection")
    parser.add_argument("--iterations", type=int, default=200, help="of Impress")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    CACHE.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    pixels = PixelDenoiser()
    train(pixels, "pixels", arguments.data, arguments.minutes)
    torch.manual_seed(0)
    latents = LatentDenoiser()
    train(latents, "latents", arguments.data, arguments.latent_minutes)
    from skimage.data import astronaut

    photo = Image.fromarray(astronaut()).resize((256, 256), Image.Resampling.LANCZOS)
    clean = from_pillow(photo)[None]
    lpips = load_perceptual_network(weights.lpips_backbone(paths.BENCH / "models" / "stillguard"))
    form = core_form(latents)
    vaes = {"stillguard_lab_vae": load_tiny_autoencoder()} | ({} if arguments.taef2 is None else {"taef2": Taef2(arguments.taef2)})
    print("| VAE | purifier | effect left | distance left | LPIPS between | LPIPS of clean | PSNR of clean | s |")
    print("|---|---|---|---|---|---|---|---|")
    for name, vae in vaes.items():
        made = scene(name, vae, lpips, clean, arguments)
        print(f"{name}: effect before {made.effect(clean, made.protected):.3f}", file=sys.stderr)
        rows = common_rows(made, arguments.iterations, arguments.seed) | pixel_rows(pixels, arguments.seed)
        for purifier, purify in (rows | latent_rows(form, arguments.seed)).items():
            print(made.row(purifier, purify), flush=True)


if __name__ == "__main__":
    main()
