"""Comparing videos a few frames at a time: the same figures as all at once, in memory that does not grow with their length."""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from bench.memory import peak_bytes
from skimage import metrics
from stillguard.engine.metrics.compare import STRIP_SIDE, Progress, compare
from stillguard.engine.metrics.comparison import CLEAN, NOISE, PROTECTED, TRUTH, Comparison, Reading, as_json
from stillguard.engine.metrics.measure import ClipMeasure, Descriptor, Measure, PairMeasure, SetMeasure, Unavailable
from stillguard.engine.metrics.table import as_text
from stillguard.engine.metrics.video_clip import CHUNK, Clip, HeldClip
from stillguard.engine.metrics.visibility import psnr, ssim
from torch import Tensor

PSNR = PairMeasure("PSNR", "dB", "more alike", psnr)
SSIM = PairMeasure("SSIM", "of 1", "more alike", ssim)


def video(seed: int, frames: int = 20, height: int = 24, width: int = 32) -> Tensor:
    """[N,H,W,3] of noise."""
    return torch.rand(frames, height, width, 3, generator=torch.Generator().manual_seed(seed))


def last(progress: Iterator[Progress]) -> Comparison:
    *_, end = progress
    assert end.comparison is not None
    return end.comparison


def compared(branches: dict[str, Tensor], *measures: Measure | Unavailable, **settings: object) -> Comparison:
    return last(compare({name: HeldClip(frames) for name, frames in branches.items()}, measures, victim="test", **settings))


def reading(comparison: Comparison, name: str, branch: str = PROTECTED, reference: str = CLEAN) -> Reading:
    (row,) = (row for row in comparison.rows if row.name == name and row.reference == reference)
    return row.readings[branch]


def brightness(span: int = 1, stride: int = 1) -> Descriptor:
    """Mean of each frame of a run, [n,span]."""
    return Descriptor(f"brightness {span}/{stride}", lambda runs: runs.mean(dim=(2, 3, 4)), span, stride)


def distance(span: int = 1, least: int = 1, describe: Descriptor | None = None) -> SetMeasure:
    return SetMeasure("distance", "", "less alike", describe or brightness(span), lambda a, b: (a.mean(0) - b.mean(0)).norm(), least)


def test_pair_measures_equal_scikit_image_frame_by_frame() -> None:
    clean, protected = video(0), video(1)
    result = compared({CLEAN: clean, PROTECTED: protected}, PSNR, SSIM)
    expected = [metrics.peak_signal_noise_ratio(a, b, data_range=1) for a, b in zip(clean.numpy(), protected.numpy(), strict=True)]
    found = reading(result, "PSNR")
    assert found.items == pytest.approx(expected, abs=1e-4)
    assert found.value == pytest.approx(sum(expected) / len(expected), abs=1e-4)
    assert found.n == 20
    assert found.low < found.value < found.high
    assert reading(result, "SSIM").n == 20


def test_every_branch_stands_against_the_clean_one_and_all_against_the_ground_truth() -> None:
    branches = {CLEAN: video(0), PROTECTED: video(1), NOISE: video(2), TRUTH: video(3)}
    alone = ClipMeasure("level", "", "better", brightness(), lambda said: said[:, 0])
    result = compared(branches, PSNR, distance(), alone, Unavailable("FID", "The file is missing."))
    told = [(row.name, row.reference, set(row.readings)) for row in result.rows]
    generated = {CLEAN, PROTECTED, NOISE}
    assert told == [
        ("PSNR", CLEAN, {PROTECTED, NOISE}),
        ("PSNR", TRUTH, generated),
        ("distance", CLEAN, {PROTECTED, NOISE}),
        ("distance", TRUTH, generated),
        ("level", "", {*generated, TRUTH}),
        ("FID", "", generated),
    ]
    of_noise = -10 * (branches[NOISE] - branches[TRUTH]).square().mean((1, 2, 3)).log10()
    assert reading(result, "PSNR", NOISE, TRUTH).items == pytest.approx(of_noise.tolist(), abs=1e-4)
    apart = float((branches[PROTECTED].mean() - branches[TRUTH].mean()).abs())
    assert reading(result, "distance", PROTECTED, TRUTH).value == pytest.approx(apart, abs=1e-6)
    assert reading(result, "level", TRUTH, "").items == pytest.approx(branches[TRUTH].mean((1, 2, 3)).tolist(), abs=1e-6)
    assert reading(result, "FID", NOISE, "") == Reading(None, why="not measured: The file is missing.")


