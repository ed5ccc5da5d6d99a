"""What Silencer does to a small talking head that is really trained, and what purifiers leave of it, at equal visibility.

    nox -s benchmarks -- silencer_effect --data PAIRS --voices FILE [FILE ...] --unheard FILE [--taef2 FOLDER] [--known ROWS.json]

Drawn portraits that the head never saw (see talking_lab.py) are protected with the Audio Nullifying loss on the last of VOICES: stage I in
pixels, and stages I and II in latents of the shipped autoencoder, or of TAEF2, anchored to stage I with the face frozen half way, as the
Silencer node does. The result of stage I is left as it is; the other perturbations and random signs are scaled to its LPIPS. Then clean
and changed picture go through the same edit, and the head speaks with the voice UNHEARD. Printed are obedience, the share of the clean
picture's movement that is left (1: all), of the mouth and of the whole frame, and the nullifying loss on that voice (fixed noise and
timesteps): how much of it is gone against the clean picture's, and against a head that is shown the clean picture and has to predict the
changed one, since what the loss asks for changes with the picture (0: none; negative: it has grown). Means over portraits with 95 %
bootstrap intervals. The denoiser in pixels is that of purifiers.py. Rows of finished portraits are kept. Training takes MINUTES of
processor time on one core, and a portrait about ten minutes more; with --first-only two.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bench import paths, weights
from latent_space import scaled
from purifiers import PixelDenoiser, Scene, Taef2, common_rows, pixel_rows, train
from rows import SPREAD, Rows
from stillguard.engine import RGB, AdamW, Latent, Objective, Observation, Sign, Term, WorkingSize, protect
from stillguard.engine.animators.pose_animator import noise_schedule
from stillguard.engine.animators.talking_head import sampler
from stillguard.engine.draws import SeededDraws
from stillguard.engine.losses.i2vguard import TargetLatent
from stillguard.engine.losses.silencer import AudioNullifying, TalkingSetup
from stillguard.engine.metrics.obedience import obedience
from stillguard.engine.metrics.visibility import psnr
from stillguard.engine.picture import resize
from stillguard.engine.purify import diffusion
from stillguard.engine.purify.edits import JPEGFile
from stillguard.engine.purify.gridpure import gridpure
from stillguard.engine.surrogates.perceptual import load_perceptual_network
from stillguard.engine.surrogates.sd_unet import LATENT_SCALE
from stillguard.engine.surrogates.tiny_autoencoder import load_tiny_autoencoder
from stillguard.lab.animator import SIDE
from stillguard.lab.talker import LATENT, Talker
from talking_lab import CACHE, HELD_OUT, TRAINED, Voice, faces, lips, regions, trained, voice
from torch import Tensor

SIZE = WorkingSize(SIDE)
KEPT = Path(__file__).parent / "kept" / "silencer_effect.json"
# As the Silencer node has them.
ANCHOR, FROZEN_AFTER = 10 * LATENT_SCALE**2, 0.5
SPOKEN, DENOISING, PASSES = 8, 10, 6
Made = dict[str, Tensor]
Edit = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Aimed(TalkingSetup):
    """What the head has to predict is another picture than it is shown."""

    aim: Tensor | None = None

    def latent(self, adversarial: Observation, purpose: str) -> Tensor:
        aimed = self.aim is not None and purpose == "target's latent"
        return self.vae.encode(self.aim).float() * self.latent_scale if aimed else super().latent(adversarial, purpose)


class Speaker:
    """The trained head with everything that it is told, but the portrait and the voice."""

    def __init__(self, talker: Talker, mouth: Tensor) -> None:
        self.talker, self.vae, self.regions = talker, load_tiny_autoencoder(), regions(mouth)
        rows, columns = (mouth[0, 0].any(axis).nonzero() for axis in (1, 0))
        self.box = slice(int(rows.min()), int(rows.max()) + 1), slice(int(columns.min()), int(columns.max()) + 1)

    def mouth(self, video: Tensor) -> Tensor:
        return video[..., self.box[0], self.box[1]]

    def nullifying(self, heard: Voice, *, dropped: float = 0.05, aim: Tensor | None = None) -> AudioNullifying:
        """aim: what is to be predicted, the picture itself without one."""
        setup = Aimed(
            self.talker.reference,
            self.talker.head,
            self.vae,
            heard.features,
            torch.zeros(1, self.talker.head.face_dim),
            torch.ones(1, 1, SIDE, SIDE),
            self.regions,
            sampled="nothing",
            before="portrait",
            aim=aim,
        )
        return AudioNullifying(setup, noise_schedule().alphas_cumprod, dropped=dropped)

    @torch.no_grad()
    def loss(self, shown: Tensor, aim: Tensor, heard: Voice) -> float:
        """Of a head that is shown one picture and has to predict another: a mean of PASSES, drawn the same for all."""
        nullifying = self.nullifying(heard, dropped=0.0, aim=aim)
        values = [nullifying(Observation(shown), Observation(shown, draws=SeededDraws(step))) for step in range(PASSES)]
        return float(torch.stack(values).mean())

    @torch.no_grad()
    def video(self, picture: Tensor, heard: Tensor) -> Tensor:
        """[N,3,H,W], a frame for each of the features [N,layers,channels]."""
        latent = self.vae.encode(picture) * LATENT_SCALE
        masks = self.regions.levels(LATENT, LATENT, self.talker.head.levels)
        portrait = sampler.Portrait(latent, torch.zeros(1, self.talker.head.face_dim), torch.ones(1, 1, SIDE, SIDE), masks)
        head, net = self.talker.head, self.talker.reference
        *_, last = sampler.animate(net, head, self.vae, portrait, heard, steps=DENOISING, guidance=1, clip=len(heard))
        assert last.frames is not None
        return last.frames.clamp(0, 1)


def lively(heard: Voice) -> Tensor:
    """The SPOKEN frames in a row in which the mouth moves most."""
    spread = heard.opening.unfold(0, SPOKEN, 1).std(1)
    at = int(spread.argmax())
    return heard.features[at : at + SPOKEN]


def made(speaker: Speaker, clean: Tensor, heard: Voice, spaces: dict[str, Any], options: argparse.Namespace) -> Made:
    """Every protected picture, by name, before it is scaled."""
    nullifying = Term("Audio Nullifying", -1.0, speaker.nullifying(heard))
    *_, first = protect(
        clean, Objective((nullifying,)), space=RGB(options.budget), update=Sign(1.0, "linear"), working_size=SIZE, steps=options.steps
    )
    found = {"stage I": first.image}
    for name, vae in spaces.items():
        space = Latent(vae, working_size=SIZE, start_from="clean").freeze(int(options.second_steps * FROZEN_AFTER), oval())
        anchor = Term("Target Latent", -ANCHOR, TargetLatent(vae, first.image))
        *_, second = protect(
            clean, Objective((nullifying, anchor)), space=space, update=AdamW(1.0), working_size=SIZE, steps=options.second_steps
        )
        found[f"stages I and II, {name}"] = second.image
    return found


def oval() -> Tensor:
    """Where the face is, [1,1,SIDE,SIDE]: its box in a drawing's cut (see talking_lab.FACE)."""
    mask = torch.zeros(1, 1, SIDE, SIDE)
    mask[..., : -SIDE // 5, SIDE // 12 : -SIDE // 12] = 1
    return mask


def as_visible(clean: Tensor, pictures: Made, lpips: Any, seed: int) -> Made:
    """Random signs and all but the first scaled to the LPIPS of the first."""
    first = next(iter(pictures.values()))
    least = float(lpips(clean, first))
    signs = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed)).sign()
    others = {"random signs": (clean + signs * 16 / 255).clamp(0, 1), **dict(list(pictures.items())[1:])}

    def too_visible(picture: Tensor) -> bool:
        return float(lpips(clean, picture)) > least

    return {next(iter(pictures)): first} | {name: scaled(clean, picture, too_visible)[0] for name, picture in others.items()}


