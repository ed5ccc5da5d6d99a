"""An autoencoder's latents, decoded: what is changed lies on the decoder's manifold, which purifiers know as well."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from ..observation import Cut, Features, LatentEncoder, WorkingSize, uncut
from ..picture import resize
from ..surrogates.ddim import DDIM, PromptedModel, fitted_prompt, guided, own_prompt
from ..update import Variables
from .space import as_file

# Stable Diffusion's schedule has a thousand steps, and DDIM in twenty goes through 1, 51, 101 ...; at 0 itself there is no noise.
_FIRST, _SECOND, _NONE = 1 / 999, 51 / 999, 1e-9
_REFINEMENTS = 8
_GUIDANCE = 2.5
_NEAR, _AWAY = 0.01, 0.1


class Autoencoder(LatentEncoder, Protocol):
    def decode(self, latent: Tensor, /) -> Tensor:
        """Latent [B,C,h,w] -> image [B,3,H,W], near or in [0,1]."""
        ...


class Denoising(Protocol):
    """What happens to latents between the optimiser and the decoder."""

    @property
    def model(self) -> PromptedModel: ...

    def inverted(self, latents: Tensor) -> Features:
        """Latents of a picture, as the model has them -> those that are optimised, then what `denoised` needs beside them."""
        ...

    def denoised(self, latents: Tensor, *beside: Tensor) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class OneStep:
    """The last step of DDIM in twenty: from the noise of step 51 to that of step 1, under the negative prompt.

    With the schedule of Stable Diffusion z' = 1.0248 z - 0.1867 noise. The inversion is refined, so that the step leads back.
    """

    model: PromptedModel

    def inverted(self, latents: Tensor) -> Features:
        predict = own_prompt(self.model, negative=True)
        return (DDIM(self.model).inverted(latents, _FIRST, _SECOND, predict, refinements=_REFINEMENTS),)

    def denoised(self, latents: Tensor, *beside: Tensor) -> Tensor:
        ddim = DDIM(self.model)
        return ddim.moved(latents, ddim.noise(latents, _SECOND, own_prompt(self.model, negative=True)), _SECOND, _FIRST)


@dataclass(frozen=True, eq=False)
class AsPublished:
    """The step as DiffAttack's code takes it, on which Silencer's second stage is built: z' = 1.00043 z - 0.01214 noise.

    Latents with the noise of step 51 are stepped as if they had that of step 1, guided by 2.5 away from an empty prompt that was fitted.
    """

    model: PromptedModel

    def inverted(self, latents: Tensor) -> Features:
        ddim = DDIM(self.model)
        noisy = ddim.inverted(latents, _FIRST, _SECOND, own_prompt(self.model, negative=True))
        return (noisy, fitted_prompt(ddim, self.model, noisy, latents, (_FIRST, _NONE), guidance=_GUIDANCE))

    def denoised(self, latents: Tensor, *beside: Tensor) -> Tensor:
        ddim = DDIM(self.model)
        return ddim.moved(latents, ddim.noise(latents, _FIRST, guided(self.model, beside[0], _GUIDANCE)), _FIRST, _NONE)


@dataclass(frozen=True, eq=False)
class Region:
    """A part of the picture [1 or B,1,H,W] in [0,1] that after step `at` is treated apart from the rest.

    frozen: it stays as that step left it, and the rest goes on. Otherwise it alone goes on, and the rest is the clean picture.
    """

    at: int
    mask: Tensor
    frozen: bool


class _Parts(NamedTuple):
    """What the variables are. All but the first stay as they are, since no gradient flows through them.

    latents: [B,C,h,w], in standard deviations of the clean picture's, or as the denoiser has them. origin: those of the clean picture.
    shown: what is decoded of these [B,3,h,w]. held: what was decoded when the region froze; is_held: [B,1,1,1], 1 since then.
    spread: [B,1,1,1], of which `latents` are multiples.
    """

    latents: Tensor
    origin: Tensor
    shown: Tensor
    held: Tensor
    is_held: Tensor
    spread: Tensor
    prompt: Tensor | None = None

    @property
    def beside(self) -> tuple[Tensor, ...]:
        """What the denoising needs."""
        return () if self.prompt is None else (self.prompt.detach(),)

    @property
    def variables(self) -> Variables:
        return tuple(part for part in self if part is not None)


@dataclass(frozen=True, eq=False)
class Latent:
    """Latents of an autoencoder [B,C,h,w], at a working size; the photo keeps its own. There is no budget in pixels.

    vae: encoder and decoder D. denoising: None decodes the latents z themselves. form: "difference" shows x + D(z) - D(E(x)), so that
    what the autoencoder alone does to a picture does not enter the photo and the photo keeps its detail; "decoded" shows D(z), as
    Silencer (Yuan et al., CVPR 2025) does. Either is blended into the photo by the mask. trust: how far each value of z may go from the
    clean picture's, in standard deviations of these latents; None is without end. start_from: "near" begins beside the clean picture, by
    a hundredth of a standard deviation, since distances from it have no gradient there; "clean" begins at it. A unit of a step is a
    hundredth of a standard deviation too.
    Raises ValueError for a trust region of nothing, and, when a run begins, for a region of another size than the photo.
    """

    vae: Autoencoder
    denoising: Denoising | None = None
    working_size: WorkingSize = field(default_factory=WorkingSize)
    form: Literal["difference", "decoded"] = "difference"
    trust: float | None = None
    start_from: Literal["near", "clean"] = "near"
    region: Region | None = None
    index: int = 0

    def __post_init__(self) -> None:
        if self.trust is not None and not self.trust > 0:
            raise ValueError(f"The trust region is {self.trust:g}: choose more than 0, or none.")

    def freeze(self, at: int, mask: Tensor) -> Latent:
        """The same space, in which after step `at` what the mask [1 or B,1,H,W] covers stays to the bit (Silencer's face)."""
        return replace(self, region=Region(at, mask, frozen=True))

    def composite(self, at: int, mask: Tensor) -> Latent:
        """The same space, in which after step `at` only what the mask covers changes (DiffAttack, Chen et al. 2024); 0: from the start."""
        return replace(self, region=Region(at, mask, frozen=False))

    @property
    def budget(self) -> None:
        return None

    @property
    def unit(self) -> float:
        return _NEAR

    @property
    def surrogates(self) -> tuple[object, ...]:
        return (self.vae,) if self.denoising is None else (self.denoising.model, self.vae)

    def at(self, index: int) -> Latent:
        return self if self.region is None else replace(self, index=index)

    def start(self, clean: Tensor, mask: Tensor | None, generator: torch.Generator) -> Variables:
        begun = self.variables(clean, mask, clean)
        return begun if self.start_from == "clean" else self._moved(clean, mask, begun, _NEAR, generator)

    def inside(self, clean: Tensor, mask: Tensor | None, generator: torch.Generator) -> Variables:
        return self._moved(clean, mask, self.variables(clean, mask, clean), _AWAY, generator)

    def _moved(self, clean: Tensor, mask: Tensor | None, begun: Variables, size: float, generator: torch.Generator) -> Variables:
        noise = torch.randn(begun[0].shape, generator=generator).to(begun[0])
        return self.project(clean, mask, (begun[0] + size * noise, *begun[1:]))

    def variables(self, clean: Tensor, mask: Tensor | None, picture: Tensor) -> Variables:
        self._check_region(clean)
        encoded = self._encoded(clean)
        spread = torch.ones_like(encoded[:, :1, :1, :1])
        if self.denoising is None:
            spread = encoded.std(dim=(1, 2, 3), keepdim=True).clamp_min(1e-6)
        origin, *beside = self._inverted(encoded / spread)
        parts = _Parts(origin, origin, origin, origin, torch.zeros_like(spread), spread, *beside)
        shown = self._decoded(parts)
        parts = parts._replace(shown=shown, held=shown)
        if picture is not clean:
            parts = parts._replace(latents=self._inverted(self._encoded(picture) / spread)[0])
        if self.region is not None and self.region.frozen and self.index > self.region.at:
            # Frozen since before these variables: 0 is the clean picture's region, and another space may have had a turn.
            parts = parts._replace(held=self._decoded(parts), is_held=torch.ones_like(spread))
        return parts.variables

    def render(self, clean: Tensor, mask: Tensor | None, variables: Variables, cut: Cut = uncut) -> Tensor:
        parts, region = _Parts(*variables), self.region
        change = self._change(clean, parts, self._decoded(parts, cut))
        if region is not None and self.index > region.at:
            place = region.mask.to(change)
            if region.frozen:
                place = place * parts.is_held.detach()
                change = place * self._change(clean, parts, parts.held.detach()) + (1 - place) * change
            else:
                change = place * change
        return (clean + (change if mask is None else mask * change)).clamp(0, 1)

    def project(self, clean: Tensor, mask: Tensor | None, variables: Variables) -> Variables:
        """Also holds what freezes: after its step, or after the next one where a picture's was skipped."""
        parts, region = _Parts(*variables), self.region
        if self.trust is not None:
            parts = parts._replace(latents=parts.origin + (parts.latents - parts.origin).clamp(-self.trust, self.trust))
        if region is not None and region.frozen and self.index >= region.at:
            # In that very step always, since the run may have begun with a projection.
            stays = parts.is_held * (self.index > region.at)
            if not bool(stays.all()):
                held = torch.where(stays > 0, parts.held, self._decoded(parts))
                parts = parts._replace(held=held, is_held=torch.ones_like(stays))
        return parts.variables

    def result(self, clean: Tensor, mask: Tensor | None, variables: Variables) -> Tensor:
        return as_file(clean, mask, self.render(clean, mask, variables))

    def _encoded(self, picture: Tensor) -> Tensor:
        """[B,C,h,w], as the denoiser has them where there is one."""
        latents = self.vae.encode(self.working_size(picture))
        return latents if self.denoising is None else self.denoising.model.scaled(latents)

    def _inverted(self, latents: Tensor) -> Features:
        """Those that are optimised, then what the denoising needs beside them."""
        return (latents,) if self.denoising is None else self.denoising.inverted(latents)

    def _decoded(self, parts: _Parts, cut: Cut = uncut) -> Tensor:
        latents, denoising = parts.latents * parts.spread.detach(), self.denoising
        if denoising is not None:
            noisy, model = latents, denoising.model
            (latents,) = cut(model, "rendered", lambda: (model.unscaled(denoising.denoised(noisy, *parts.beside)),))
        return self.vae.decode(latents)

    def _change(self, clean: Tensor, parts: _Parts, decoded: Tensor) -> Tensor:
        """Of the photo, [B,1 or 3,H,W]."""
        size = (clean.shape[-2], clean.shape[-1])
        change = resize(decoded - parts.shown.detach(), size) if self.form == "difference" else resize(decoded, size) - clean
        return change if clean.shape[1] == 3 else change.mean(1, keepdim=True)

    def _check_region(self, clean: Tensor) -> None:
        if self.region is not None and self.region.mask.shape[-2:] != clean.shape[-2:]:
            height, width = self.region.mask.shape[-2:]
            raise ValueError(
                f"The mask of the region is {width}x{height} but the picture is {clean.shape[-1]}x{clean.shape[-2]}: "
                "resize the mask to the picture first."
            )
