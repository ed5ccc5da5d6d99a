"""Protections against diffusion models of pictures as the papers have them, each the whole method in one node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from comfy_api.latest import io
from torch import Tensor

from ...engine.spaces import RGB
from ...engine.transforms import EoT
from ...engine.update import Sign
from ...engine.weights.catalogue import catalogue
from ..bridge.model_files import choices
from ..bridge.protect.loss_spec import Losses
from ..bridge.protect.run import Settings, SpaceSetup, chosen_space, protect_images
from ..bridge.surrogates.diffusion import DiffusionSurrogate
from ..inputs import (
    LOW_MEMORY,
    VICTIMS_VAE,
    eot_input,
    mask_input,
    memory_input,
    protected_outputs,
    seed_input,
    space_input,
    steps_input,
    working_size_input,
)
from ..losses.baselines import (
    denoising_error,
    diffusion_surrogate_input,
    embedding_angle,
    latent_angle,
    noise_alignment,
    pattern_input,
    score_distillation,
    target_score,
    texture,
)
from ..losses.dormant import lpips_penalty

if TYPE_CHECKING:
    import comfy.clip_vision
    import comfy.sd

CATEGORY = "stillguard/methods/baselines"
OURS, PUBLISHED = "recommended", "as published"
# Numbers in the latent of the papers' 512 px, over which Mist's and Diff-Protect's codes add up where we take means.
_LATENT = 4 * 64 * 64

Make = Callable[[DiffusionSurrogate, Tensor | None, bool], Losses]


@dataclass(frozen=True)
class Method:
    """losses: (surrogate, target, as published) -> they. budget, step: the published ones, in 8-bit levels. start_from: see RGB.

    targeted: whether there is a picture that the photo is led to.
    """

    losses: Make
    budget: float = 16.0
    step: float = 1.0
    start_from: Literal["budget", "clean"] = "budget"
    targeted: bool = False


def _drawn(published: bool) -> str | None:
    """The published codes draw latents; the mean is the same without the noise."""
    return "posterior" if published else None


def _mist(weight: float, semantic: float) -> Make:
    """weight: of the sum of squares between the latents."""

    def make(surrogate: DiffusionSurrogate, target: Tensor | None, published: bool) -> Losses:
        posterior, aim = _drawn(published), "target's posterior" if published else None
        drawn = texture(-weight * _LATENT, surrogate, target, posterior=posterior, drawn=aim)
        return (drawn, denoising_error(semantic, surrogate, posterior=posterior)) if semantic else (drawn,)

    return make


def _sdst(surrogate: DiffusionSurrogate, target: Tensor | None, published: bool) -> Losses:
    again, aim = ("second posterior", "target's posterior") if published else (None, None)
    return (
        score_distillation(2.5, surrogate, posterior=_drawn(published)),
        texture(-1.0, surrogate, target, posterior=again, drawn=aim),
    )


def _fused(surrogate: DiffusionSurrogate, target: Tensor | None, published: bool) -> Losses:
    # The code adds the distance from the target where it means to subtract it.
    return noise_alignment(_LATENT, surrogate), texture(100.0 if published else -100.0, surrogate, target)


def _denoising(away: bool) -> Make:
    return lambda surrogate, target, published: (denoising_error(1.0, surrogate, away=away, posterior=_drawn(published)),)


def _distilled(away: bool) -> Make:
    return lambda surrogate, target, published: (score_distillation(1.0, surrogate, away=away, posterior=_drawn(published)),)


# Budgets of Mist v2 and Anti-DreamBooth are in [-1,1] in their codes: half as many levels.
METHODS = {
    "AdvDM (+)": Method(_denoising(away=True)),
    "AdvDM (-)": Method(_denoising(away=False)),
    "SDS (+)": Method(_distilled(away=True), start_from="clean"),
    "SDS (-)": Method(_distilled(away=False), start_from="clean"),
    "SDST (-)": Method(_sdst, start_from="clean", targeted=True),
    "texture only": Method(_mist(1.0, 0.0), targeted=True),
    "Mist v1": Method(_mist(1.0, 1e4), targeted=True),
    "Mist v2 (ACE)": Method(lambda surrogate, target, _: (target_score(1.0, surrogate, target),), 4.0, 0.6375, "clean", True),
    "Mist v2, fused": Method(_fused, 4.0, 0.6375, "clean", True),
    "Anti-DreamBooth (FSMG)": Method(_denoising(away=True), 6.375, 0.6375, "clean"),
}


def settings_input() -> io.DynamicCombo.Input:
    budget = io.Float.Input("budget", default=8.0, min=1.0, max=64.0, step=0.5, tooltip="Largest change of a channel in 8-bit levels.")
    step = io.Float.Input("step", default=1.0, min=0.01, max=64.0, step=0.01, tooltip="How far each pixel moves per step, in 8-bit levels.")
    return io.DynamicCombo.Input(
        "settings",
        options=[io.DynamicCombo.Option(OURS, [budget, step]), io.DynamicCombo.Option(PUBLISHED, [])],
        tooltip="As published: the method's own budget and step, and what its code draws and mistakes; the help page lists them.",
    )


@dataclass(frozen=True)
class _How:
    """How a run goes: what `_common_inputs` give."""

    steps: int
    seed: int
    working_size: int
    memory: str
    eot: EoT | None = None
    mask: Tensor | None = None
    space: SpaceSetup | None = None

    def run(self, image: Tensor, losses: Losses, pixels: RGB, step: float, node_id: str | None) -> io.NodeOutput:
        space = chosen_space(self.space, pixels, image, longest=self.working_size, steps=self.steps)
        settings = Settings(space, Sign(step), self.eot, self.working_size, self.steps, self.seed, self.memory == LOW_MEMORY)
        return io.NodeOutput(*protect_images(image, losses, settings, mask=self.mask, node_id=node_id))


def _common_inputs() -> list[io.Input]:
    """How the run goes, with what is optional behind."""
    return [
        steps_input(),
        seed_input(),
        working_size_input(),
        memory_input(),
        eot_input("Makes the protection survive transformations. The papers have none."),
        mask_input(),
        space_input(),
    ]


class DiffusionBaseline(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardDiffusionBaseline",
            display_name="Diffusion Baseline",
            category=CATEGORY,
            description=(
                "Protections against diffusion models of pictures: AdvDM, SDS, Mist, ACE, Anti-DreamBooth. To compare with, and for who "
                "has no more than a Stable Diffusion checkpoint. Protection is never promised: attack the result yourself."
            ),
            search_aliases=["protect", "advdm", "sds", "mist", "ace", "anti-dreambooth", "glaze", "baseline", "stillguard"],
            inputs=[
                io.Image.Input("image"),
                diffusion_surrogate_input(),
                io.Combo.Input("method", options=list(METHODS), tooltip="See the help page: what each minimises, and its paper."),
                settings_input(),
                *_common_inputs(),
                pattern_input(),
            ],
            outputs=protected_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        diffusion_surrogate: DiffusionSurrogate,
        method: str,
        settings: dict[str, object],
        target: Tensor | None = None,
        **how: Any,
    ) -> io.NodeOutput:
        chosen, published = METHODS[method], settings["settings"] == PUBLISHED
        if target is not None and not chosen.targeted:
            known = ", ".join(name for name, other in METHODS.items() if other.targeted)
            raise ValueError(f"{method} leads the photo to no target: disconnect `target`, or choose one of {known}.")
        losses = chosen.losses(diffusion_surrogate, target, published)
        budget, step = _sizes(settings, chosen.budget, chosen.step)
        pixels = RGB(budget, start_from=chosen.start_from if published else "budget")
        return _How(**how).run(image, losses, pixels, step, cls.hidden.unique_id)


# VGMShield's code counts in [-1,1] too.
SHIELD_BUDGET, SHIELD_STEP = 2.0, 0.5


class VGMShield(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardVGMShield",
            display_name="VGMShield",
            category=CATEGORY,
            description=(
                "The defence of VGMShield (Pang et al. 2024): what Stable Video Diffusion is told of a photo, an embedding and a latent, "
                "is led to another picture, or away from the photo. Protection is never promised: attack the result yourself."
            ),
            search_aliases=["protect", "svd", "video", "baseline", "stillguard"],
            inputs=[
                io.Image.Input("image"),
                io.Vae.Input("vae", tooltip=VICTIMS_VAE),
                io.ClipVision.Input("clip_vision", tooltip="The image encoder of Stable Video Diffusion, ViT-H/14 of OpenCLIP."),
                settings_input(),
                io.Combo.Input(
                    "lpips_backbone",
                    options=choices([catalogue()["lpips_vgg16"]]),
                    advanced=True,
                    tooltip="VGG16 weights in models/stillguard, for LPIPS: kept small with a target, and made large without.",
                ),
                *_common_inputs(),
                io.Image.Input(
                    "target", optional=True, tooltip="Directed: to this picture. Not connected: undirected, away from the photo."
                ),
            ],
            outputs=protected_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        vae: comfy.sd.VAE,
        clip_vision: comfy.clip_vision.ClipVisionModel,
        settings: dict[str, object],
        lpips_backbone: str,
        target: Tensor | None = None,
        **how: Any,
    ) -> io.NodeOutput:
        lpips = lpips_penalty(1.0, lpips_backbone, 0.0)
        losses = (
            lpips if target is not None else replace(lpips, weight=-lpips.weight),
            embedding_angle(1.0, clip_vision, target),
            latent_angle(1.0, vae, target),
        )
        budget, step = _sizes(settings, SHIELD_BUDGET, SHIELD_STEP)
        pixels = RGB(budget, start_from="clean" if settings["settings"] == PUBLISHED else "budget")
        return _How(**how).run(image, losses, pixels, step, cls.hidden.unique_id)


def _sizes(settings: dict[str, Any], budget: float, step: float) -> tuple[float, float]:
    """Budget and step, in 8-bit levels: the published ones where they are asked for."""
    return (budget, step) if settings["settings"] == PUBLISHED else (float(settings["budget"]), float(settings["step"]))


NODES: tuple[type[io.ComfyNode], ...] = (DiffusionBaseline, VGMShield)
