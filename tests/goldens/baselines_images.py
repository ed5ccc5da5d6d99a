"""Pictures and sets of frames: DisCo's evaluation, scikit-image's SSIM, Fréchet distances, KID, and what FVD's networks are given."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lpips import NetLinLayer
from stillguard.engine.metrics import image, video_sets
from stillguard.engine.metrics.frechet import frechet_distance, kernel_distance
from stillguard.engine.metrics.video_clip import windows
from stillguard.engine.surrogates.perceptual import PerceptualNetwork
from torch import Tensor

from .dormant_parts import NarrowVGG
from .folder import Folder, Row, number, relative

PREPARE = {"FVD-3DRN50": video_sets.fid_vid_frames, "FVD-3DInception": video_sets.fvd_frames}

# As the vectors' README says: clip 8 has 30 frames and lacks the 12th, clip 7 is as long as the frames given.
NAMES = [f"TiktokDance_{clip}_{frame:04d}.png" for clip, last in (("007", 20), ("008", 30)) for frame in range(1, last + 1)]


def checks(folder: Folder) -> Iterator[Row]:
    if not folder.has("vectors/c_metrics"):
        return
    official, values = folder.vectors("c_metrics"), folder.values()["C"]
    generated, truth = (_unit(official[f"disco.{name}_u8"]) for name in ("gen", "gt"))
    yield from disco(generated, truth, values["disco_image_metrics"])
    yield from other_size(_unit(official["disco.gen_small_u8"][None]), truth[:1], values["disco_image_metrics"]["size_mismatch"])
    if folder.has("weights/lpips"):
        yield from perceptual(folder, generated, truth, values["disco_image_metrics"])
    yield from similarity(official, generated[:1], truth[:1], values["skimage_frame0"])
    yield from sets(official, values)
    yield from file_names(values)
    yield from prepared(official, values)


def _unit(frames: Tensor) -> Tensor:
    return frames.movedim(-1, 1).float() / 255


def _each(name: str, ours: Tensor, official: list[float], tolerance: float) -> Row:
    """Largest relative error; equal frames have a distance of 0."""
    expected = torch.tensor(official, dtype=torch.float64)
    return Row(name, float(((ours.double() - expected).abs() / expected.abs().clamp_min(1e-9)).max()), tolerance, "relative")


def disco(generated: Tensor, truth: Tensor, values: Mapping[str, Any]) -> Iterator[Row]:
    """Frame by frame, and the means that DisCo prints."""
    for name, measure in (("PSNR", image.psnr), ("SSIM", image.ssim), ("L1", image.l1)):
        ours = measure(truth, generated, disco_compat=True)
        yield _each(f"DisCo's {name} of each frame", ours, values[f"{name}_per_frame"], 1e-6)
        yield number(f"DisCo's {name}", float(ours.mean()), values[name], 1e-6)


def other_size(small: Tensor, truth: Tensor, values: Mapping[str, float]) -> Iterator[Row]:
    resized = image.opencv_resize(small, (truth.shape[-2], truth.shape[-1]))
    for name, measure in (("PSNR", image.psnr), ("SSIM", image.ssim), ("L1", image.l1)):
        yield number(f"DisCo's {name} at another size", float(measure(truth, resized, disco_compat=True)), values[name], 1e-6)


def perceptual(folder: Folder, generated: Tensor, truth: Tensor, values: Mapping[str, Any]) -> Iterator[Row]:
    weights = folder.weights("lpips")
    heads = []
    for layer, width in enumerate(folder.config("lpips")["widths"]):
        heads.append(NetLinLayer(width, use_dropout=True))
        heads[-1].load_state_dict({"model.1.weight": weights[f"lin{layer}.model.1.weight"]})
    network = PerceptualNetwork(NarrowVGG(weights), heads)
    ours = image.lpips(network, truth, generated, disco_compat=True)
    yield _each("DisCo's LPIPS of each frame", ours, values["LPIPS_disco_per_frame"], 1e-4)
    yield number("DisCo's LPIPS", float(ours.mean()), values["LPIPS_disco_unit_range"], 1e-4)
    yield _each("LPIPS of each frame", image.lpips(network, truth, generated), values["LPIPS_signed_per_frame"], 1e-4)


def similarity(official: Mapping[str, Tensor], generated: Tensor, truth: Tensor, values: Mapping[str, float]) -> Iterator[Row]:
    grey = [official[f"skimage.gray_{name}_u8"][None, None].double() for name in ("gen", "gt")]
    yield relative("grey of a frame", image.opencv_grey(generated), grey[0], 0.0)
    yield number("SSIM, grey, uniform 7", float(image.uniform_ssim(*grey, window=7, peak=255)), values["gray_uniform7"], 1e-6)
    for window in (7, 11):
        ours = image.uniform_ssim(generated, truth, window=window, peak=1)
        yield number(f"SSIM, RGB, uniform {window}", float(ours), values[f"rgb_uniform{window}"], 1e-6)
    yield number("SSIM, RGB, Gaussian", float(image.ssim(truth.double(), generated.double())), values["rgb_gaussian"], 1e-6)
    ours = image.ssim(grey[1] / 255, grey[0] / 255)
    yield number("SSIM, grey, Gaussian", float(ours), values["gray_gaussian_sigma1p5_11"], 1e-6)
    yield number("PSNR", float(image.psnr(truth, generated)), values["psnr_unit"], 1e-6)


def sets(official: Mapping[str, Tensor], values: Mapping[str, Any]) -> Iterator[Row]:
    for case, tolerance in (("full_rank", 1e-6), ("rank_deficient", 1e-4)):
        first, second = (official[f"frechet.{case}.f{which}"] for which in (1, 2))
        ours = float(frechet_distance(first, second))
        yield number(f"Fréchet distance, {case}, of pytorch-fid", ours, values["frechet"][case]["pytorch_fid"], tolerance)
        yield number(f"Fréchet distance, {case}, by eigenvalues", ours, values["frechet"][case]["eigenvalue_reference"], 1e-6)
    for found in filter(None, (re.fullmatch(r"kid_(\d+)_(\d+)_unbiased_one_subset_all", name) for name in values["frechet"])):
        first, second = (official[f"frechet.full_rank.f{which}"][: int(found[which])] for which in (1, 2))
        yield number(f"KID of {found[1]} and {found[2]}", float(kernel_distance(first, second)), values["frechet"][found[0]], 1e-6)


def file_names(values: Mapping[str, Any]) -> Iterator[Row]:
    runs = video_sets.whole_runs([name for name in NAMES if name != "TiktokDance_008_0012.png"])
    ours = [[run[0], run[-1]] for run in runs]
    yield _same("runs from files of frames", ours, values["fvd_windows_from_frames_first_last"])
    indices = [[int(name[-8:-4]) - 1 for name in run] for run in runs if "_007_" in run[0]]
    yield _same("frames of each run", indices, values["fvd_window_index_lists_clip007"])


def _same(name: str, ours: object, official: object) -> Row:
    return Row(name, float(ours != official), 0.0, "differs")


def prepared(official: Mapping[str, Tensor], values: Mapping[str, Any]) -> Iterator[Row]:
    clip = _unit(official["fvd.clip_u8"])
    for name, prepare in PREPARE.items():
        frames, expected = prepare(clip), values["fvd_preprocess"][name]
        runs = torch.cat(list(windows(iter(frames.split(8)), video_sets.SPAN, 1)))
        first = runs[0].double()
        scale = float(expected["item0_std"])
        for crop, run, frame in (("item0_frame0", 0, 0), ("item4_frame15", 4, 15)):
            target = official[f"fvd.{name}.{crop}_crop"]
            yield relative(f"{name}, {crop}", runs[run, frame, :, : target.shape[-2], : target.shape[-1]], target, 1e-5)
        ours = {"mean": first.mean(), "std": first.std(), "min": first.amin(), "max": first.amax()}
        for kind, value in ours.items():
            yield Row(f"{name}, {kind}", abs(float(value) - expected[f"item0_{kind}"]) / scale, 1e-5, "of the deviation")
        means = first.mean(dim=(1, 2, 3)) - torch.tensor(expected["item0_frame_means"], dtype=torch.float64)
        yield Row(f"{name}, mean of each frame", float(means.abs().max()) / scale, 1e-5, "of the deviation")
        cut = video_sets.segments(frames) if name == "FVD-3DRN50" else frames[None]
        expected = values["fvd_from_video_file_20_frames"][name]
        yield _same(f"{name}, from a video file", list(cut.movedim(2, 1).shape), expected["shape"])
        means = cut.double().mean(dim=(2, 3, 4)) - torch.tensor(expected["frame_means_per_segment"], dtype=torch.float64)
        yield Row(f"{name}, mean of each frame of a video file", float(means.abs().max()) / scale, 1e-5, "of the deviation")