@pytest.mark.parametrize(("span", "stride"), [(1, 1), (2, 1), (3, 2), (16, 1), (16, 16), (11, 5)])
def test_runs_are_those_of_the_whole_video(span: int, stride: int) -> None:
    seen: list[Tensor] = []

    def score(said: Tensor) -> Tensor:
        seen.append(said)
        return said[:, 0]

    clean = video(0, frames=37)
    compared({CLEAN: clean, PROTECTED: video(1, frames=37)}, ClipMeasure("level", "", "better", brightness(span, stride), score))
    expected = clean.mean((1, 2, 3)).unfold(0, span, stride)
    torch.testing.assert_close(seen[0], expected)


def test_a_frame_is_prepared_once_however_many_runs_it_is_in() -> None:
    counted: list[int] = []

    def prepare(frames: Tensor) -> Tensor:
        counted.append(len(frames))
        return frames.mean((1, 2, 3))

    prepared = Descriptor("prepared", lambda runs: runs, 16, 1, prepare)
    branches = {CLEAN: video(0, 30), PROTECTED: video(1, 30)}
    with_it, without = (compared(branches, distance(describe=one)) for one in (prepared, brightness(16)))
    assert sum(counted) == 60
    assert reading(with_it, "distance").value == pytest.approx(reading(without, "distance").value, rel=1e-6)
    assert reading(with_it, "distance").n == 15


def test_what_a_network_says_is_asked_once_for_all_measures_that_share_it() -> None:
    frames: list[int] = []

    def describe(runs: Tensor) -> Tensor:
        frames.append(len(runs))
        return runs.mean(dim=(2, 3, 4))

    one = Descriptor("shared", describe)
    alone = ClipMeasure("level", "", "better", one, lambda said: said[:, 0])
    compared({CLEAN: video(0), PROTECTED: video(1)}, distance(describe=one), replace(distance(describe=one), name="other"), alone)
    assert sum(frames) == 2 * 20


def test_what_a_network_sees_of_a_video_is_computed_once_however_many_it_is_compared_with() -> None:
    frames: list[int] = []

    def see(pictures: Tensor) -> Tensor:
        frames.append(len(pictures))
        return pictures.square()

    branches = {CLEAN: video(0), PROTECTED: video(1), NOISE: video(2), TRUTH: video(3)}
    seeing = PairMeasure("of squares", "dB", "more alike", psnr, see)
    plain = PairMeasure("of squares", "dB", "more alike", lambda a, b: psnr(a.square(), b.square()))
    assert compared(branches, seeing).rows == compared(branches, plain).rows
    assert sum(frames) == 4 * 20


@pytest.mark.parametrize(("memory", "most"), [(None, 1), (0.0, 1), (3.9 * 100 * 24 * 32, 3), (1e12, CHUNK)])
def test_as_many_frames_at_once_as_the_memory_holds(memory: float | None, most: int) -> None:
    counted: list[int] = []

    def compare_counted(a: Tensor, b: Tensor) -> Tensor:
        counted.append(len(a))
        return psnr(a, b)

    def describe(runs: Tensor) -> Tensor:
        counted.append(len(runs))
        return runs.mean(dim=(2, 3, 4))

    pairs = PairMeasure("pairs", "dB", "more alike", compare_counted, bytes_per_pixel=100, large=True)
    runs = Descriptor("runs", describe, 2, bytes_per_pixel=50, large=True)
    branches = {CLEAN: video(0), PROTECTED: video(1)}
    result = compared(branches, pairs, distance(describe=runs), memory=memory)
    assert max(counted) == most
    assert reading(result, "pairs").items == reading(compared(branches, PSNR), "PSNR").items
    assert reading(result, "distance") == reading(compared(branches, distance(2)), "distance")


def test_a_set_measure_is_withheld_below_its_least_number() -> None:
    branches = {CLEAN: video(0), PROTECTED: video(1)}
    withheld = reading(compared(branches, distance(16, least=6)), "distance")
    assert withheld.value is None
    assert withheld.n == 5
    assert withheld.why == "not measured: it needs at least 21 frames (6 windows of 16; here are 5), and these videos have 20."
    assert reading(compared(branches, distance(16, least=5)), "distance").value is not None


