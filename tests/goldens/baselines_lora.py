"""Mist v2's surrogate that learns: two rounds of the attack with the training of low-rank adapters between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

import torch
from stillguard.engine import Objective, Sign, Term, WorkingSize, protect
from stillguard.engine.draws import Draws
from stillguard.engine.learning import Learns
from stillguard.engine.losses.baselines import TargetScore
from stillguard.engine.losses.learning import CoTrained, CoTraining, Prior
from stillguard.engine.observation import Features
from stillguard.engine.surrogates.lora import Adapters, adaptable
from stillguard.engine.surrogates.picture_setup import PictureSetup
from torch import Tensor

from .baselines_parts import SIGNED, Model, Parts, Recorded, at_least
from .baselines_protections import MIST
from .dormant import Recording
from .folder import Folder, Row, flips, number, relative
from .hallo_loss import GivenStart

NAME = "mist_v2_lora_cotraining"
TRAINED, CLASS = "mist_v2_training_prompt", "a_picture"
# What the README says of it and no file holds: the weight of the class, and how AdamW and clipping are set, which are CoTraining's own.
PRIOR = 0.1
DRAWN = {"post": "post", "noise": "noise", "timestep": "t"}


class Adapted(Model):
    """Behind its adapters, in double precision, in which alone the set was checked: where a gradient vanishes, AdamW makes the rounding of
    fp32 as large as the others."""

    def __init__(self, adapters: Adapters, parts: Parts, prompt: str) -> None:
        super().__init__(parts.unet.double(), parts.inputs[f"text.{prompt}"].double(), parts.scale, parts.signal)
        self.adapters = adapters

    def estimate(self, noisy: Tensor, level: float, **options: Any) -> Features:
        with self.adapters.applied():
            return super().estimate(noisy.double(), level, **options)


class Initial:
    """Standard normal numbers in which matrices begin, by the places of their layers in the official order."""

    def __init__(self, official: Mapping[str, Tensor], order: list[str]) -> None:
        self._drawn = {f"down {name}": official[f"draw.lora_down_init.{place:02d}"].float() for place, name in enumerate(order)}

    def integer(self, purpose: str, below: int) -> int:
        raise KeyError(purpose)

    def normal(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        assert tuple(self._drawn[purpose].shape) == shape
        return self._drawn[purpose]


def checks(folder: Folder) -> Iterator[Row]:
    if folder.has("vectors/a_inputs", f"vectors/a_{NAME}"):
        yield from _Run(Parts(folder), folder.vectors(f"a_{NAME}"), folder.values()["A"][NAME]).rows()


class _Run:
    def __init__(self, parts: Parts, official: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        self.parts, self.official, self.values = parts, official, values
        self.order: list[str] = values["lora_module_order"]
        self.rounds = [len(official[f"draw.t_pgd_{which}"]) for which in ("first", "second")]
        # Of the instance and of the class in turn.
        self.looks = len(official["draw.t_train"])
        layers = adaptable(parts.unet)
        rank = len(official[f"lora_down.{self.order[0]}"])
        self.adapters = Adapters(layers, rank=rank)
        self.other_layers = float(list(layers) != self.order)

    def setup(self, prompt: str, posterior: str | None = None) -> PictureSetup:
        return PictureSetup(Adapted(self.adapters, self.parts, prompt), self.parts.vae, posterior)

    def loss(self) -> CoTrained:
        attacked, official = self.setup("a_picture"), self.official
        lessons = CoTraining(
            adapters=self.adapters,
            instance=self.setup(TRAINED, "post"),
            owners=[attacked.model],
            prior=Prior(self.setup(CLASS, "post"), official["class_u8"].float() / 255, PRIOR),
            every=self.rounds[0],
            steps=self.looks // 2,
            draws=lambda generator: iter(self.trained()),
        )
        return CoTrained(TargetScore(attacked, official["target_u8"].float() / 255, official["draw.post_target"]), lessons)

    def trained(self) -> list[Draws]:
        drawn = {purpose: self.official[f"draw.{name}_train"] for purpose, name in DRAWN.items()}
        return [Initial(self.official, self.order), *(Recorded(drawn, k) for k in range(self.looks))]

    def attacked(self) -> list[Draws]:
        rounds = ("first", "second")
        drawn = {
            purpose: torch.cat([self.official[f"draw.{name}_pgd_{which}"] for which in rounds])
            for purpose, name in DRAWN.items()
            if purpose != "post"
        }
        return [Recorded(drawn, k) for k in range(sum(self.rounds))]

    def rows(self) -> Iterator[Row]:
        yield Row(f"{NAME} layers", self.other_layers, 0.0, "differs")
        loss, clean = self.loss(), self.official["x_u8"].float() / 255
        assert isinstance(loss, Learns)
        space = Recording(GivenStart(MIST["budget"] * SIGNED, clean))
        run = protect(
            clean,
            Objective((Term("score", -1.0, loss),)),
            space=space,
            update=Sign(MIST["step"] * SIGNED, "constant"),
            working_size=WorkingSize(max(clean.shape[-2:])),
            steps=sum(self.rounds),
            draws=iter(self.attacked()),
        )
        after = dict(zip(("first", "second"), (self.rounds[0], sum(self.rounds)), strict=True))
        with closing(run):
            for step in run:
                if step.index:
                    official = self.values["pgd_losses"][step.index - 1]
                    yield number(f"{NAME} loss {step.index}", -step.losses["score"], official, 1e-4 if step.index == 1 else 2e-3)
                for which, index in after.items():
                    if step.index == index:
                        picture = (clean + space.last) * 2 - 1
                        yield flips(f"{NAME} after the {which} round", picture, self.official[f"x_after_{which}_pgd"], at_least(index))
                if step.index == sum(self.rounds):
                    yield from self.learned(loss.lessons)

    def learned(self, lessons: CoTraining) -> Iterator[Row]:
        for index, (ours, theirs) in enumerate(zip(lessons.losses, self.values["train_losses_printed_6_digits"], strict=True)):
            yield number(f"{NAME} training loss {index + 1}", ours, theirs, 1e-4)
        for name, (down, up) in lessons.adapters.matrices.items():
            for which, ours in (("down", down), ("up", up)):
                yield relative(f"{NAME} {which} of {name}", ours, self.official[f"lora_{which}.{name}"], 1e-3)
