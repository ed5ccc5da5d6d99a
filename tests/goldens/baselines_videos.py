"""What VBench's own scores and evaluation_eat's landmark distances gave: `vbench.*` and `lmd.*` of `c_metrics`."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from stillguard.engine.metrics.landmarks import FACE, MOUTH, landmark_distance, landmark_velocity_distance
from stillguard.engine.metrics.similarity import subject_consistency, vbench_dino_pixels
from stillguard.engine.metrics.vbench import motion_smoothness_measure
from torch import Tensor

from .folder import Folder, Row, number

CORRECT_FACE_VELOCITY = 3.7717503
"""As the set's README has it, since the published code adds the mouth's."""


def checks(folder: Folder) -> Iterator[Row]:
    if not folder.has("vectors/c_metrics"):
        return
    yield from _subject_consistency(folder)
    yield from _dino_pixels(folder)
    yield from _motion_smoothness(folder)
    yield from _landmarks(folder)


def _subject_consistency(folder: Folder) -> Iterator[Row]:
    tensors, official = folder.vectors("c_metrics"), folder.values()["C"]["vbench_subject_consistency"]
    frames = [subject_consistency(tensors[f"vbench.features_{video}"]) for video in "ab"]
    for video, ours, value in zip("ab", frames, official["per_video"], strict=True):
        yield number(f"vbench_subject_consistency, video {video}", float(ours.mean()), value, 1e-5)
    yield number("vbench_subject_consistency, all frames", float(torch.cat(frames).mean()), official["overall_frame_weighted"], 1e-5)


def _dino_pixels(folder: Folder) -> Iterator[Row]:
    tensors, official = folder.vectors("c_metrics"), folder.values()["C"]["vbench_dino_preprocess"]
    pixels = vbench_dino_pixels(_unit(tensors["fvd.clip_u8"])[: official["shape"][0]])
    yield Row("vbench_dino_preprocess, size", float(list(pixels.shape) != official["shape"]), 0, "differs")
    crop = tensors["vbench.dino_tensor_path_crop"]
    yield Row("vbench_dino_preprocess, crop", float((pixels[0, :, :48, :48] - crop).abs().max()), 1e-5, "absolute")
    yield number("vbench_dino_preprocess, mean of frame 0", float(pixels[0].double().mean()), official["tensor_path_mean"], 1e-4)


def _motion_smoothness(folder: Folder) -> Iterator[Row]:
    tensors, official = folder.vectors("c_metrics"), folder.values()["C"]["vbench_motion_smoothness"]
    frames = _unit(tensors["fvd.clip_u8"])
    for count in (9, 8):
        value = official[f"{count}_frames_stub_average_plus_0.01"]
        yield number(f"vbench_motion_smoothness, {count} frames", _smoothness(frames[:count], None), value, 1e-6)
    predicted = _unit(tensors["vbench.amt_interpolated_odd_u8"])
    ours = _smoothness(_unit(tensors["vbench.amt_frames_u8"]), predicted)
    yield number("vbench_motion_smoothness, AMT-S", ours, official["amt_s_real_weights_8_frames"], 1e-6)


def _landmarks(folder: Folder) -> Iterator[Row]:
    tensors, official = folder.vectors("c_metrics"), folder.values()["C"]["lmd"]
    generated, truth = (tensors[f"lmd.video{i}"].double() for i in (1, 2))
    generated[official["missing_video1"]] = float("nan")
    truth[official["missing_video2"]] = float("nan")
    for name, part in (("mouth", MOUTH), ("face", FACE)):
        ours = landmark_distance(truth, generated, part=part)
        yield number(f"{name}_lmd", float(ours.nanmean()), official["all_frames"][f"{name}_lmd"], 1e-6)
    mouth = landmark_velocity_distance(truth, generated, part=MOUTH)
    yield number("mouth_lvd", float(mouth.nanmean()), official["all_frames"]["mouth_lvd"], 1e-6)
    buggy = landmark_velocity_distance(truth, generated, published=True)
    yield number("face_lvd, as published", float(buggy.nanmean()), official["all_frames"]["face_lvd_official_buggy"], 1e-6)
    correct = landmark_velocity_distance(truth, generated)
    yield number("face_lvd, correct", float(correct.nanmean()), CORRECT_FACE_VELOCITY, 1e-7)


def _unit(levels: Tensor) -> Tensor:
    """[N,H,W,3] -> [N,3,H,W]."""
    return levels.movedim(-1, 1).float() / 255


def _smoothness(frames: Tensor, predicted: Tensor | None) -> float:
    """Of windows as a clip is cut into them; with the set's stub interpolator where nothing is predicted."""
    measure = motion_smoothness_measure(lambda before, after: 0.5 * (before + after) + 0.01 if predicted is None else predicted)
    windows = frames.unfold(0, 3, 2).movedim(-1, 1)
    return float(measure.score(measure.descriptor.describe(windows)).mean())
