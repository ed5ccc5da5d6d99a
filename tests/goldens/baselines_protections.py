"""The protections against their authors' own code: what a_* of a baselines folder hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from stillguard.engine import Objective, Observation, Sign, Term, WorkingSize, protect
from stillguard.engine.losses import baselines
from stillguard.engine.losses.dormant import LPIPSPenalty
from stillguard.engine.surrogates.picture_setup import PictureSetup
from torch import Tensor

from .baselines_parts import SIGNED, Parts, at_least, recorded, steps_of
from .dormant import Recording
from .folder import Folder, Row, flips, gradient, number
from .hallo_loss import GivenStart

Vectors = Mapping[str, Tensor]
Terms = dict[str, tuple[float, Any]]
# What each kind of random number is called in the files.
NAMES = {"timestep": "t", "ancestral step": "step_noise", "conditioning noise": "noise_step", "post": "post_x"}


@dataclass(frozen=True)
class Case:
    """terms: weights and losses that add up to the number that the code prints. descends: it is minimised. budget, step: in [-1,1].

    unscaled: its gradient lacks the factor of the latents' scale, since it comes in two parts. of: the term whose
    gradient was kept, and which share of its weight.
    """

    terms: Callable[[Parts, Vectors], Terms]
    budget: float
    step: float
    descends: bool = True
    schedule: Any = "constant"
    start: str = "clean"
    masked: bool = False
    unscaled: bool = False
    of: tuple[str, float] | None = None


def _setup(parts: Parts, prompt: str, posterior: str | None = "post", **options: bool) -> PictureSetup:
    return PictureSetup(parts.model(prompt, **options), parts.vae, posterior)


def _diffprotect(texture: float, semantic: float) -> Callable[[Parts, Vectors], Terms]:
    """Sums of squares for the texture, as Diff-Protect has them."""

    def terms(parts: Parts, official: Vectors) -> Terms:
        setup, size = _setup(parts, "a_photo"), official["z_target"].numel()
        target = parts.picture("target_u8")
        made: Terms = {}
        if texture:
            made["texture"] = (texture * size, baselines.Texture(setup, target, drawn="post_y"))
        if semantic:
            made["semantic"] = (semantic, baselines.DenoisingError(setup))
        return made

    return terms


def _sds(parts: Parts, official: Vectors) -> Terms:
    return {"distillation": (official["eps_pred"].numel() / 2, baselines.ScoreDistillation(_setup(parts, "a_photo")))}


def _sdst(parts: Parts, official: Vectors) -> Terms:
    size, texture = official["eps_pred"].numel(), _setup(parts, "a_photo", "post_x_second")
    ((half, loss),) = _sds(parts, official).values()
    return {
        "distillation": (5 * half, loss),
        "texture": (size, baselines.Texture(texture, parts.picture("target_u8"), drawn="post_target")),
    }


def _encoder(target: str | None = None) -> Callable[[Parts, Vectors], Terms]:
    return lambda parts, official: {"norm": (1.0, baselines.LatentNorm(parts.vae, None if target is None else parts.picture(target)))}


def _mist(kind: str) -> Callable[[Parts, Vectors], Terms]:
    def terms(parts: Parts, official: Vectors) -> Terms:
        setup, target = _setup(parts, "a_picture", None), parts.picture("target_u8")
        noise = official["draw.post_target"][0]
        match kind:
            case "lunet":
                return {"score": (-1.0, baselines.TargetScore(setup, target, noise))}
            case "fused":
                # With the sign of the code, which is not the one that was meant.
                aligned, texture = baselines.NoiseAlignment(setup), baselines.Texture(setup, target, noise)
                return {"aligned": (-float(official["target_latent"].numel()), aligned), "texture": (100.0, texture)}
            case _:
                return {"denoising": (1.0, baselines.DenoisingError(setup))}

    return terms


def _dreambooth(**options: bool) -> Callable[[Parts, Vectors], Terms]:
    return lambda parts, official: {"denoising": (1.0, baselines.DenoisingError(_setup(parts, "a_photo_of_sks_person", **options)))}


def _shift(parts: Parts, official: Vectors) -> Terms:
    setup = _setup(parts, "a_photo_of_sks_person")
    return {
        "denoising": (1.0, baselines.DenoisingError(setup)),
        "shift": (-1.0, baselines.TargetShift(setup, parts.picture("target_u8"))),
    }


def _vgmshield(kind: str) -> Callable[[Parts, Vectors], Terms]:
    def terms(parts: Parts, official: Vectors) -> Terms:
        target = parts.picture("target_u8") if kind == "target" else None
        return {
            "lpips": (1.0, LPIPSPenalty(parts.lpips, 0.0)),
            "embedding": (1.0, baselines.EmbeddingAngle(parts.encoder, target)),
            "latent": (1.0, baselines.LatentAngle(parts.vae, target, noise=official[f"draw.noise_{kind}"][0])),
        }

    return terms


WIDE = {"budget": 32 / 255, "step": 2 / 255}
MIST = {"budget": 8 / 255, "step": 0.005, "descends": False, "unscaled": True}
DREAMBOOTH = {"budget": 0.05, "step": 0.005, "descends": False}
SHIELD = {"budget": 4 / 255, "step": 1 / 255}
CASES = {
    "advdm_plus": Case(_diffprotect(0, -1), start="projected", **WIDE),
    "advdm_minus": Case(_diffprotect(0, 1), start="projected", **WIDE),
    "texture_only": Case(_diffprotect(1, 0), start="projected", **WIDE),
    "mist_v1": Case(_diffprotect(1, -1e4), start="projected", **WIDE),
    "mist_v1_minus": Case(_diffprotect(-1, -1e4), start="projected", **WIDE),
    "sds_plus": Case(_sds, descends=False, **WIDE),
    "sds_minus": Case(_sds, **WIDE),
    "sdst_minus": Case(_sdst, of=("distillation", 1 / 5), **WIDE),
    "photoguard_encoder": Case(_encoder(), 0.06, 0.02, schedule="linear", start="anywhere"),
    "photoguard_encoder_inpaint": Case(_encoder("target_u8"), 0.06, 0.01, schedule="linear", start="anywhere", masked=True),
    "mist_v2_lunet": Case(_mist("lunet"), **MIST),
    "mist_v2_fused": Case(_mist("fused"), **MIST),
    "mist_v2_antidb": Case(_mist("antidb"), **MIST),
    "antidb": Case(_dreambooth(), **DREAMBOOTH),
    "antidb_vpred": Case(_dreambooth(velocity=True), **DREAMBOOTH),
    "antidb_target": Case(_shift, **DREAMBOOTH),
    "vgmshield_directed": Case(_vgmshield("target"), **SHIELD),
    "vgmshield_undirected": Case(_vgmshield("original"), descends=False, **SHIELD),
}


def checks(folder: Folder) -> Iterator[Row]:
    if not folder.has("vectors/a_inputs"):
        return
    parts = Parts(folder)
    for name, case in CASES.items():
        if folder.has(f"vectors/a_{name}"):
            yield from _Run(name, case, parts, folder.vectors(f"a_{name}")).rows()


@dataclass
class _Run:
    """One case: its pictures, and what the official code drew."""

    name: str
    case: Case
    parts: Parts
    official: Vectors
    losses: list[dict[str, float]] = field(default_factory=list)

    def rows(self) -> Iterator[Row]:
        terms, clean, start = self.case.terms(self.parts, self.official), self.clean(), self.start()
        yield from self.first(terms, clean, start)
        rows = [self.ran(terms, clean[row : row + 1], start[row : row + 1], row) for row in range(len(clean))]
        for number_of in (1, self.steps):
            ours = torch.cat([pictures[number_of - 1] for pictures in rows])
            yield flips(f"{self.name} after {number_of}", ours, self.official[f"x{number_of}"], at_least(number_of))
        for index, printed in enumerate(self.printed()):
            value = sum(self.total(terms, losses[index]) for losses in self.losses) / len(self.losses)
            yield number(f"{self.name} loss {index + 1}", value, printed, 1e-4 if index == 0 else 2e-3)

    def clean(self) -> Tensor:
        """[B,3,H,W] in [0,1]: as many as the official run had."""
        pictures = torch.cat([self.parts.picture("x_u8"), self.parts.picture("second_u8")])[: len(self.official["x1"])]
        return (
            pictures[..., : self.official["x1"].shape[-2], : self.official["x1"].shape[-1]]
            if not self.case.masked
            else self.greyed(pictures)
        )

    def greyed(self, pictures: Tensor) -> Tensor:
        """Grey where the editor repaints."""
        return pictures * self.kept() + 0.5 * (1 - self.kept())

    def kept(self) -> Tensor:
        return (self.parts.inputs["mask_u8"][None, None].float() / 255 < 0.5).float()

    def start(self) -> Tensor:
        """[B,3,H,W], not always a picture."""
        clean = self.clean()
        if self.case.start == "clean":
            return clean
        begun = clean + (self.official["draw.init_u01"][0].float() * 2 - 1) * self.case.budget / 2
        return begun.clamp(0, 1) if self.case.start == "projected" else begun

    @property
    def steps(self) -> int:
        return steps_of(self.official)

    def given(self, row: int) -> dict[str, Tensor]:
        """What was drawn for that picture, by what for it is asked."""
        drawn = {name.removeprefix("draw."): value for name, value in self.official.items() if name.startswith("draw.")}
        named = {purpose: drawn[name] for purpose, name in NAMES.items() if name in drawn}
        every = {**drawn, **({"post": drawn["post"]} if "post" in drawn else {}), **named}
        return {purpose: value[:, row : row + 1] for purpose, value in every.items() if value.ndim > 1}

    def first(self, terms: Terms, clean: Tensor, start: Tensor) -> Iterator[Row]:
        """The gradient at the first evaluation: of a batch, whose loss is a mean."""
        slopes = []
        if self.case.of is not None:
            term, share = self.case.of
            terms = {term: (share * terms[term][0], terms[term][1])}
        for row in range(len(clean)):
            leaf = (start[row : row + 1] * 2 - 1).requires_grad_()
            (draws, *_) = recorded(self.given(row), 1)
            objective = Objective(tuple(Term(name, weight, loss) for name, (weight, loss) in terms.items()))
            objective.backward(Observation(clean[row : row + 1]), Observation((leaf + 1) / 2, draws=draws))
            assert leaf.grad is not None
            slopes.append(leaf.grad / len(clean))
        scale = self.parts.scale if self.case.unscaled else 1.0
        yield from gradient(f"{self.name} gradient", torch.cat(slopes) / scale, self.official["grad1"])

    def ran(self, terms: Terms, clean: Tensor, start: Tensor, row: int) -> list[Tensor]:
        """The pictures in [-1,1] after each step of the official run, through `protect`."""
        case, sign = self.case, -1.0 if self.case.descends else 1.0
        space = Recording(GivenStart(case.budget * SIGNED, start))
        ran = protect(
            clean,
            Objective(tuple(Term(name, sign * weight, loss) for name, (weight, loss) in terms.items())),
            space=space,
            update=Sign(case.step * SIGNED, case.schedule),
            working_size=WorkingSize(max(clean.shape[-2:])),
            steps=self.steps,
            mask=self.kept() if case.masked else None,
            draws=iter(recorded(self.given(row), self.steps)),
        )
        pictures, losses = [], []
        for step in ran:
            if step.index:
                pictures.append((clean + space.last) * 2 - 1)
                losses.append(step.losses)
        self.losses.append(losses)
        return pictures

    def total(self, terms: Terms, losses: dict[str, float]) -> float:
        return sum(weight * losses[name] for name, (weight, _) in terms.items())

    def printed(self) -> list[float]:
        return self.parts.folder.values()["A"].get(self.name, {}).get("loss", [])
