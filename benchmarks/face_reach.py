"""What else reaches the face animator, and what heals a face that no longer obeys: obedience left, LPIPS of the animation, visibility.

    nox -s benchmarks -- face_reach --taef2 FOLDER --data PAIRS [--drawings 6] [--photos PHOTOS.json] [--known ROWS.json ...]

Every picture is first cut to the animator's own square of 512 px. Then at one budget: random signs; VAE Latent through the shipped
autoencoder and TAEF2; the shipped image encoder's embedding; LPIPS pushed up; one perturbation for all, made on drawings that are not
measured; Disobedience made on turns of the head alone or on expressions alone, measured on both; and Disobedience itself, then after
JPEG 75, half the size, a shift, and DDSPure with a denoiser in pixels that `purifiers` trains on PAIRS. Nine minutes a picture on one core.
PHOTOS.json: see face_effect. ROWS.json: what is measured is kept in the first one as soon as a picture is done, and what any of them has
is not measured again, so that a run that ended goes on and several make one table.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import purifiers  # first: it prepares ComfyUI for machines without a GPU
import torch
from bench.paths import BENCH
from bench.weights import face_animator, lpips_backbone
from drawings import drawing
from face_effect import HERE, PLAIN, animated, follows, noisy, pictures, protected
from rows import SPREAD, Rows
from safetensors.torch import load_file
from stillguard.engine.animators.face.animator import Stages, load_face_animator
from stillguard.engine.animators.face.framing import Framing, Reframing, whole
from stillguard.engine.attack import protect
from stillguard.engine.conversions import from_pillow, on_white
from stillguard.engine.draws import SeededDraws
from stillguard.engine.losses.dormant import CLIPSemantic, LPIPSPenalty, VAELatent
from stillguard.engine.losses.face import Disobedience, FaceSetup
from stillguard.engine.metrics.obedience import obedience
from stillguard.engine.metrics.visibility import psnr
from stillguard.engine.objective import Loss, Objective, Term
from stillguard.engine.observation import Observation, WorkingSize
from stillguard.engine.purify.diffusion import dds_one_shot, timesteps_for
from stillguard.engine.purify.edits import JPEGFile
from stillguard.engine.purify.gridpure import in_windows
from stillguard.engine.spaces.rgb import RGB
from stillguard.engine.surrogates.tiny_autoencoder import load_tiny_autoencoder
from stillguard.engine.transforms import ResizeBack
from stillguard.engine.weights.catalogue import LAB
from stillguard.lab import train_encoder
from torch import Tensor, nn

STEPS, UNIVERSAL_STEPS, UNIVERSAL_SEEDS = 30, 80, range(1000, 1008)
BODY = slice(39, 45)
KEPT = Path(__file__).parent / "kept" / "face_reach.json"
SHIFTED = Reframing(right=4 / 512)
Made = Callable[[Tensor, Framing, int], Tensor]


class Only(nn.Module):
    """The animator, deaf to a part of every pose."""

    def __init__(self, animator: nn.Module, kept: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.animator, self.kept = animator, kept

    def stages(self, portrait: Tensor, poses: Tensor) -> Stages:
        return self.animator.stages(portrait, self.kept(poses))


def turns_only(poses: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(poses[:, : BODY.start]), poses[:, BODY]], 1)


def expressions_only(poses: Tensor) -> Tensor:
    return torch.cat([poses[:, : BODY.start], torch.zeros_like(poses[:, BODY])], 1)


@dataclass(frozen=True)
class Embedding:
    """The shipped image encoder, as ComfyUI's CLIP Vision prepares pictures."""

    network: nn.Module

    def embed(self, image: Tensor) -> Tensor:
        return train_encoder.project(self.network, image)


def maximised(photo: Tensor, loss: Loss, budget: float, seed: int) -> Tensor:
    """From random signs: the gradient of a distance is 0 where the distance is."""
    start = noisy(photo, 1.0, seed)
    run = protect(photo, Objective((Term("loss", 1.0, loss),)), space=RGB(budget), working_size=WorkingSize(512), steps=STEPS, start=start)
    with contextlib.closing(run):
        *_, last = run
    return last.image


def universal(animator: nn.Module, budget: float) -> Tensor:
    """One perturbation [1,3,512,512] by sign steps, a picture and a pose drawn for each: Disobedience over all of them."""
    made = torch.zeros(1, 3, 512, 512)
    for step in range(UNIVERSAL_STEPS):
        rgba = from_pillow(drawing(UNIVERSAL_SEEDS[step % len(UNIVERSAL_SEEDS)]))[None]
        loss = Disobedience(FaceSetup(animator, whole(rgba[:, 3:], (512, 512))))
        photo = on_white(rgba)
        leaf = (photo + made).clamp(0, 1).requires_grad_()
        Objective((Term("Disobedience", -1.0, loss),)).backward(Observation(photo), Observation(leaf, draws=SeededDraws(step)))
        assert leaf.grad is not None
        made = (made + leaf.grad.sign() / 255).clamp(-budget / 255, budget / 255)
    return made


