"""Dormant against its official code: `golden` of the check vectors, or a part of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from stillguard.engine import RGB, MomentumSign, Objective, Observation, Term, WorkingSize, protect
from stillguard.engine.animators.pose_animator import last_timesteps, noise_schedule
from stillguard.engine.draws import Draws
from stillguard.engine.losses.dormant import CLIPSemantic, FrameIncoherence, LPIPSPenalty, ReferenceFeature, VAELatent
from stillguard.engine.losses.posed import PosedClip, ReferenceSetup
from stillguard.engine.surrogates.sd_unet import LATENT_SCALE
from torch import Tensor

from .dormant_parts import ANIMATOR, Parts
from .folder import Folder, Row, flips, gradient, number, relative

ENCODERS = ("weights/vae", "weights/clip", "weights/lpips")
NETS = ("weights/reference_unet", "weights/appearance_encoder", "weights/magicpose")
NAMES = {"loss_ref": "reference_unet", "loss_app": "appearance_encoder", "loss_appctrl": "magicpose"}


def matches(folder: Folder) -> bool:
    return folder.has("vectors/inputs", "vectors/units") and (folder.path / "configs" / "denoising_unet.json").is_file()


def checks(folder: Folder) -> Iterator[Row]:
    """Everything that the folder's files permit."""
    parts = Parts(folder)
    if folder.has(*ENCODERS):
        yield from units(folder, parts)
    for name in NETS:
        if folder.has(name):
            yield from features(folder, parts, name.removeprefix("weights/"))
    if folder.has(*ANIMATOR):
        yield from animator(folder, parts)
    if folder.has("vectors/f_ddim"):
        yield from schedule(folder)
    if folder.has("vectors/g_losses"):
        for kind in ("tiled", "untiled"):
            yield from losses(folder, parts, kind)
    if folder.has("vectors/h_pgd", *ENCODERS, *NETS, *ANIMATOR):
        for kind in ("tiled", "untiled"):
            yield from run(folder, parts, kind)


def timesteps(folder: Folder) -> tuple[int, ...]:
    """Those that the set's own number of denoising steps ends with, of which each step draws one."""
    return last_timesteps(folder.config("run")["steps"])


def official_order(folder: Folder, name: str, features: dict[str, Tensor]) -> list[Tensor]:
    """Our features in the order of the official lists."""
    key = {"reference_unet": "reference", "appearance_encoder": "appearance"}.get(name)
    if key is None:
        return list(features.values())
    return [features[block.removesuffix(".transformer_blocks.0")] for block in folder.values()["feature_names"][key]]


def units(folder: Folder, parts: Parts) -> Iterator[Row]:
    official = folder.vectors("units")
    yield relative("latent, whole", parts.vae.encode(parts.clean) * LATENT_SCALE, official["lat_untiled"], 1e-4)
    yield relative("latent, tiled", parts.tiled.encode(parts.clean) * LATENT_SCALE, official["lat_tiled"], 1e-4)
    yield relative("CLIP embedding", parts.clip.embed(parts.clean), official["clip_embeds"], 1e-4)
    distance = parts.lpips(parts.clean, parts.clean + official["delta_eps"] / 2)
    yield relative("LPIPS", distance, official["lpips"].flatten(), 1e-4)


def features(folder: Folder, parts: Parts, name: str) -> Iterator[Row]:
    file, prefix = {
        "reference_unet": ("a_reference", "feature"),
        "appearance_encoder": ("b_appearance", "feature"),
        "magicpose": ("c_magicpose", "bank"),
    }[name]
    official, net = folder.vectors(file), parts.net(name)
    rows = official[f"{prefix}.00"].shape[0]
    context = official.get("encoder_hidden_states", parts.text.expand(rows, -1, -1))
    ours = net(official["latents"].expand(rows, -1, -1, -1), int(official["timestep"]), context)
    for index, feature in enumerate(official_order(folder, name, dict(zip(net.names, ours, strict=True)))):
        yield relative(f"{net.format.name} feature {index:02d}", feature, official[f"{prefix}.{index:02d}"], 1e-4)