def test_networks_are_not_asked_for_what_can_only_be_withheld() -> None:
    def describe(runs: Tensor) -> Tensor:
        raise AssertionError

    described = Descriptor("network", describe, 16)
    result = compared({CLEAN: video(0), PROTECTED: video(1)}, distance(least=401, describe=described), distance(describe=brightness(2)))
    withheld, taken = (row.readings[PROTECTED] for row in result.rows)
    assert withheld.why.startswith("not measured: it needs at least 416 frames (401 windows of 16; here are 5)")
    assert taken.n == 19


def test_one_frame_videos_are_compared_by_pixels_and_nothing_else() -> None:
    branches = {CLEAN: video(0, 1), PROTECTED: video(1, 1)}
    moving = ClipMeasure("flow", "px", "more motion", brightness(2), lambda said: said[:, 0])
    steps = ClipMeasure("steps", "", "smoother", brightness(), lambda said: said[1:, 0])
    result = compared(branches, PSNR, distance(16), moving, steps)
    assert reading(result, "PSNR").n == 1
    assert reading(result, "PSNR").low is None
    for name, needed, reference in (("distance", 16, CLEAN), ("flow", 2, ""), ("steps", 2, "")):
        why = reading(result, name, reference=reference).why
        assert why.startswith(f"not measured: it needs at least {needed} frames")
        assert why.endswith("these videos have 1.")
    assert result.strip_indices == (0,)
    assert "Means of fewer than 16 values have no interval, since it would promise too much." in result.notes


def test_a_measure_that_fails_says_why_and_the_rest_goes_on() -> None:
    def refuse(runs: Tensor) -> Tensor:
        raise ValueError("The frames are too small for AMT.")

    failing = PairMeasure("LPIPS", "", "less alike", lambda a, b: refuse(a))
    result = compared({CLEAN: video(0), PROTECTED: video(1)}, failing, distance(describe=Descriptor("refusing", refuse)), PSNR)
    for name in ("LPIPS", "distance"):
        assert reading(result, name) == Reading(None, why="not measured: The frames are too small for AMT.")
    assert reading(result, "PSNR").n == 20


def test_other_failures_are_not_hidden() -> None:
    def broken(a: Tensor, b: Tensor) -> Tensor:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        compared({CLEAN: video(0), PROTECTED: video(1)}, PairMeasure("LPIPS", "", "less alike", broken))


def test_equal_videos_are_infinitely_alike_and_named() -> None:
    result = compared({CLEAN: video(0), PROTECTED: video(0), NOISE: video(1)}, PSNR)
    found = reading(result, "PSNR")
    assert (found.value, found.low, found.high, found.n) == (math.inf, None, None, 20)
    assert [note for note in result.notes if "equals the clean one in every pixel" in note and "protected" in note]
    assert not [note for note in result.notes if "noise video equals" in note]
    written = json.dumps(as_json(result), allow_nan=False)
    assert json.loads(written)["rows"][0]["readings"]["protected"]["value"] == "inf"


def test_values_that_could_not_be_taken_are_left_out_of_the_mean_and_counted() -> None:
    def every_second(a: Tensor, b: Tensor) -> Tensor:
        values = torch.arange(float(len(a)))
        return torch.where(values % 2 == 0, values, float("nan"))

    def never(a: Tensor, b: Tensor) -> Tensor:
        return torch.full((len(a),), float("nan"))

    measures = [PairMeasure(name, "", "more alike", one) for name, one in (("second", every_second), ("never", never))]
    result = compared({CLEAN: video(0, 8), PROTECTED: video(1, 8)}, *measures)
    found = reading(result, "second")
    assert (found.value, found.n, len(found.items)) == (3.0, 4, 8)
    assert "second of protected against clean stands on 4 of 8 values: the others could not be taken." in result.notes
    assert reading(result, "never").value is None
    assert reading(result, "never").why.startswith("not measured:")
    items = as_json(result)["rows"][0]["readings"]["protected"]["items"]
    assert items == [0.0, None, 2.0, None, 4.0, None, 6.0, None]


def test_a_set_of_nothing_but_missing_faces_says_so() -> None:
    faceless = Descriptor("faces", lambda runs: runs.new_full((len(runs), 4), float("nan")))
    one = SetMeasure("identity", "cosine", "more alike", faceless, lambda a, b: b[~b.isnan().any(1)].sum(1))
    assert "face" in reading(compared({CLEAN: video(0), PROTECTED: video(1)}, one), "identity").why


