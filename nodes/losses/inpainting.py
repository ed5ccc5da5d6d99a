"""Losses of protections against editors that repaint a part of the photo, and their nodes."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ...engine.losses import inpainting
from ...engine.losses.mask_drawing import Redrawn
from ..bridge.autograd import ordinary
from ..bridge.protect.loss_spec import LossSpec
from ..bridge.surrogates.diffusion import DiffusionSurrogate
from ..bridge.surrogates.early_exit import Reads
from ..bridge.surrogates.inpainting import check_inpainting, inpainting_setup, repaint_mask
from ..bridge.surrogates.run_surrogates import Surrogates
from ..inputs import weight_input
from ..sockets import DiffusionSurrogateSocket, LossSocket
from .i2vguard import picture_of

CATEGORY = "stillguard/losses/baselines"

MORE, EITHER, SAME = "more is repainted", "more or less", "as it is"
_VARIED: dict[str, Redrawn | None] = {MORE: Redrawn(), EITHER: Redrawn(either_way=True), SAME: None}


def early_noise(weight: float, surrogate: DiffusionSurrogate, mask: Tensor, *, varied: str = MORE) -> LossSpec:
    """mask: MASK [1,H,W], white where an editor repaints. varied: MORE, EITHER or SAME. Raises ValueError for a model that does not
    repaint, and for a mask of nothing or of everything.
    """
    check_inpainting(surrogate)
    repainted = repaint_mask(mask)

    def make(surrogates: Surrogates) -> inpainting.EarlyNoise:
        return inpainting.EarlyNoise(inpainting_setup(surrogates, surrogate, repainted), _VARIED[varied])

    return LossSpec("Early Noise", weight, make, reads=Reads(surrogate.model))


def repainted_picture(weight: float, surrogate: DiffusionSurrogate, mask: Tensor, target: Tensor | None) -> LossSpec:
    """mask: as of `early_noise`, with the same errors. target: IMAGE [1,H,W,C]; None stands for grey, as in the paper."""
    check_inpainting(surrogate)
    repainted, picture = repaint_mask(mask), None if target is None else picture_of(target)

    def make(surrogates: Surrogates) -> inpainting.Repainted:
        setup = inpainting_setup(surrogates, surrogate, repainted, steps=len(inpainting.FOUR_STEPS))
        return inpainting.Repainted(setup, None if picture is None else ordinary(picture))

    return LossSpec("Repainted", -weight, make, reads=Reads(surrogate.model))


def inpainting_surrogate_input() -> io.Custom.Input:
    tooltip = "From Diffusion Surrogate, with an inpainting checkpoint of SD 1.5, SD 2 or SDXL."
    return DiffusionSurrogateSocket.Input("diffusion_surrogate", tooltip=tooltip)


def repaint_mask_input() -> io.Mask.Input:
    return io.Mask.Input("repaint_mask", tooltip="White: what an editor repaints, such as all but the face. Black: what he keeps.")


def varied_input() -> io.Combo.Input:
    return io.Combo.Input(
        "mask_varies",
        options=list(_VARIED),
        default=MORE,
        tooltip="At each step another mask, as other editors would draw it; with more repainted, as published, less of the photo is left.",
    )


def aim_input() -> io.Image.Input:
    return io.Image.Input("target", optional=True, tooltip="What the editor is led to paint; grey, as in the paper, if not connected.")


class EarlyNoiseLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardEarlyNoiseLoss",
            display_name="Early Noise Loss",
            category=CATEGORY,
            description="An inpainting model that sees what is left of the photo goes wrong at its first step (DiffusionGuard).",
            search_aliases=["diffusionguard", "inpainting", "repaint", "editor", "mask"],
            inputs=[inpainting_surrogate_input(), repaint_mask_input(), weight_input(1.0), varied_input()],
            outputs=[LossSocket.Output("loss", display_name="loss")],
        )

    @classmethod
    def execute(cls, diffusion_surrogate: DiffusionSurrogate, repaint_mask: Tensor, weight: float, mask_varies: str) -> io.NodeOutput:
        return io.NodeOutput((early_noise(weight, diffusion_surrogate, repaint_mask, varied=mask_varies),))


class RepaintedLoss(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardRepaintedLoss",
            display_name="Repainted Loss",
            category=CATEGORY,
            description="Whatever an inpainting model makes around what is left of the photo turns grey (PhotoGuard's diffusion attack).",
            search_aliases=["photoguard", "diffusion attack", "inpainting", "repaint", "editor", "immunize"],
            inputs=[inpainting_surrogate_input(), repaint_mask_input(), weight_input(1.0), aim_input()],
            outputs=[LossSocket.Output("loss", display_name="loss")],
        )

    @classmethod
    def execute(
        cls, diffusion_surrogate: DiffusionSurrogate, repaint_mask: Tensor, weight: float, target: Tensor | None = None
    ) -> io.NodeOutput:
        return io.NodeOutput((repainted_picture(weight, diffusion_surrogate, repaint_mask, target),))


NODES: tuple[type[io.ComfyNode], ...] = (EarlyNoiseLoss, RepaintedLoss)