def animator(folder: Folder, parts: Parts) -> Iterator[Row]:
    official = folder.vectors("e_denoise")
    pose = parts.animator.guide(parts.pose)
    yield relative("pose features", pose, official["pose_fea"][0].transpose(0, 1), 1e-4)
    blocks = folder.values()["feature_names"]["reference"]
    bank = {block.removesuffix(".transformer_blocks.0"): official[f"bank.{i:02d}"][1:] for i, block in enumerate(blocks)}
    timestep, context = int(official["timestep"]), official["encoder_hidden_states"]
    with torch.no_grad():
        free = parts.animator.denoise(official["noise"], timestep, context[:1], pose)
        without = parts.animator.denoise(official["noise"], timestep, context[1:], pose)
        conditional = parts.animator.denoise(official["noise"], timestep, context[1:], pose, bank)
    yield relative("denoiser, unconditional row", free, official["pred"][:1], 1e-4)
    yield relative("denoiser, without bank", without, official["pred_no_bank"][1:], 1e-4)
    yield relative("denoiser, with bank", conditional, official["pred"][1:], 1e-4)
    guided = free + folder.config("run")["guidance_scale"] * (conditional - free)
    yield relative("guided prediction", guided, official["noise_pred_cfg"], 1e-4)
    signal = noise_schedule().alphas_cumprod[timestep]
    estimate = signal.sqrt() * official["noise"] - (1 - signal).sqrt() * guided
    yield relative("estimate of the clean frames", estimate, official["pred_original_sample"], 1e-4)


def schedule(folder: Folder) -> Iterator[Row]:
    official, ours = folder.vectors("f_ddim"), noise_schedule()
    ours.set_timesteps(folder.config("run")["steps"])
    yield relative("timesteps", ours.timesteps.double(), official["timesteps"].double(), 0.0)
    yield relative("cumulative alphas", ours.alphas_cumprod, official["alphas_cumprod"], 1e-6)
    for index, timestep in enumerate(timesteps(folder)):
        estimate = ours.step(official["model_output"][index], timestep, official["sample"][index]).pred_original_sample
        yield relative(f"DDIM estimate at {timestep}", estimate, official["pred_original_sample"][index], 1e-6)


def objective(folder: Folder, parts: Parts, kind: str, *, only: str | None = None) -> Objective:
    """The official objective; `only` leaves one term, with weight 1. Terms whose weights the folder lacks are left out."""
    vae = parts.tiled if kind == "tiled" else parts.vae
    config, drawn = folder.config("run"), timesteps(folder)

    def frames(alignment: float, consistency: float) -> FrameIncoherence:
        frames, guidance = parts.pose.shape[0], config["guidance_scale"]
        clip = PosedClip(parts.animator, setups["loss_ref"], parts.pose, noise_schedule().alphas_cumprod, drawn, frames, guidance)
        return FrameIncoherence(clip, alignment, consistency)

    setups = {
        loss: ReferenceSetup(parts.net(name), vae, parts.clip if loss == "loss_ref" else parts.text, unconditional=loss == "loss_ref")
        for loss, name in NAMES.items()
        if folder.has(f"weights/{name}") and only in (None, loss, "loss_align", "loss_consist")
    }
    makers = {
        "loss_vae": lambda: VAELatent(vae, LATENT_SCALE),
        "loss_clip": lambda: CLIPSemantic(parts.clip),
        **{loss: (lambda loss=loss: ReferenceFeature(setups[loss], (0,) if loss == "loss_ref" else drawn)) for loss in NAMES},
        "loss_align": lambda: frames(1.0, 0.0),
        "loss_consist": lambda: frames(0.0, 1.0),
        "loss_lpips": lambda: LPIPSPenalty(parts.lpips, config["eps"] / 255),
    }
    if only is not None:
        return Objective((Term(only, 1.0, makers[only]()),))
    weights = dict(folder.values()["alphas"])
    # Alignment and consistency come from one denoiser call, as in the official code.
    weights["frames"] = weights.pop("loss_align")
    assert weights.pop("loss_consist") == weights["frames"]
    makers["frames"] = lambda: frames(1.0, 1.0)
    return Objective(tuple(Term(name, weight, makers[name]()) for name, weight in weights.items()))


