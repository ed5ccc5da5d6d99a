"""Face networks of other nodes as the measures call them, through objects that look like the real ones."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytestmark = pytest.mark.usefixtures("comfy")


@dataclass(frozen=True)
class Face:
    """What insightface's Face holds and we read."""

    bbox: np.ndarray[Any, Any]
    normed_embedding: np.ndarray[Any, Any] | None


class Analysis:
    """insightface's FaceAnalysis: `get` of a BGR picture. Here: a face for every channel that is bright, larger for the brighter."""

    def get(self, picture: np.ndarray[Any, Any]) -> list[Face]:
        assert (picture.dtype, picture.shape) == (np.uint8, (8, 6, 3))
        means = picture.mean((0, 1))
        return [
            Face(np.array([1.0, 1.0, 1 + mean, 1 + mean]), np.eye(3, dtype=np.float32)[i]) for i, mean in enumerate(means) if mean > 100
        ]


def pictures(*colours: tuple[float, float, float]) -> Tensor:
    return torch.tensor(colours).view(-1, 3, 1, 1).expand(-1, 3, 8, 6)


def test_the_largest_face_of_a_picture_is_embedded_and_none_where_there_is_none() -> None:
    from stillguard.nodes.bridge.evaluate.identity import face_embedder

    found = face_embedder(Analysis())(pictures((0.5, 0.9, 0.0), (0.9, 0.5, 0.0), (0.1, 0.1, 0.1)))
    # insightface reads blue first: the first channel here is the third there.
    assert [None if face is None else face.tolist() for face in found] == [[0, 1, 0], [0, 0, 1], None]


def test_a_model_that_only_finds_faces_is_explained() -> None:
    """insightface's Face answers None for what no network computed."""
    from stillguard.nodes.bridge.evaluate.identity import face_embedder

    class DetectorOnly:
        def get(self, picture: np.ndarray[Any, Any]) -> list[Face]:
            return [Face(np.array([0.0, 0.0, 1.0, 1.0]), None)]

    with pytest.raises(ValueError, match="finds faces but does not recognise them: load a model with ArcFace"):
        face_embedder(DetectorOnly())(pictures((0.5, 0.5, 0.5)))


def test_landmarks_come_from_cores_face_detector() -> None:
    from comfy_extras.nodes_mediapipe import FaceLandmarkerModel
    from stillguard.engine.metrics.landmarks import from_face_mesh
    from stillguard.nodes.bridge.evaluate.identity import landmark_finder

    mesh = np.random.RandomState(0).standard_normal((478, 2)).astype(np.float32)

    class Detector:
        def detect_batch(self, *args: Any, **kwargs: Any) -> list[list[dict[str, Any]]]:
            # As core's class takes them.
            bound = inspect.signature(FaceLandmarkerModel.detect_batch).bind(self, *args, **kwargs)
            return [[{"landmarks_xy": mesh}] if picture.mean() > 100 else [] for picture in bound.arguments["images"]]

    seen, lost = landmark_finder(Detector())(pictures((0.9, 0.9, 0.9), (0.1, 0.1, 0.1)))
    assert lost is None
    torch.testing.assert_close(seen, from_face_mesh(torch.from_numpy(mesh)))


def test_other_sockets_are_refused_in_a_sentence() -> None:
    from stillguard.nodes.bridge.evaluate.identity import face_embedder, landmark_finder

    with pytest.raises(ValueError, match=r"insightface input holds a int that finds no faces: connect .*"):
        face_embedder(3)
    with pytest.raises(ValueError, match=r"face detection model is a int that finds no landmarks: connect .*"):
        landmark_finder(3)
