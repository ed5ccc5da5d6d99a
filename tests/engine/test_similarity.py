"""CLIP-I, DINO and identity against torchvision, plain pairs and a real face network; VBench's figures are in the baseline vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skimage import transform
from stillguard.engine.metrics import similarity
from stillguard.engine.metrics.measure import ClipMeasure, SetMeasure
from stillguard.engine.metrics.video_clip import HeldClip, windows
from torch import Tensor
from video_frames import video_frames


@pytest.fixture
def features() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(5, 32, generator=generator), torch.randn(7, 32, generator=generator) + 0.3


def described(measure: SetMeasure | ClipMeasure, frames: Tensor) -> Tensor:
    """As a whole clip is described."""
    one = measure.descriptor
    runs = windows(HeldClip(frames.movedim(1, -1)).read(), one.span, one.stride)
    return torch.cat([one.describe(run) for run in runs])


def test_the_mean_over_frames_is_the_mean_over_all_pairs(features: tuple[Tensor, Tensor]) -> None:
    reference, generated = features
    values = similarity.mean_cosine(reference, generated * 3)
    assert values.shape == (7,)
    torch.testing.assert_close(values, torch.cosine_similarity(generated[:, None], reference[None], dim=-1).mean(1))


def test_dino_sees_what_torchvision_prepares_with_pillow(astronaut: Tensor) -> None:
    from PIL import Image
    from torchvision import transforms

    prepare = transforms.Compose([transforms.Resize(256, interpolation=transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(224)])
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for frame in (astronaut[..., :200], astronaut[..., :150, :], astronaut[..., :222, :223]):
        official = np.array(prepare(Image.fromarray((frame[0] * 255).round().byte().permute(1, 2, 0).numpy())))
        ours = (similarity.dino_pixels(frame)[0] * deviation + mean) * 255
        off = (ours - torch.from_numpy(official).permute(2, 0, 1)).abs()
        # Pillow rounds to levels between its two passes, which shows where the filter overshoots.
        assert off.mean() < 0.25
        assert (off > 1.01).float().mean() < 1e-3


def test_a_frozen_video_is_consistent_and_a_cut_is_not(features: tuple[Tensor, Tensor]) -> None:
    still = features[0][:1].expand(6, -1)
    torch.testing.assert_close(similarity.subject_consistency(still), torch.ones(5))
    cut = torch.cat([still[:3], -still[:3]])
    # After the cut neighbours agree and the first frame is as far as can be.
    assert similarity.subject_consistency(cut).tolist() == pytest.approx([1, 1, 0, 0.5, 0.5])


def test_measures_of_one_network_share_what_it_computes() -> None:
    def none(pictures: Tensor) -> list[None]:
        return [None] * len(pictures)

    identity, found = similarity.identity_measure(none), similarity.faces_found_measure(none)
    assert identity.descriptor.key == found.descriptor.key
    others = [similarity.clip_i_measure(torch.nn.Flatten()), similarity.dino_measure(torch.nn.Flatten())]
    keys = {one.descriptor.key for one in (*others, similarity.subject_consistency_measure(torch.nn.Flatten()), identity)}
    assert len(keys) == 4


def test_frames_without_a_face_are_left_out_and_counted(features: tuple[Tensor, Tensor]) -> None:
    reference, generated = features
    lost = torch.full((1, 32), float("nan"))
    values = similarity.identity_similarity(torch.cat([reference, lost]), torch.cat([generated, lost]))
    assert values.isnan().tolist() == [False] * 7 + [True]
    torch.testing.assert_close(values[:7], similarity.identity_similarity(reference, generated))
    assert similarity.faces_found(torch.cat([generated, lost])).tolist() == [1.0] * 7 + [0.0]
    assert similarity.identity_similarity(lost, generated).isnan().all()


def test_a_real_face_network_tells_persons_apart(shared: Path) -> None:
    pytest.importorskip("onnxruntime", reason="no onnxruntime")
    faces, videos = FaceNetwork(shared / "weights" / "face_id"), shared / "media" / "videos"
    measure, found = similarity.identity_measure(faces), similarity.faces_found_measure(faces)
    one = described(measure, video_frames(videos / "talk_hdtf_aoc.mp4", [0, 12]))
    same = described(measure, video_frames(videos / "talk_hdtf_aoc.mp4", [100, 150, 199]))
    other = described(measure, video_frames(videos / "grid_bbaf2n.mpg", [0, 30, 60]))
    # 0.6 to 0.98 for one person and below 0.2 for two, says the note beside the weights.
    assert measure.compare(one, same).min() > 0.6
    assert measure.compare(one, other).max() < 0.2
    blank = described(found, torch.full((2, 3, 256, 256), 0.5))
    assert (found.score(blank).tolist(), found.score(same).tolist()) == ([0.0, 0.0], [1.0, 1.0, 1.0])


class FaceNetwork:
    """SCRFD finds the surest face, MobileFaceNet embeds it: what insightface's FaceAnalysis does, for one face."""

    # Where ArcFace networks want the eyes, the nose and the corners of the mouth (x, y) in 112x112 pixels.
    _PLACES = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]])
    _SIDE = 640

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        names = ("scrfd_500m_bnkps.onnx", "w600k_mbf.onnx")
        self._find, self._embed = (onnxruntime.InferenceSession(folder / name, options, ["CPUExecutionProvider"]) for name in names)

    def __call__(self, pictures: Tensor) -> list[Tensor | None]:
        return [self._one((picture.permute(1, 2, 0) * 255).numpy()) for picture in pictures]

    def _one(self, levels: np.ndarray[Any, Any]) -> Tensor | None:
        scale = self._SIDE / max(levels.shape[:2])
        points = self._points(transform.warp(levels, transform.AffineTransform(scale=1 / scale), output_shape=(self._SIDE, self._SIDE)))
        if points is None:
            return None
        place = transform.SimilarityTransform.from_estimate(self._PLACES, points / scale)
        return torch.from_numpy(_run(self._embed, transform.warp(levels, place, output_shape=(112, 112)) / 127.5 - 1)[0].ravel())

    def _points(self, levels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
        outputs = _run(self._find, (levels - 127.5) / 128)
        # For strides 8, 16 and 32: scores of two anchors at every place, boxes, and the five points relative to the place in strides.
        scores, points = np.concatenate(outputs[:3]).ravel(), []
        for stride, offsets in zip((8, 16, 32), outputs[6:], strict=True):
            rows, columns = np.divmod(np.arange(len(offsets)) // 2, self._SIDE // stride)
            places = np.stack([columns, rows], axis=-1)[:, None] * stride
            points.append(places + offsets.reshape(-1, 5, 2) * stride)
        best = int(scores.argmax())
        return np.concatenate(points)[best] if scores[best] > 0.5 else None


def _run(session: Any, picture: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    """[H,W,3] RGB as the network wants its range."""
    values: list[np.ndarray[Any, Any]] = session.run(
        None, {session.get_inputs()[0].name: picture.transpose(2, 0, 1)[None].astype(np.float32)}
    )
    return [value[0] if value.ndim == 3 else value for value in values]