def edits(vae: Any, clean: Tensor, lpips: Any, denoiser: PixelDenoiser, iterations: int) -> dict[str, Edit]:
    scene = Scene("", vae, lpips, clean, clean)
    half, size = (SIDE // 2, SIDE // 2), (SIDE, SIDE)
    common = {name: edit for name, edit in common_rows(scene, iterations, 0).items() if "DiffShortcut" not in name}
    jpeg = JPEGFile(75)
    draws = diffusion.normal_draws((1, 3, *size), 0)

    def lightly(window: Tensor) -> Tensor:
        return deque(diffusion.diffpure(window, denoiser, timesteps=10, noises=draws), maxlen=1)[0].image

    def grid(picture: Tensor) -> Tensor:
        return deque(gridpure(picture, lightly, window=SIDE), maxlen=1)[0].image

    return {
        **common,
        "half of DiffShortcut: half size and back": lambda picture: resize(resize(picture, half), size),
        **{name: edit for name, edit in pixel_rows(denoiser, 0).items() if "150" not in name and "GrID" not in name},
        "GrIDPure, pixels, 10 times 10 of 1000": grid,
        "JPEG 75": jpeg,
        "JPEG 75, half size and back": lambda picture: resize(resize(jpeg(picture), half), size),
    }


def measured(
    speaker: Speaker, clean: Tensor, pictures: Made, chosen: dict[str, Any], heard: Voice, lpips: Any
) -> Iterator[tuple[str, list[float]]]:
    """Rows "picture | edit": what is left of mouth and frame, what is gone of the loss, LPIPS and PSNR of the picture before the edit."""
    said = lively(heard)
    with torch.no_grad():
        for edit_name, edit in chosen.items():
            before = edit(clean).clamp(0, 1)
            video, own = speaker.video(before, said), speaker.loss(before, before, heard)
            for name, picture in pictures.items():
                after = edit(picture).clamp(0, 1)
                spoken, loss = speaker.video(after, said), speaker.loss(after, after, heard)
                left = [float(obedience(speaker.mouth(video), speaker.mouth(spoken)).mean()), float(obedience(video, spoken).mean())]
                gone = [1 - loss / speaker.loss(before, after, heard), 1 - loss / own]
                yield f"{name} | {edit_name}", [*left, *gone, float(lpips(clean, picture)), float(psnr(clean, picture))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="photos to train the purifiers' denoiser on; not needed once it is in the cache")
    parser.add_argument("--voices", type=Path, nargs="+", required=True, help="speech that the head is trained with")
    parser.add_argument("--unheard", type=Path, required=True, help="speech of somebody else")
    parser.add_argument("--taef2", type=Path)
    parser.add_argument("--minutes", type=float, default=30, help="of processor time for the talking head")
    parser.add_argument("--portraits", type=int, default=len(HELD_OUT))
    parser.add_argument("--budget", type=float, default=16.0, help="of stage I, in 8-bit levels; the paper's by default")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--second-steps", type=int, default=100)
    parser.add_argument("--first-only", action="store_true", help="stage I alone, as it is and after JPEG 75: two minutes a portrait")
    parser.add_argument("--iterations", type=int, default=20, help="of Impress")
    parser.add_argument("--known", type=Path, nargs="+", default=[CACHE / "silencer_effect.json", KEPT])
    options = parser.parse_args()
    torch.set_num_threads(1)
    voices, unheard = [voice(file) for file in options.voices], voice(options.unheard)
    speaker = Speaker(trained(voices, options.minutes), lips(faces(TRAINED)))
    lpips = load_perceptual_network(weights.lpips_backbone(paths.BENCH / "models" / "stillguard"))
    torch.manual_seed(0)
    denoiser = PixelDenoiser()
    train(denoiser, "pixels", options.data, 10)
    spaces: dict[str, Any] = {}
    if not options.first_only:
        spaces = {"stillguard_lab_vae": speaker.vae} | ({} if options.taef2 is None else {"TAEF2": Taef2(options.taef2)})
    known = Rows(options.known)
    for index, portrait in enumerate(faces(HELD_OUT)[: options.portraits, 0]):
        if f"portrait {index}" in known.all:
            continue
        clean = portrait[None]
        pictures = as_visible(clean, made(speaker, clean, voices[-1], spaces, options), lpips, index)
        chosen = edits(speaker.vae, clean, lpips, denoiser, options.iterations)
        if options.first_only:
            chosen = {name: chosen[name] for name in ("nothing", "JPEG 75")}
        known.keep(f"portrait {index}", dict(measured(speaker, clean, pictures, chosen, unheard, lpips)))
        print(f"portrait {index} is done", flush=True)
    columns = ("picture | edit", "mouth left", "frame left", "loss gone, same aim", "loss gone", "LPIPS", "PSNR")
    known.print_table(columns, (*[SPREAD] * 4, "{:.3f}", "{:.1f}"))


if __name__ == "__main__":
    main()