def test_a_frozen_video_is_named() -> None:
    def moved(runs: Tensor) -> Tensor:
        return (runs[:, 1] - runs[:, 0]).abs().mean((1, 2, 3))[:, None]

    flow = ClipMeasure("flow", "px", "more motion", Descriptor("flow", moved, 2), lambda said: said[:, 0])
    still = video(1, 1).expand(20, -1, -1, -1) + 0.001 * video(2)
    result = compared({CLEAN: video(0), PROTECTED: still, NOISE: video(3)}, flow)
    frozen = [note for note in result.notes if "moves far less" in note]
    assert len(frozen) == 1
    assert frozen[0].startswith("The protected video")


def test_strips_are_evenly_spaced_small_copies_of_the_frames() -> None:
    frames = torch.linspace(0, 1, 21).view(-1, 1, 1, 1).expand(-1, 200, 400, 3)
    result = compared({CLEAN: frames, PROTECTED: 1 - frames})
    assert result.strip_indices == (0, 5, 10, 15, 20)
    assert result.strips[CLEAN].shape == (5, 3, STRIP_SIDE // 2, STRIP_SIDE)
    assert result.strips[CLEAN].dtype == torch.uint8
    assert result.strips[CLEAN][:, 0, 0, 0].tolist() == [0, 64, 128, 191, 255]
    assert result.strips[PROTECTED][:, 0, 0, 0].tolist() == [255, 191, 128, 64, 0]
    assert compared({CLEAN: frames[:3, :20, :20], PROTECTED: frames[:3, :20, :20]}).strips[CLEAN].shape == (3, 3, 20, 20)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({PROTECTED: video(1, 16)}, r"different numbers of frames \(clean 20, protected 16\).*\"length\" to \"shortest\""),
        ({TRUTH: video(1, 20, 16)}, r"different sizes \(clean 32x24, protected 32x24, ground truth 32x16\)"),
        ({NOISE: video(1, 0)}, "noise video has no frames"),
        ({TRUTH: video(1).index_fill(0, torch.tensor([13]), float("nan"))}, "Frame 14 of the ground truth video .* not numbers"),
    ],
)
def test_videos_that_cannot_be_compared_are_refused_in_a_sentence(changes: dict[str, Tensor], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        compared({CLEAN: video(0), PROTECTED: video(1), **changes}, PSNR)


def test_a_video_of_another_size_is_resized_to_the_clean_one_and_a_note_says_so() -> None:
    """A victim whose videos follow the picture's size was given a smaller copy: flat frames tell that nothing else happened to them."""
    flat = torch.linspace(0, 1, 20)[:, None, None, None]
    clean, small = flat.expand(20, 24, 32, 3), (flat * 0.5).expand(20, 12, 16, 3)
    result = compared({CLEAN: clean, PROTECTED: small}, PairMeasure("difference", "", None, lambda a, b: (a - b).abs().flatten(1).mean(1)))
    assert reading(result, "difference").items == pytest.approx((flat.flatten() * 0.5).tolist(), abs=1e-6)
    assert any("protected video is 16x12 and was resized to 32x24" in note for note in result.notes)


def test_of_different_lengths_the_shortest_may_be_asked_for() -> None:
    branches = {CLEAN: video(0, 20), PROTECTED: video(1, 13)}
    result = compared(branches, PSNR, shortest=True)
    assert result.frames == 13
    expected = compared({CLEAN: branches[CLEAN][:13], PROTECTED: branches[PROTECTED]}, PSNR)
    assert reading(result, "PSNR") == reading(expected, "PSNR")
    assert "Only the first 13 frames are compared, since the videos have different lengths (clean 20, protected 13)." in result.notes


@dataclass(frozen=True)
class OddClip:
    """Frames in chunks of another size than the others', and fewer than it says."""

    pictures: Tensor
    chunk: int
    frames: int
    closed: list[bool]

    @property
    def size(self) -> tuple[int, int]:
        return self.pictures.shape[1], self.pictures.shape[2]

    def read(self) -> Iterator[Tensor]:
        try:
            yield from self.pictures.movedim(-1, 1).split(self.chunk)
        finally:
            self.closed.append(True)


def test_clips_may_come_in_any_chunks() -> None:
    clean, protected = video(0), video(1)
    odd = {CLEAN: OddClip(clean, 3, 20, []), PROTECTED: OddClip(protected, 7, 20, [])}
    assert reading(last(compare(odd, [PSNR], victim="test")), "PSNR") == reading(
        compared({CLEAN: clean, PROTECTED: protected}, PSNR), "PSNR"
    )


def test_a_video_that_ends_too_early_is_refused() -> None:
    with pytest.raises(ValueError, match="protected video ends after 20 of 30 frames"):
        last(compare({CLEAN: HeldClip(video(0, 30)), PROTECTED: OddClip(video(1), 8, 30, [])}, [PSNR], victim="test"))


def test_progress_counts_all_work_and_files_are_closed_when_it_is_cut_short() -> None:
    closed: list[bool] = []
    clips = {CLEAN: HeldClip(video(0)), PROTECTED: OddClip(video(1), 8, 20, closed)}
    reports = list(compare(clips, [PSNR, distance(2), Unavailable("FID", "Missing.")], victim="test"))
    assert [report.done for report in reports] == [*range(1, reports[-1].total - 2), *range(reports[-1].total - 3, reports[-1].total + 1)]
    assert {report.total for report in reports} == {3 * (1 + 1 + 1) + 3}
    assert [report.comparison is None for report in reports] == [True] * (len(reports) - 1) + [False]
    assert {"frame 8 of 20", "frame 20 of 20", "PSNR", "distance", "FID"} <= {report.doing for report in reports}
    running = compare(clips, [PSNR], victim="test")
    next(running)
    assert closed == [True]
    running.close()
    assert closed == [True, True]


def test_the_json_form_holds_everything_but_the_pictures() -> None:
    settings = {"seed": 5, "steps": (1, 2), "gain": math.inf, "sampler": torch.float32}
    result = compared({CLEAN: video(0), PROTECTED: video(1)}, PSNR, surrogate=True, settings=settings)
    read = json.loads(json.dumps(as_json(result), allow_nan=False))
    assert (read["victim"], read["surrogate"], read["frames"], read["height"], read["width"]) == ("test", True, 20, 24, 32)
    assert read["settings"] == {"seed": 5, "steps": [1, 2], "gain": "inf", "sampler": "torch.float32"}
    assert read["strips"] == {"frames": [0, 5, 10, 14, 19], "branches": {name: {"height": 24, "width": 32} for name in (CLEAN, PROTECTED)}}
    (row,) = read["rows"]
    found = reading(result, "PSNR")
    assert row["readings"][PROTECTED] == {
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "n": 20,
        "items": list(found.items),
        "why": "",
    }


def test_the_table_tells_every_figure_once_and_every_reason_once() -> None:
    branches = {CLEAN: video(0), PROTECTED: video(1), NOISE: video(2), TRUTH: video(3)}
    away = [Unavailable(name, "The file is missing.") for name in ("DINO", "subject consistency")]
    result = compared(branches, PSNR, distance(16, least=6), *away, surrogate=True)
    head, *table = as_text(result).split("\n")
    assert head == "test: 20 frames of 32x24; the protection was made with this model."
    rows = [[cell.strip() for cell in entry.strip("|").split("|")] for entry in table if entry.startswith("|")]
    assert rows[0] == ["measure", "against", "clean", "protected", "noise", "ground truth", "n", "higher is"]
    assert [row[:3] for row in rows[2:]] == [["PSNR (dB)", "clean", ""], ["PSNR (dB)", "ground truth", rows[3][2]]]
    found = reading(result, "PSNR", NOISE, TRUTH)
    assert [float(part) for part in rows[3][4].replace("[", "").replace("]", "").replace(",", "").split()] == pytest.approx(
        [found.value, found.low, found.high], abs=1e-3
    )
    assert "DINO, subject consistency: not measured: The file is missing." in table
    assert len([entry for entry in table if entry.startswith("distance: not measured: it needs at least 21 frames")]) == 1


@dataclass(frozen=True)
class MadeClip:
    """Frames that are made as they are asked for, so that their number costs nothing."""

    frames: int
    seed: int
    size: tuple[int, int] = (64, 64)

    def read(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        for first in range(0, self.frames, CHUNK):
            yield torch.rand(min(CHUNK, self.frames - first), 3, *self.size, generator=generator)


def test_four_times_as_many_frames_take_no_more_memory() -> None:
    measures = [PSNR, distance(16), ClipMeasure("level", "", "better", brightness(3, 2), lambda said: said[:, 0])]

    def peak(frames: int) -> int:
        clips: dict[str, Clip] = {branch: MadeClip(frames, seed) for seed, branch in enumerate((CLEAN, PROTECTED, NOISE, TRUTH))}
        gc.collect()
        with peak_bytes() as bytes_of:
            last(compare(clips, measures, victim="test"))
        return bytes_of()

    short, long = peak(24), peak(96)
    assert short > 4 * CHUNK * 3 * 64 * 64 * 4  # the chunks themselves: the measurement sees them
    assert long < 1.03 * short
