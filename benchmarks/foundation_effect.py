"""What the VAE and LPIPS terms do to a real photo, against random signs of the same budget, through the real ComfyUI server.

    nox -s benchmarks -- foundation_effect                      the autoencoder that ships with the pack
    nox -s benchmarks -- foundation_effect --taef2 FOLDER       also TAEF2 from taef2_encoder/decoder.safetensors in FOLDER

Every figure comes from files that ComfyUI wrote: protected pictures by Save Protected Image, latents by core's VAE Encode and
Save Latent, reconstructions by core's VAE Decode, each VAE loaded by core's VAELoader.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from bench import cpu_shim
from bench.client import Client, Prompt
from bench.paths import BENCH
from bench.server import ComfyServer
from bench.weights import lpips_backbone
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

cpu_shim.install()

from stillguard.engine.conversions import from_pillow  # noqa: E402
from stillguard.engine.files import decode_picture, encode_picture  # noqa: E402
from stillguard.engine.metrics.visibility import visibility  # noqa: E402
from stillguard.engine.surrogates.perceptual import PerceptualNetwork, load_perceptual_network  # noqa: E402

BASE = BENCH / "effect"
SHIPPED = "stillguard_lab_vae.safetensors"


def node(class_type: str, **inputs: object) -> dict[str, object]:
    return {"class_type": class_type, "inputs": inputs}


def astronaut(side: int) -> Tensor:
    from skimage.data import astronaut as photo

    picture = Image.fromarray(photo()).resize((side, side), Image.Resampling.LANCZOS)
    return from_pillow(picture)


def random_signs(clean: Tensor, budget: int, seed: int) -> Tensor:
    signs = torch.randint(0, 2, clean.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return (clean + signs * budget / 255).clamp(0, 1)


def protect_prompt(vae: str, *, budget: int, steps: int, seed: int, side: int, penalty: float, vae_weight: float) -> Prompt:
    losses: dict[str, object] = {"losses.loss0": ["latent", 0]}
    prompt: Prompt = {
        "load": node("LoadImage", image="clean.png"),
        "vae": node("VAELoader", vae_name=vae),
        "latent": node("StillguardVAELatentLoss", vae=["vae", 0], weight=vae_weight, latent_scale=0.0),
        "combine": {"class_type": "StillguardCombineLosses", "inputs": losses},
        "protect": node(
            "StillguardProtect",
            image=["load", 0],
            loss=["combine", 0],
            budget=float(budget),
            steps=steps,
            update="momentum sign",
            **{"update.step": 1.0, "update.decay": 0.5},
            seed=seed,
            working_size=side,
            memory="fast",
        ),
        "save": save(["protect", 0], clean=["load", 0]),
    }
    if penalty:
        prompt["lpips"] = node("StillguardLPIPSPenalty", backbone="lpips_vgg16.safetensors", weight=penalty, threshold=0.0627)
        losses["losses.loss1"] = ["lpips", 0]
    return prompt


def save(images: list[object], **clean: object) -> dict[str, object]:
    settings = {"filename_prefix": "effect", "format": "png", "budget": 64.0, "keep_workflow": False}
    return node("StillguardSaveProtectedImage", images=images, **settings, **clean)


def saved_picture(client: Client, prompt: Prompt) -> Tensor:
    result = client.run(prompt)
    if result.status != "success":
        raise SystemExit(f"ComfyUI could not run the benchmark: {result.error}")
    return decode_picture(client.view(result.outputs["save"]["images"][0]))


def through_vae(client: Client, vae: str, picture: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Latent and 8-bit reconstruction of a picture by core's nodes."""
    (BASE / "input" / f"{name}.png").write_bytes(encode_picture(picture))
    marks = set((BASE / "output").glob("latent_*"))
    prompt: Prompt = {
        "load": node("LoadImage", image=f"{name}.png"),
        "vae": node("VAELoader", vae_name=vae),
        "encode": node("VAEEncode", pixels=["load", 0], vae=["vae", 0]),
        "latent": node("SaveLatent", samples=["encode", 0], filename_prefix="latent"),
        "decode": node("VAEDecode", samples=["encode", 0], vae=["vae", 0]),
        "save": save(["decode", 0]),
    }
    rebuilt = saved_picture(client, prompt)
    (file,) = set((BASE / "output").glob("latent_*")) - marks
    return load_file(file)["latent_tensor"].float(), rebuilt


def table(client: Client, vae: str, clean: Tensor, lpips: PerceptualNetwork, arguments: argparse.Namespace) -> list[str]:
    common = {"budget": arguments.budget, "steps": arguments.steps, "seed": arguments.seed, "side": clean.shape[-1]}
    pictures = {"random sign": random_signs(clean, arguments.budget, arguments.seed)}
    for name, penalty in (("VAE Latent", 0.0), ("VAE Latent, LPIPS Penalty", arguments.penalty)):
        prompt = protect_prompt(vae, **common, penalty=penalty, vae_weight=arguments.vae_weight)
        pictures[name] = saved_picture(client, prompt)
    stem = Path(vae).stem
    latent, rebuilt = through_vae(client, vae, clean, f"{stem}-clean")
    rows, random_error = [], 0.0
    for name, picture in pictures.items():
        z, y = through_vae(client, vae, picture, f"{stem}-{name}".replace(" ", "-").replace(",", ""))
        error = float((z - latent).square().mean())
        random_error = random_error or error
        (seen,) = visibility(clean[None], picture[None], lpips=lpips)
        damage = float(lpips(rebuilt[None], y[None]))
        cells = (f"{error / random_error:.1f}", f"{(error / random_error) ** 0.5:.1f}", f"{damage:.3f}", f"{seen.lpips:.3f}")
        rows.append(f"| {stem} | {name} | {' | '.join(cells)} | {damage / (seen.lpips or 1):.2f} | {seen.psnr:.1f} | {seen.linf} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--taef2", type=Path, help="folder with taef2_encoder.safetensors and taef2_decoder.safetensors")
    parser.add_argument("--budget", type=int, default=8)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--penalty", type=float, default=10.0, help="weight of the LPIPS Penalty")
    parser.add_argument("--vae-weight", type=float, default=10.0)
    arguments = parser.parse_args()
    clean = astronaut(arguments.side)
    (BASE / "input").mkdir(parents=True, exist_ok=True)
    (BASE / "input" / "clean.png").write_bytes(encode_picture(clean))
    lpips = load_perceptual_network(lpips_backbone(BASE / "models" / "stillguard"))
    vaes = [SHIPPED]
    if arguments.taef2 is not None:
        vaes.append("taef2")
        for part in ("encoder", "decoder"):
            target = BASE / "models" / "vae_approx" / f"taef2_{part}.safetensors"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(arguments.taef2 / target.name, target)
    print(f"{arguments.side} px, budget {arguments.budget} levels, {arguments.steps} steps, seed {arguments.seed}")
    print("| VAE | picture | latent error / random | latent distance / random | LPIPS rebuilt | LPIPS visible | ratio | PSNR | levels |")
    print("|---|---|---|---|---|---|---|---|---|")
    with ComfyServer(BASE) as server, server.client(silence_seconds=1800) as client:
        for vae in vaes:
            print("\n".join(table(client, vae, clean, lpips, arguments)), flush=True)


if __name__ == "__main__":
    main()