@dataclass
class OfficialDraws:
    """The noise and the timestep that the official run had, and all that it drew from."""

    noise: Tensor
    timestep: Tensor
    drawn: tuple[int, ...]

    def integer(self, purpose: str, below: int) -> int:
        assert (purpose, below) == ("timestep", len(self.drawn))
        return self.drawn.index(int(self.timestep))

    def normal(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        assert purpose == "frames"
        assert tuple(self.noise.shape) == shape
        return self.noise


def needed(loss: str) -> tuple[str, ...]:
    if loss in ("loss_align", "loss_consist"):
        return (*ENCODERS, *ANIMATOR, "weights/reference_unet")
    return (*ENCODERS, f"weights/{NAMES[loss]}") if loss in NAMES else ENCODERS


def losses(folder: Folder, parts: Parts, kind: str) -> Iterator[Row]:
    """Every loss and its gradient with respect to the perturbation in [-1,1] units."""
    official, values = folder.vectors("g_losses"), folder.values()["losses"][kind]
    draws = OfficialDraws(official["noise"], official["timestep"], timesteps(folder))
    for loss in folder.values()["alphas"]:
        if folder.has(*needed(loss)):
            measured, slope = backward(objective(folder, parts, kind, only=loss), parts.clean, official["delta"], draws)
            yield number(f"{kind} {loss}", measured[loss], values[loss], 1e-4)
            if f"{kind}.grad.{loss}" in official:
                yield from gradient(f"{kind} gradient of {loss}", slope, official[f"{kind}.grad.{loss}"])
    if folder.has(*ENCODERS, *NETS, *ANIMATOR):
        _, slope = backward(objective(folder, parts, kind), parts.clean, official["delta"], draws)
        yield from gradient(f"{kind} gradient of the whole", slope, official[f"{kind}.grad.total"])
        if kind == "tiled":
            start = folder.vectors("h_pgd")["tiled.delta.00"]
            _, slope = backward(objective(folder, parts, kind), parts.clean, start, draws)
            yield from gradient("gradient of the whole at the official start", slope, official["init.grad.total"])


def backward(objective: Objective, clean: Tensor, delta: Tensor, draws: Draws) -> tuple[dict[str, float], Tensor]:
    leaf = delta.clone().requires_grad_()
    reference = Observation(clean)
    measured = objective.backward(reference, Observation(clean + leaf / 2, draws=draws))
    return {name: float(value) for name, value in measured.items()}, leaf.grad


@dataclass(frozen=True)
class GivenStart(RGB):
    """Begins where the official run began."""

    given: Tensor | None = None

    def start(self, clean: Tensor, mask: Tensor | None, generator: torch.Generator) -> tuple[Tensor]:
        return (self.given / 2,)


def run(folder: Folder, parts: Parts, kind: str) -> Iterator[Row]:
    """As many iterations as were recorded from the official start with the official noise, through `protect`."""
    official, config = folder.vectors("h_pgd"), folder.config("run")
    draws = (OfficialDraws(noise, timestep, timesteps(folder)) for noise, timestep in zip(official["noise"], official["t"], strict=True))
    last = len(official["t"])
    # The official budget and step are in [-1,1] units: half as many levels.
    space = GivenStart(config["eps"] / 2, given=official["tiled.delta.00"])
    update = MomentumSign(config["step_size"] / 2, config["momentum_decay"])
    seen = Recording(space)
    working = WorkingSize(longest=max(parts.clean.shape[-2:]))
    steps = protect(parts.clean, objective(folder, parts, kind), space=seen, update=update, working_size=working, steps=last, draws=draws)
    for step in steps:
        if step.index and f"{kind}.delta.{step.index:02d}" in official:
            tolerance = 1e-3 * step.index  # as the set's README suggests: 0.1 % after one iteration, 1 % after ten
            yield flips(f"{kind} run after {step.index}", seen.last * 2, official[f"{kind}.delta.{step.index:02d}"], tolerance)


class Recording:
    """A space that remembers the perturbation, which the engine itself shows only rounded to levels."""

    def __init__(self, space: RGB) -> None:
        self._space, self.last = space, torch.empty(0)

    def __getattr__(self, name: str) -> object:
        return getattr(self._space, name)

    def at(self, index: int) -> Recording:
        return self

    def project(self, clean: Tensor, mask: Tensor | None, variables: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        projected = self._space.project(clean, mask, variables)
        (self.last,) = projected
        return projected
