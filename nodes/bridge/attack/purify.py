"""What all purifiers share inside ComfyUI."""

from __future__ import annotations

import time
from collections.abc import Callable

import comfy.model_management
import comfy.sd
import comfy.utils
import torch
from torch import Tensor
from torch.nn import functional as F

from ....engine.draws import SEEDS, following
from ....engine.picture import check_finite, resize, split_alpha
from ..progress import PREVIEW_SIDE, SECONDS_BETWEEN_PREVIEWS, preview_picture, preview_sized


class Watch:
    """Progress over a batch, a preview at most twice a second, and the place where a cancelled run ends."""

    def __init__(self, pictures: int, *, node_id: str | None) -> None:
        self._bar = comfy.utils.ProgressBar(pictures, node_id=node_id)
        self._pictures, self._next = pictures, 0.0
        self.picture = 0

    def report(self, done: int, total: int, image: Tensor | None = None) -> None:
        """`done` of `total` parts of the current picture. Raises ComfyUI's interruption when the user has cancelled."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        preview = None
        if image is not None and (now := time.monotonic()) >= self._next:
            self._next, preview = now + SECONDS_BETWEEN_PREVIEWS, ("JPEG", preview_picture(preview_sized(image[:1])), PREVIEW_SIDE)
        self._bar.update_absolute(self.picture * total + done, total=self._pictures * total, preview=preview)


Purify = Callable[[Tensor, int, Watch], Tensor]
"""One picture [1,3,H,W] in [0,1], its seed, where to report -> the purified one, of any size."""


def purify_images(images: Tensor, purify: Purify, *, seed: int, node_id: str | None) -> Tensor:
    """IMAGE [B,H,W,C] -> IMAGE, each picture on its own with seed + its index; transparency is carried along, greyscale stays grey.

    Raises ValueError for pixels that are not numbers and for other than 1, 3 or 4 channels, ComfyUI's interruption when cancelled.
    """
    pictures = images.movedim(-1, 1).float()
    check_finite(pictures)
    colour, alpha = split_alpha(pictures)
    watch, results = Watch(len(pictures), node_id=node_id), []
    for index, picture in enumerate(colour):
        watch.picture = index
        # Contiguous: kernels round differently for other strides, and a picture's result must not depend on the batch that it came in.
        result = purify(picture[None].expand(-1, 3, -1, -1).clamp(0, 1).contiguous(), following(seed, index), watch)
        result = result.to(comfy.model_management.intermediate_device()).float().clamp(0, 1)
        result = result.mean(1, keepdim=True) if colour.shape[1] == 1 else result
        own = None if alpha is None else resize(alpha[index : index + 1].to(result), (result.shape[-2], result.shape[-1]))
        results.append(result if own is None else torch.cat([result, own], dim=1))
    return torch.cat(results).movedim(1, -1)


def sampler_seed(seed: int) -> int:
    """For core's samplers, some of which draw from the seed after this one: the last has none after it, and becomes the first."""
    return seed % (SEEDS - 1)


def padded(image: Tensor, multiple: int) -> Tensor:
    """[B,C,H,W] with its last row and column repeated until both sides are multiples; differentiable."""
    height, width = image.shape[-2:]
    return F.pad(image, (0, -width % multiple, 0, -height % multiple), mode="replicate")