def in_square(photo: Tensor, framing: Framing) -> tuple[Tensor, Framing]:
    """The picture as its own crop, on the 8-bit grid."""
    mask = framing.crop(framing.mask)
    return (framing.crop(photo) * 255).round() / 255, whole(mask, (512, 512))


def ways(animator: nn.Module, options: argparse.Namespace) -> dict[str, Made]:
    encoder = train_encoder.network()
    encoder.load_state_dict(load_file(LAB / train_encoder.FILE))
    encoder.eval().requires_grad_(False)
    pattern = universal(animator, options.budget)
    losses: dict[str, Loss] = {
        "VAE Latent, shipped autoencoder": VAELatent(load_tiny_autoencoder()),
        "VAE Latent, TAEF2": VAELatent(purifiers.Taef2(options.taef2)),
        "CLIP Semantic, shipped encoder": CLIPSemantic(Embedding(encoder)),
        "LPIPS pushed up": LPIPSPenalty(purifiers.load_perceptual_network(lpips_backbone(BENCH / "models" / "stillguard")), 0.0),
    }

    def through(loss: Loss) -> Made:
        return lambda photo, framing, seed: maximised(photo, loss, options.budget, seed)

    def disobedient(animator: nn.Module) -> Made:
        return lambda photo, framing, seed: protected(animator, photo, framing, PLAIN, options.budget)

    return {
        "random signs": lambda photo, framing, seed: noisy(photo, options.budget, seed),
        **{name: through(loss) for name, loss in losses.items()},
        "one perturbation for all": lambda photo, framing, seed: ((photo + pattern).clamp(0, 1) * 255).round() / 255,
        "Disobedience, turns drawn only": disobedient(Only(animator, turns_only)),
        "Disobedience, expressions drawn only": disobedient(Only(animator, expressions_only)),
        "Disobedience": disobedient(animator),
    }


def edits(denoiser: nn.Module, seed: int) -> dict[str, Callable[[Tensor], Tensor]]:
    timesteps = timesteps_for(2 * 11 / 255)

    def dds(picture: Tensor) -> Tensor:
        return in_windows(picture, lambda window: dds_one_shot(window, denoiser, timesteps=timesteps, seed=seed))

    return {
        "JPEG 75": JPEGFile(75),
        "half size and back": ResizeBack(0.5),
        "DDSPure": dds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drawings", type=int, default=6)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--taef2", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--budget", type=float, default=8.0)
    parser.add_argument("--known", type=Path, nargs="+", default=[purifiers.CACHE / "face_reach.json", KEPT])
    options = parser.parse_args()
    torch.set_num_threads(1)
    purifiers.CACHE.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    denoiser = purifiers.PixelDenoiser()
    purifiers.train(denoiser, "pixels", options.data, options.minutes)
    lpips = purifiers.load_perceptual_network(lpips_backbone(BENCH / "models" / "stillguard"))
    animator = load_face_animator(face_animator(BENCH / "models"))
    known = Rows(options.known)

    def apart(first: Tensor, second: Tensor) -> float:
        return float(lpips.distance(lpips.activations(first), lpips.activations(second)).mean())

    def measure(name: str, picture: Tensor, clean: tuple[Tensor, Tensor], shown: Tensor, moved: Reframing = HERE) -> None:
        made = animated(animator, picture, framing, moved)
        left = [float(obedience(c, m).mean()) for c, m in zip(clean, made, strict=True)]
        # Of one expression and one turn: LPIPS takes as long as the animator.
        broken = sum(apart(c[1:2], m[1:2]) for c, m in zip(clean, made, strict=True)) / 2
        rows[name] = [*left, broken, float(psnr(shown, photo)), apart(shown, photo)]

    made_by: dict[str, Made] = {}
    for index, (title, whole_photo, whole_framing) in enumerate(pictures(options.drawings, options.photos)):
        if title in known.all:
            continue
        photo, framing = in_square(whole_photo, whole_framing)
        clean = animated(animator, photo, framing, HERE)
        if not follows(clean, title):
            continue
        rows: dict[str, list[float]] = {}
        made_by = made_by or ways(animator, options)
        for name, make in made_by.items():
            picture = make(photo, framing, index)
            measure(name, picture, clean, picture)
        for name, edit in edits(denoiser, index).items():
            measure(f"Disobedience, {name}", edit(picture), clean, picture)
        # The clean picture too: its movement has to lie where the other's does.
        measure("Disobedience, 4 pixels elsewhere", picture, animated(animator, photo, framing, SHIFTED), picture, SHIFTED)
        print(f"{title}: " + "; ".join(f"{name} {v[0]:.2f} {v[1]:.2f}" for name, v in rows.items()), flush=True)
        known.keep(title, rows)
    columns = ("perturbation", "expressions left", "turns left", "LPIPS of the animation", "photo, dB", "photo, LPIPS")
    known.print_table(columns, (SPREAD, SPREAD, SPREAD, "{:.1f}", "{:.3f}"))


if __name__ == "__main__":
    main()
