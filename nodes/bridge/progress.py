"""Progress bar, live preview, live numbers and interruption of a protection run."""

from __future__ import annotations

import logging
import time

import comfy.model_management
import comfy.utils
import torch
from PIL import Image
from server import PromptServer
from torch import Tensor
from torch.nn import functional as F

from ...engine.attack import Step
from ...engine.conversions import in_colour, to_pillow
from ...engine.picture import amplified, split_alpha

log = logging.getLogger("stillguard")

RUN_IN_FP32 = "{} gives numbers that are not finite in half precision and is run in fp32, which is slower."

PREVIEW_SIDE = 512
SECONDS_BETWEEN_PREVIEWS = 0.5
LARGEST_SHARE = 0.05  # of the run's time that previews of a large photo may take


def show_text(text: str, *, node_id: str | None) -> None:
    """Write a line below a node in the page; nothing without a server, as in a script."""
    instance = getattr(PromptServer, "instance", None)
    if instance is not None and node_id is not None:
        # As bytes, since core refuses half a surrogate pair, which a title that was cut in the middle may hold.
        instance.send_progress_text(text.encode("utf-8", "replace"), node_id)


class Progress:
    """Reports every step; at most twice a second and at the end it also shows picture, amplified perturbation and losses."""

    def __init__(self, total: int, *, node_id: str | None) -> None:
        self._bar = comfy.utils.ProgressBar(total, node_id=node_id)
        self._node_id = node_id
        self._next = float("-inf")
        self._warnings: list[str] = []

    def warn(self, warning: str) -> None:
        """To the log, and below the node in the page from now on."""
        log.warning("%s", warning)
        self._warnings.append(warning)
        self._show("")

    def end(self, text: str) -> None:
        """What is to be said when all is done; warnings stay below it."""
        self._show(text)

    def _show(self, text: str) -> None:
        show_text("\n".join(line for line in (text, *self._warnings) if line), node_id=self._node_id)

    def report(self, step: Step, *, done: int, clean: Tensor, budget: float | None) -> None:
        """`done` of all steps are done; `budget` as for `amplified`. Raises ComfyUI's interruption when the user has cancelled."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        began = time.monotonic()
        due = began >= self._next or done == self._bar.total
        preview = ("JPEG", _preview(clean, step.image, budget), PREVIEW_SIDE * 2) if due else None
        self._bar.update_absolute(done, preview=preview)
        if due:
            losses = ", ".join(f"{name} {value:.4g}" for name, value in step.losses.items())
            self._show(f"step {done} of {self._bar.total}: {losses}")
            ended = time.monotonic()
            self._next = ended + max(SECONDS_BETWEEN_PREVIEWS, (ended - began) / LARGEST_SHARE)


def _preview(clean: Tensor, protected: Tensor, budget: float | None) -> Image.Image:
    clean, protected = (preview_sized(split_alpha(image)[0][:1]) for image in (clean, protected))
    return preview_picture(torch.cat([protected, amplified(clean, protected, budget=budget)], dim=3))


def preview_picture(image: Tensor) -> Image.Image:
    """[1,C,H,W] of one or three channels -> an RGB picture."""
    return to_pillow(in_colour(image)[0])


def preview_sized(image: Tensor) -> Tensor:
    """At most PREVIEW_SIDE, by skipping pixels: averaging would wash the perturbation out."""
    scale = min(1.0, PREVIEW_SIDE / max(image.shape[-2:]))
    return image if scale == 1.0 else F.interpolate(image, scale_factor=scale, mode="nearest")
