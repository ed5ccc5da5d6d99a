"""Text embeddings from a CLIP socket."""

from __future__ import annotations

import comfy.sd
from torch import Tensor


def empty_prompt(clip: comfy.sd.CLIP | None) -> Tensor | None:
    """The empty prompt's embedding [1,T,D], or None without a text encoder."""
    if clip is None:
        return None
    embedding: Tensor = clip.encode_from_tokens_scheduled(clip.tokenize(""))[0][0]
    return embedding
