"""Text embeddings from a CLIP socket."""

from __future__ import annotations

from collections.abc import Iterable

import comfy.sd
from torch import Tensor

from .animators import LoadedReferenceNet


def empty_prompt(clip: comfy.sd.CLIP | None, nets: Iterable[LoadedReferenceNet]) -> Tensor | None:
    """The empty prompt's embedding [1,T,D], or None without a text encoder or a net that reads it."""
    if clip is None or not any(loaded.net.format.context == "text" for loaded in nets):
        return None
    embedding: Tensor = clip.encode_from_tokens_scheduled(clip.tokenize(""))[0][0]
    return embedding
