"""The nullifying loss, its gradient, and the official run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from stillguard.engine import RGB, Objective, Observation, Sign, Term, WorkingSize, protect
from stillguard.engine.animators.pose_animator import noise_schedule
from stillguard.engine.animators.talking_head.denoiser import Masks, Mode
from stillguard.engine.losses.silencer import AudioNullifying, TalkingSetup, Window
from torch import Tensor

from .dormant import Recording as RecordedSpace
from .folder import Folder, Row, flips, gradient, number, relative
from .hallo_parts import LOSS, MODES, OUTPUT, Parts
from .hallo_pipeline import Recording

NAME = "audio nullifying"


@dataclass
class OfficialDraws:
    """Draw k of the official code. start: where its window of timesteps begins. first: of the frames of audio that it draws from."""

    inputs: Any
    k: int
    timestep: int
    start: int
    first: int

    def integer(self, purpose: str, below: int) -> int:
        drawn = {"audio frame": int(self.inputs["audio_idx"][self.k]) - self.first, "timestep 0": self.timestep - self.start}[purpose]
        assert 0 <= drawn < below
        return drawn

    def normal(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        name = {"noise 0": "noise", "noise offset 0": "offset", "target's latent": "vae_noise_z0"}.get(purpose, "vae_noise_ref")
        if purpose == "audio dropped":
            return torch.special.ndtri(self.inputs["p_audio"][self.k])
        rows = {"portrait's latent": slice(1), "motion frames' latents": slice(1, None)}.get(purpose, slice(None))
        drawn: Tensor = self.inputs[name][self.k][rows]
        assert tuple(drawn.shape) == shape
        return drawn


@dataclass(frozen=True)
class GivenLevels:
    """The set's masks, which are its masks' own row (i)."""

    masks: Masks

    def levels(self, height: int, width: int, count: int) -> Masks:
        assert [level.shape[-1] for level in self.masks] == [-(-width // 2**index) for index in range(count)]
        return self.masks


def loss(folder: Folder, parts: Parts, head: Any, *, mode: Mode, window: Window) -> AudioNullifying:
    given, run = parts.inputs, parts.run
    setup = TalkingSetup(
        parts.net,
        head,
        parts.vae,
        given["audio_raw"],
        given["face_emb"][None],
        parts.region,
        GivenLevels(parts.masks()),
        mode=mode,
        sampled="everything",
        frames_before=run["n_motion_frames"],
        latent_scale=run["latent_scale"],
    )
    signal = noise_schedule(folder.config("scheduler_train")["beta_schedule"]).alphas_cumprod
    return AudioNullifying(setup, signal, (window,), run["snr_gamma"], run["noise_offset"], run["uncond_audio_ratio"])


def usual(parts: Parts) -> Window:
    first = parts.run["min_timesteps"]
    return first, first + parts.run["span"]


def losses(folder: Folder, parts: Parts) -> Iterator[Row]:
    """Every case of (g): the value, what the denoiser saw and said, and the gradient with respect to the picture in [-1,1]."""
    official = folder.vectors("g_loss")
    for name, case in parts.values["losses"].items():
        timestep, (first, end) = case["t"], usual(parts)
        window = (first, end) if first <= timestep < end else (timestep, timestep + 1)
        head = Recording(parts.head)
        term = Term(NAME, 1.0, loss(folder, parts, head, mode=MODES[name.split("_")[0]], window=window))
        signed = parts.inputs["x_g"][None].clone().requires_grad_()
        draws = OfficialDraws(parts.inputs, case["k"], timestep, window[0], parts.first_audio)
        measured = Objective((term,)).backward(Observation(parts.clean), Observation((signed + 1) / 2, draws=draws))
        # Both signs of the official code descend; one of them reports the negative.
        sign = -1 if case["g_mode"] == "+" else 1
        yield number(f"loss, {name}", sign * float(measured[NAME]), case["returned"], LOSS)
        if f"{name}.noisy_latents" in official:
            yield relative(f"noisy latents, {name}", head.seen[0], official[f"{name}.noisy_latents"], OUTPUT)
        if f"{name}.model_pred" in official:
            yield relative(f"prediction, {name}", head.predicted[0].detach(), official[f"{name}.model_pred"], OUTPUT)
        if f"{name}.grad_image" in official:
            yield from gradient(f"gradient, {name}", signed.grad[0], official[f"{name}.grad_image"])
        if f"{name}.grad_ref_latents" in official:
            yield from gradient(f"gradient of latents, {name}", _latents_slope(folder, parts, name), official[f"{name}.grad_ref_latents"])


def _latents_slope(folder: Folder, parts: Parts, name: str) -> Tensor:
    """Gradient with respect to all reference latents, those of the motion frames too, which no loss of ours asks for."""
    official, cases = folder.vectors("g_loss"), parts.values["losses"]
    case, twin = cases[name], next(n for n in cases if cases[n]["k"] == cases[name]["k"] and f"{n}.ref_latents" in official)
    signal = noise_schedule(folder.config("scheduler_train")["beta_schedule"]).alphas_cumprod[case["t"]]
    latents = official[f"{twin}.ref_latents"].clone().requires_grad_()
    heard = parts.head.audio_tokens(parts.head.windows(parts.inputs["audio_raw"], [int(parts.inputs["audio_idx"][case["k"]])]))[None]
    told = parts.tokens, parts.head.locate(parts.region), heard * (not case["audio_dropped"]), parts.masks(), *parts.bank(latents)
    predicted = parts.head.denoise(official[f"{twin}.noisy_latents"], case["t"], *told, mode=MODES[name.split("_")[0]])
    weight = min(1.0, parts.run["snr_gamma"] * float(1 - signal))
    (slope,) = torch.autograd.grad(weight * (predicted - official[f"{twin}.target_v"]).square().mean(), latents)
    return slope


class GivenStart(RGB):
    """Begins where the official run began, which need not be a picture."""

    def __init__(self, budget: float, given: Tensor) -> None:
        super().__init__(budget, truncated=True)
        object.__setattr__(self, "given", given)

    def start(self, clean: Tensor, mask: Tensor | None, generator: torch.Generator) -> tuple[Tensor]:
        return (self.given - clean,)  # type: ignore[attr-defined]


def run(folder: Folder, parts: Parts) -> Iterator[Row]:
    """The official run through `protect`, with its own draws."""
    official, config, values = folder.vectors("h_pgd"), parts.run, parts.values
    term = Term(NAME, -1.0, loss(folder, parts, parts.head, mode="reference", window=usual(parts)))
    start, steps = (official["x.00"][None] + 1) / 2, config["pgd_steps"]
    uniform = parts.inputs["start_u"][None] * 2 - 1
    yield flips("start", parts.clean * 2 - 1 + uniform * config["eps_levels"] * 2 / 255, official["x.00"][None], 0.0)
    space = RecordedSpace(GivenStart(config["eps_levels"], start))
    draws = (OfficialDraws(parts.inputs, k, int(parts.inputs["t"][k]), usual(parts)[0], parts.first_audio) for k in values["pgd_k"])
    ran = protect(
        parts.clean,
        Objective((term,)),
        space=space,
        update=Sign(config["alpha_levels"], "linear"),
        working_size=WorkingSize(longest=config["size"]),
        steps=steps,
        draws=draws,
    )
    for step in ran:
        if not step.index:
            continue
        # A gradient of almost nothing may have either sign, and the pictures differ from there on.
        tolerance = LOSS if step.index == 1 else 10 * LOSS
        yield number(f"loss of step {step.index}", step.losses[NAME], values["pgd_losses"][step.index - 1], tolerance)
        ours, name = (parts.clean + space.last) * 2 - 1, f"x.{step.index:02d}"
        if name in official:
            # As the sets' README suggests: 0.1 % after one step, 1 % after five.
            yield flips(f"run after {step.index}", ours, official[name][None], 1e-3 if step.index == 1 else 1e-2)
    truncated = (255 * ((ours[0] + 1) / 2).clamp(0, 1)).floor().movedim(0, -1)
    yield flips("what is written", truncated, official["final_u8"].float(), 1e-2)
    # Ours does not lose a level to rounding where a value is one, as the official code does.
    written = (step.image[0] * 255).round().movedim(0, -1)
    yield Row("what we write", float((written - official["final_u8"].float()).abs().max()), 1.0, "levels of 255")
