"""Face networks that other nodes loaded, as the engine's measures call them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....engine.metrics.landmarks import FindLandmarks, from_face_mesh
from ....engine.metrics.similarity import EmbedFaces
from ....engine.picture import to_levels


def face_embedder(analysis: Any) -> EmbedFaces:
    """From an INSIGHTFACE socket, which holds an insightface FaceAnalysis: the embedding of the largest face of each picture.

    Raises ValueError when the socket holds something else.
    """
    _check_analysis(analysis)

    def embed(pictures: Tensor) -> Sequence[Tensor | None]:
        return [_embedding(analysis.get(picture[..., ::-1])) for picture in _levels(pictures)]

    return embed


def landmark_finder(detector: Any) -> FindLandmarks:
    """From core's FACE_DETECTION_MODEL socket (MediaPipe's face mesh): the 68 landmarks of each picture's surest face.

    Raises ValueError when the socket holds something else.
    """
    _check_detector(detector)

    def find(pictures: Tensor) -> Sequence[Tensor | None]:
        found = detector.detect_batch(_levels(pictures), num_faces=1, score_thresh=0.5, variant="short")
        return [from_face_mesh(_mesh(faces[0])) if faces else None for faces in found]

    return find


def all_faces(detector: Any, picture: Tensor) -> list[Tensor]:
    """From the same socket: the 68 landmarks [68,2] of every face of a picture [1,3,H,W], those of small ones too.

    Raises ValueError when the socket holds something else.
    """
    return [from_face_mesh(mesh) for mesh in all_meshes(detector, picture)]


def all_meshes(detector: Any, picture: Tensor) -> list[Tensor]:
    """As `all_faces`, MediaPipe's own landmarks [478,2]."""
    _check_detector(detector)
    # The detector for faces near the camera first: it is the surer one.
    for variant in ("short", "full"):
        (faces,) = detector.detect_batch(_levels(picture), num_faces=0, score_thresh=0.5, variant=variant)
        if faces:
            return [_mesh(face) for face in faces]
    return []


def own_embedding(analysis: Any, picture: Tensor) -> Tensor | None:
    """From an INSIGHTFACE socket: the embedding [D] of a picture's largest face [1,3,H,W] in the length that the network gives it.

    None without a face. Raises ValueError as `face_embedder` does.
    """
    _check_analysis(analysis)
    (levels,) = _levels(picture)
    return _embedding(analysis.get(levels[..., ::-1]), "embedding")


def _check_analysis(analysis: Any) -> None:
    if not callable(getattr(analysis, "get", None)):
        raise ValueError(
            f"The insightface input holds a {type(analysis).__name__} that finds no faces: connect a loader of insightface's FaceAnalysis, "
            "such as IPAdapter InsightFace Loader."
        )


def _check_detector(detector: Any) -> None:
    if not callable(getattr(detector, "detect_batch", None)):
        raise ValueError(
            f"The face detection model is a {type(detector).__name__} that finds no landmarks: "
            "connect Load Face Detection Model (MediaPipe)."
        )


def _mesh(face: Mapping[str, Any]) -> Tensor:
    return torch.from_numpy(np.asarray(face["landmarks_xy"])).float()


def _levels(pictures: Tensor) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    """[n,3,H,W] in [0,1] -> n of [H,W,3] RGB."""
    return list(to_levels(pictures).byte().movedim(1, -1).cpu().numpy())


def _embedding(faces: Sequence[Any], name: str = "normed_embedding") -> Tensor | None:
    if not faces:
        return None
    largest = max(faces, key=lambda face: (face.bbox[2] - face.bbox[0]) * (face.bbox[3] - face.bbox[1]))
    if getattr(largest, name) is None:
        raise ValueError("The insightface input finds faces but does not recognise them: load a model with ArcFace, such as buffalo_l.")
    return torch.from_numpy(np.asarray(getattr(largest, name))).float()
