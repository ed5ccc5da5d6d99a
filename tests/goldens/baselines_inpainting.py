"""The protections against models that repaint, against their authors' own code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from stillguard.engine import RGB, Objective, Observation, Sign, Term, WorkingSize, protect
from stillguard.engine.draws import Draws
from stillguard.engine.losses.inpainting import EarlyNoise, InpaintingSetup, Repainted
from stillguard.engine.spaces.l2 import RGBL2
from stillguard.engine.surrogates.denoiser import EVERY
from stillguard.engine.transforms import EoT
from stillguard.engine.update import Normalised
from torch import Tensor

from .baselines_parts import SIGNED, Parts, Recorded, at_least, steps_of
from .dormant import Recording
from .folder import Folder, Row, flips, gradient, number

NAME = "repainted"
# Radius in the norm of [-1,1], or None for an L-infinity budget, and the step.
PHOTOGUARD = {"l2": (16.0, 1.0), "l2_tight": (1.5, 1.0)}
LINF, GUARD = (0.1, 0.006), (16 / 255, 1 / 255)


def checks(folder: Folder) -> Iterator[Row]:
    if not folder.has("vectors/a_inputs", "weights/inpaint_conv_in"):
        return
    parts = Parts(folder)
    for name in sorted(folder.values()["A"]):
        if folder.has(f"vectors/a_{name}") and name.startswith(("photoguard_diffusion", "diffusionguard")):
            run = Guard if name.startswith("diffusionguard") else PhotoGuard
            yield from run(name, parts, folder.vectors(f"a_{name}")).rows()


@dataclass(eq=False)
class Run:
    """One case of the set."""

    name: str
    parts: Parts
    official: Mapping[str, Tensor]
    clean: Tensor = field(init=False)
    kept: Tensor | float = field(default=1.0, init=False)

    def __post_init__(self) -> None:
        raise NotImplementedError

    def rows(self) -> Iterator[Row]:
        yield from gradient(f"{self.name} gradient", self.slope(), self.official["grad1"])
        pictures, losses = self.ran()
        yield from self.compared(pictures)
        printed = torch.tensor(self.parts.folder.values()["A"][self.name]["loss"]).view(-1, self.reps).mean(1)
        for index, (ours, value) in enumerate(zip(losses, printed.tolist(), strict=True)):
            # As the set's README suggests.
            yield number(f"{self.name} loss {index + 1}", self.sign * ours, value, 1e-4 if index == 0 else 2e-3)

    @property
    def sign(self) -> float:
        """Of the loss that is printed."""
        return 1.0

    @property
    def steps(self) -> int:
        return steps_of(self.official)

    @property
    def reps(self) -> int:
        """Evaluations whose gradients are averaged in each step."""
        return len(self.official["draw.latents"]) // self.steps

    def draws(self) -> list[Draws]:
        raise NotImplementedError

    def term(self) -> Term:
        raise NotImplementedError

    def slope(self) -> Tensor:
        """Of what is minimised, with respect to the picture in [-1,1]."""
        leaf = (self.clean * 2 - 1).requires_grad_()
        for draws in self.draws()[: self.reps]:
            Objective((self.term(),)).backward(Observation(self.clean), Observation((leaf + 1) / 2, draws=draws))
        assert leaf.grad is not None
        return -leaf.grad * self.kept / self.reps

    def space(self) -> RGB | RGBL2:
        raise NotImplementedError

    def update(self) -> Sign | Normalised:
        raise NotImplementedError

    def ran(self) -> tuple[list[Tensor], list[float]]:
        """Pictures in [-1,1] and the loss of each step, through `protect`."""
        space = Recording(self.space())
        ran = protect(
            self.clean,
            Objective((self.term(),)),
            space=space,
            update=self.update(),
            eot=EoT(None, None, None, None, samples=self.reps),
            working_size=WorkingSize(max(self.clean.shape[-2:])),
            steps=self.steps,
            mask=self.kept if isinstance(self.kept, Tensor) else None,
            draws=iter(self.draws()),
        )
        pictures, losses = [], []
        for step in ran:
            if step.index:
                pictures.append((self.clean + space.last) * 2 - 1)
                losses.append(step.losses[NAME])
        return pictures, losses

    def compared(self, pictures: list[Tensor]) -> Iterator[Row]:
        raise NotImplementedError


class PhotoGuard(Run):
    def __post_init__(self) -> None:
        mask = (self.parts.inputs["mask_u8"][None, None].float() / 255 >= 0.5).float()
        self.kept, self.mask = 1 - mask, mask
        self.clean = self.parts.picture("x_u8") * self.kept + 0.5 * mask

    @cached_property
    def kind(self) -> str:
        return self.name.removeprefix("photoguard_diffusion_")

    @cached_property
    def values(self) -> list[int]:
        timesteps: list[int] = self.parts.folder.values()["A"][self.name]["timesteps"]
        return timesteps

    def draws(self) -> list[Draws]:
        every, count = self.official, len(self.values)
        given = {"latents": every["draw.latents"], "left": every["draw.post_masked"]}
        given |= {f"step {index}": every["draw.ddim_eta_noise"][index::count] for index in range(count)}
        return [Recorded(given, k) for k in range(self.steps * self.reps)]

    def term(self) -> Term:
        setup = InpaintingSetup(self.parts.inpainting, self.parts.vae, self.mask, "left")
        target = self.parts.picture("target_u8") if self.kind == "linf" else None
        return Term(NAME, -1.0, Repainted(setup, target, tuple(EVERY[timestep] for timestep in self.values)))

    def space(self) -> RGB | RGBL2:
        if self.kind not in PHOTOGUARD:
            return RGB(LINF[0] * SIGNED, start_from="clean")
        values = self.kept.expand_as(self.clean).sum() if isinstance(self.kept, Tensor) else self.clean.numel()
        return RGBL2(PHOTOGUARD[self.kind][0] * SIGNED / float(values) ** 0.5, start_from="clean")

    def update(self) -> Sign | Normalised:
        if self.kind not in PHOTOGUARD:
            return Sign(LINF[1] * SIGNED)
        return Normalised(PHOTOGUARD[self.kind][1] * SIGNED / self.clean.numel() ** 0.5)

    def compared(self, pictures: list[Tensor]) -> Iterator[Row]:
        for index in (1, self.steps):
            ours, official = pictures[index - 1], self.official[f"x{index}"]
            if self.kind in PHOTOGUARD:
                yield Row(f"{self.name} after {index}", float((ours - official).abs().max()), 1e-4, "of the range [-1,1]")
            else:
                yield flips(f"{self.name} after {index}", ours, official, at_least(index))


class Guard(Run):
    @property
    def sign(self) -> float:
        return -1.0

    def __post_init__(self) -> None:
        self.clean = self.official["src_u8"].float() / 255

    def draws(self) -> list[Draws]:
        masks = self.official["used_masks"][:, None].repeat_interleave(self.reps, dim=0)
        given = {"latents": self.official["draw.latents"], "left": self.official["draw.post_masked"], "mask": masks}
        return [Recorded(given, k) for k in range(self.steps * self.reps)]

    def term(self) -> Term:
        shape = tuple(self.official["used_masks"][:1].shape)
        setup = InpaintingSetup(self.parts.inpainting, self.parts.vae, torch.zeros(shape), "left")
        level = EVERY[self.parts.folder.values()["A"][self.name]["timestep"]]

        def varied(mask: Tensor, draws: Draws) -> Tensor:
            return draws.normal("mask", tuple(mask.shape))

        return Term(NAME, 1.0, EarlyNoise(setup, varied, level, samples=self.official["draw.latents"].shape[1]))

    def space(self) -> RGB | RGBL2:
        return RGB(GUARD[0] * SIGNED, start_from="clean")

    def update(self) -> Sign | Normalised:
        return Sign(GUARD[1] * SIGNED)

    def compared(self, pictures: list[Tensor]) -> Iterator[Row]:
        masks = self.official["used_masks"]
        # What is kept of the first is what the network saw in the second iteration: grey where it repaints.
        seen = pictures[0] * (masks[1:2] < 0.5)
        yield flips(f"{self.name} after 1", seen, self.official["x1"], at_least(1))
        yield flips(f"{self.name} after {self.steps}", pictures[-1], self.official[f"x{self.steps}"], at_least(self.steps))
