"""How alike two videos are to networks that know what is in a picture: CLIP-I, DINO, identity, and one video's subject consistency."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..conversions import on_grid
from ..picture import LEVELS, resize, to_levels
from .measure import SHARE, ClipMeasure, Descriptor, SetMeasure

Embed = Callable[[Tensor], Tensor]
"""[n,3,H,W] -> [n,D]."""

EmbedFaces = Callable[[Tensor], Sequence[Tensor | None]]
"""[n,3,H,W] in [0,1] -> per picture the embedding [D] of its face, or None."""

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def mean_cosine(reference: Tensor, generated: Tensor) -> Tensor:
    """Mean cosine of each row of `generated` [M',D] with all rows of `reference` [M,D], [M']; its mean is over all pairs.

    CLIP-I and DINO of DreamBooth (Ruiz et al. 2023).
    """
    return F.normalize(generated, dim=-1) @ F.normalize(reference, dim=-1).mean(0)


def identity_similarity(reference: Tensor, generated: Tensor) -> Tensor:
    """Cosine of each face [M',D] with the mean embedding of the reference's faces [M,D], [M'].

    Identity score matching (ISM) of Anti-DreamBooth (Van Le et al. 2023). Rows of NaN are frames without a face: left out of
    the mean, and NaN in the result.
    """
    return F.cosine_similarity(generated, reference.nanmean(0, keepdim=True), dim=-1)


def faces_found(embeddings: Tensor) -> Tensor:
    """1 where a frame has a face, 0 where its row is NaN, [M]. One minus the mean is the face detection failure rate (FDFR)."""
    return (~embeddings.isnan().any(-1)).float()


def subject_consistency(features: Tensor) -> Tensor:
    """Half the cosine to the frame before plus half that to the first, each at least 0: [M,D] -> [M-1].

    VBench (Huang et al. 2024), as its code has it. A frozen video is perfectly consistent: read it beside the optical flow. For VBench's
    own figure over several videos, pool their frames.
    """
    features = F.normalize(features, dim=-1)
    before, first = (F.cosine_similarity(features[1:], other, dim=-1).clamp_min(0) for other in (features[:-1], features[:1]))
    return (before + first) / 2


def dino_pixels(frames: Tensor) -> Tensor:
    """What the DINO score's network sees of [n,3,H,W] in [0,1]: shorter side 256 (bicubic), middle 224x224, ImageNet statistics."""
    return imagenet(torchvision_crop(on_grid(resize(frames, shorter_side(frames, 256), by="bicubic")), 224))


def vbench_dino_pixels(frames: Tensor) -> Tensor:
    """What VBench's DINO sees of a video's frames [n,3,H,W] in [0,1]: shorter side 224 without antialiasing, not cropped."""
    resized = F.interpolate(to_levels(frames), size=shorter_side(frames, 224), mode="bilinear")
    return imagenet(resized.round() / LEVELS)


def shorter_side(frames: Tensor, side: int) -> tuple[int, int]:
    """The size (height, width) that torchvision's Resize(side) gives."""
    height, width = frames.shape[-2:]
    return (side, side * width // height) if height <= width else (side * height // width, side)


def torchvision_crop(frames: Tensor, side: int) -> Tensor:
    """The square of `side` pixels in the middle, where torchvision's CenterCrop has it: half a pixel is rounded to the even side."""
    top, left = (round((length - side) / 2) for length in frames.shape[-2:])
    return frames[..., top : top + side, left : left + side]


def imagenet(frames: Tensor) -> Tensor:
    """[0,1] -> ImageNet's statistics."""
    mean, std = (frames.new_tensor(values).view(3, 1, 1) for values in (_MEAN, _STD))
    return (frames - mean) / std


def clip_i_measure(embed: Embed) -> SetMeasure:
    """CLIP-I. embed: [n,3,H,W] in [0,1] -> CLIP's image embeddings, with CLIP's own preprocessing inside."""
    return SetMeasure("CLIP-I", "cosine", "more alike", _of_frames("CLIP", embed), mean_cosine)


def dino_measure(network: Embed) -> SetMeasure:
    """DINO score. network: a DINO ViT-S/16, normalised pixels -> class tokens."""
    return SetMeasure("DINO", "cosine", "more alike", _of_frames("DINO ViT-S/16", lambda x: network(dino_pixels(x))), mean_cosine)


def subject_consistency_measure(network: Embed) -> ClipMeasure:
    """VBench's subject consistency. network: a DINO ViT-B/16, normalised pixels of any size -> class tokens."""
    descriptor = _of_frames("DINO ViT-B/16", lambda x: network(vbench_dino_pixels(x)))
    return ClipMeasure("subject consistency", "cosine", "more alike", descriptor, subject_consistency)


def identity_measure(embed: EmbedFaces, *, dimension: int = 512) -> SetMeasure:
    """Identity similarity. dimension: of the embeddings, 512 for ArcFace networks such as insightface's."""
    return SetMeasure("identity similarity", "cosine", "more alike", _of_faces(embed, dimension), identity_similarity)


def faces_found_measure(embed: EmbedFaces, *, dimension: int = 512) -> ClipMeasure:
    """Share of frames that have a face, 1 - FDFR; shares identity_measure's embeddings."""
    return ClipMeasure("frames with a face", SHARE, "better", _of_faces(embed, dimension), faces_found)


def _of_frames(key: str, embed: Embed) -> Descriptor:
    return Descriptor(key, lambda windows: embed(windows[:, 0]))


def _of_faces(embed: EmbedFaces, dimension: int) -> Descriptor:
    def describe(windows: Tensor) -> Tensor:
        absent = windows.new_full((dimension,), float("nan"))
        return torch.stack([absent if face is None else face.to(absent) for face in embed(windows[:, 0])])

    return Descriptor("face identity", describe)
