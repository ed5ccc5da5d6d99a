"""What VBench's own scores and evaluation_eat's landmark distances gave: `vbench.*` and `lmd.*` of `c_metrics`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator

import torch
from stillguard.engine.metrics.landmarks import FACE, MOUTH, POINTS, landmark_distance, landmark_velocity_distance
from stillguard.engine.metrics.similarity import subject_consistency, vbench_dino_pixels
from stillguard.engine.metrics.vbench import motion_smoothness_measure
from torch import Tensor

from .folder import Folder, Row, number


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
    for found in filter(None, (re.fullmatch(r"(\d+)_frames_stub_average_plus_(\d\.\d+)", name) for name in official)):
        offset = float(found[2])
        ours = _smoothness(frames[: int(found[1])], lambda before, after, offset=offset: 0.5 * (before + after) + offset)
        yield number(f"vbench_motion_smoothness, {found[1]} frames", ours, official[found[0]], 1e-6)
    predicted = _unit(tensors["vbench.amt_interpolated_odd_u8"])
    ours = _smoothness(_unit(tensors["vbench.amt_frames_u8"]), lambda before, after: predicted)
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
    # The set has no face velocity but the published code's faulty one. What that code means, written out, is right where it gives the
    # numbers that the set does have, and then tells the one that it lacks.
    meant = official["all_frames"]
    yield number("mouth_lvd, written out", velocity(truth, generated, MOUTH, MOUTH), meant["mouth_lvd"], 1e-9)
    yield number("face_lvd, written out as published", velocity(truth, generated, MOUTH, FACE), meant["face_lvd_official_buggy"], 1e-9)
    correct = landmark_velocity_distance(truth, generated)
    yield number("face_lvd, correct", float(correct.nanmean()), velocity(truth, generated, FACE, FACE), 1e-9)


def velocity(truth: Tensor, generated: Tensor, moving: slice, counted: slice) -> float:
    """What evaluation_eat's code does, frame by frame: how far apart `moving` landmarks moved since the last pair with faces, their sum
    divided by the number of `counted` ones, over the number of pairs with faces."""
    count = min(len(truth), len(generated))
    total, pairs, before = 0.0, 0, None
    for index in range(count):
        pair = truth[index * len(truth) // count], generated[index * len(generated) // count]
        if any(points.isnan().any() for points in pair):
            continue
        if before is not None:
            apart = [(now - then)[moving] for now, then in zip(pair, before, strict=True)]
            total += sum(math.dist(a, b) for a, b in zip(*(points.tolist() for points in apart), strict=True)) / len(range(POINTS)[counted])
        before, pairs = pair, pairs + 1
    return total / pairs


def _unit(levels: Tensor) -> Tensor:
    """[N,H,W,3] -> [N,3,H,W]."""
    return levels.movedim(-1, 1).float() / 255


def _smoothness(frames: Tensor, interpolate: Callable[[Tensor, Tensor], Tensor]) -> float:
    """Of windows as a clip is cut into them."""
    measure = motion_smoothness_measure(interpolate)
    windows = frames.unfold(0, 3, 2).movedim(-1, 1)
    return float(measure.score(measure.descriptor.describe(windows)).mean())
