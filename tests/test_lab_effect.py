"""The shipped laboratory: animators that work, what protection does to them beside noise, and how that is measured."""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from bench.pose_clip import example_keypoints
from PIL import Image
from scipy.stats import bootstrap
from skimage.metrics import peak_signal_noise_ratio
from stillguard.lab import effect
from stillguard.lab.dots import dot_plot
from stillguard.lab.effect import COUNTERMEASURES, Laboratory, Person, Plan, clean_figures, figures
from stillguard.lab.pairs import Pair
from stillguard.lab.presets import PRESETS, Task
from torch import Tensor
from torch.nn import functional as F

SIDE = 128


@pytest.fixture(scope="module")
def laboratory() -> Laboratory:
    return Laboratory()


@pytest.fixture(scope="module")
def pair(astronaut: Tensor) -> Pair:
    """The example portrait, and it again in another pose: there is no photo of that, and nothing here needs one."""
    small = (F.interpolate(astronaut, size=(SIDE, SIDE), mode="area") * 255).round().byte()
    keypoints = np.stack([example_keypoints(phase, SIDE) for phase in (0.0, 0.25)])
    return Pair(7, small.expand(2, -1, -1, -1), keypoints)


def psnr(a: Tensor, b: Tensor) -> float:
    return float(peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=1))


@pytest.mark.parametrize("name", ["surrogate", "transformer", "unet"])
def test_an_animator_keeps_the_person_and_follows_the_pose(laboratory: Laboratory, pair: Pair, name: str) -> None:
    person, animate = Person(laboratory, pair), laboratory.animators[name]
    still = animate(person.photo, person.poses[:1])[0]
    # In the photo's own pose it resembles the photo, far more than the same portrait mirrored.
    assert psnr(still, person.photo[0]) > psnr(still, person.photo[0].flip(-1)) + 2
    # The same frame of the same noise, told another pose.
    assert not torch.allclose(still, animate(person.photo, person.poses[1:])[0], atol=0.05)


def test_protection_changes_the_animation_more_than_noise_does(laboratory: Laboratory, pair: Pair) -> None:
    """Dormant's central claim, on a portrait that is no part of any training set."""
    person = Person(laboratory, pair)

    def effect(preset: str) -> float:
        changed = PRESETS[preset](laboratory.lab, Task(person.photo, person.poses[:1], budget=8, steps=10, seed=1))
        assert float((changed - person.photo).abs().max()) <= 8 / 255 + 1e-6
        figure = next(person.compared(changed, preset))
        assert figure.animator == "surrogate"
        return figure.psnr

    noise = effect("random noise")
    assert effect("VAE term") < noise - 3
    assert effect("Dormant") < noise - 5


def test_every_figure_is_there_and_says_what_was_animated(laboratory: Laboratory, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effect, "STEPS", 2)  # of an animation, whose quality does not matter here
    person, stranger = Person(laboratory, pair), Person(laboratory, pair.mirrored())
    plan = Plan(other_budgets=(16.0,), thorough=("random noise",), budgets=("random noise",))
    rows = list(figures(laboratory, person, stranger, "random noise", plan))
    extra = ["budget 16", *(f"after {name}" for name in COUNTERMEASURES), "pixels shuffled", "on another person"]
    assert [row.what for row in rows[::3]] == ["random noise", *(f"random noise, {what}" for what in extra)]
    assert [row.animator for row in rows[:3]] == ["surrogate", "transformer", "unet"]
    # Three rows once more, by hand: untreated, after JPEG, on another person.
    noisy = PRESETS["random noise"](laboratory.lab, Task(person.photo, person.poses[:1], 8.0, 1, person.number))
    foreign = (stranger.photo + noisy - person.photo).clamp(0, 1)
    jpeg, unet = COUNTERMEASURES["JPEG 75"], laboratory.animators["unet"]
    by_hand = {
        "random noise": (person.photo, noisy, person.poses[1:]),
        "random noise, after JPEG 75": (jpeg(person.photo), jpeg(noisy), person.poses[1:]),
        "random noise, on another person": (stranger.photo, foreign, stranger.poses[1:]),
    }
    for what, (before, after, poses) in by_hand.items():
        (row,) = (row for row in rows if (row.what, row.animator) == (what, "unet"))
        assert row.psnr == pytest.approx(psnr(unet(before, poses)[0], unet(after, poses)[0]), abs=1e-3)
    assert rows[0].photo == pytest.approx(psnr(person.photo, noisy), abs=1e-3)
    # Noise of 8 levels with its pixels shuffled is noise of 8 levels.
    assert next(row.photo for row in rows if "shuffled" in row.what) == pytest.approx(rows[0].photo, abs=0.5)


def test_a_preset_that_is_not_thorough_gives_one_row_for_each_animator(laboratory: Laboratory, pair: Pair) -> None:
    person = Person(laboratory, pair)
    rows = list(figures(laboratory, person, person, "VAE term", Plan(steps=1, thorough=("Dormant",), budgets=("Dormant",))))
    assert [(row.what, row.animator) for row in rows] == [("VAE term", name) for name in laboratory.animators]
    clean = list(clean_figures(person))
    assert [row.psnr for row in clean] == pytest.approx([psnr(person.truth, person.clean(name)) for name in laboratory.animators], abs=1e-3)


def test_likeness_is_one_for_the_same_picture_only(laboratory: Laboratory, astronaut: Tensor) -> None:
    assert laboratory.likeness(astronaut, astronaut) == pytest.approx(1, abs=1e-5)
    assert laboratory.likeness(1 - astronaut, astronaut) < 0.9


def test_jpeg_is_what_a_real_encoder_makes(pair: Pair) -> None:
    photo = pair.pictures[:1].float() / 255
    buffer = io.BytesIO()
    Image.fromarray(pair.pictures[0].permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=75)
    decoded = np.array(Image.open(buffer))
    assert np.array_equal((COUNTERMEASURES["JPEG 75"](photo)[0] * 255).round().byte().permute(1, 2, 0).numpy(), decoded)


@pytest.mark.parametrize("name", COUNTERMEASURES)
def test_a_countermeasure_keeps_size_and_content(pair: Pair, name: str) -> None:
    photo = pair.pictures[:1].float() / 255
    treated = COUNTERMEASURES[name](photo)
    assert treated.shape == photo.shape
    assert not torch.equal(treated, photo)
    if name == "crop":
        treated, photo = F.interpolate(treated, size=(SIDE * 7 // 8,) * 2, mode="area"), photo[..., 8:-8, 8:-8]
    assert psnr(treated, photo) > 15


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    """The script, imported as Python runs it: from its own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
        yield importlib.import_module("effect")


def test_intervals_are_scipys(benchmark: ModuleType) -> None:
    sample = np.random.default_rng(3).normal(20, 3, 40)
    theirs = bootstrap((sample,), np.mean, method="percentile", n_resamples=20000, random_state=1).confidence_interval
    mean, low, high = benchmark.interval(list(sample))
    assert mean == pytest.approx(sample.mean())
    assert low == pytest.approx(theirs.low, abs=0.1)
    assert high == pytest.approx(theirs.high, abs=0.1)


def test_the_difference_from_noise_is_taken_person_by_person(benchmark: ModuleType) -> None:
    """People differ much and the difference not at all: only a paired interval is a point."""
    base = {"animator": "surrogate", "photo": 30.0, "likeness": 0.5}
    people = [[{**base, "what": "random noise", "psnr": 20.0 + i}, {**base, "what": "Dormant", "psnr": 14.0 + i}] for i in range(9)]
    for person in people:
        later = {"random noise": 3, "Dormant": 1}
        person += [{**row, "what": f"{row['what']}, after JPEG 75", "psnr": row["psnr"] + later[row["what"]]} for row in person]
    assert benchmark.beside_noise(people) == "| Dormant | 6.0 [6.0, 6.0] |\n| Dormant, after JPEG 75 | 8.0 [8.0, 8.0] |"
    assert "| Dormant | 9 | 18.0 [" in benchmark.table(people)


def test_the_figure_shows_every_row_where_its_value_is() -> None:
    rows = {"a <b>": {"one": (10.0, 8.0, 12.0), "two": (20.0, 20.0, 20.0)}, "c": {"one": (15.0, 10.0, 20.0), "two": (14.0, 13.0, 15.0)}}
    drawn = ElementTree.fromstring(dot_plot("title", rows))
    space = {"svg": "http://www.w3.org/2000/svg"}
    texts = [text.text for text in drawn.findall("svg:text", space)]
    assert {"title", "a <b>", "c", "one", "two"} <= set(texts)
    dots = [float(circle.get("cx", "")) for circle in drawn.findall("svg:circle", space)][2:]  # the legend's come first
    values = [value for row in rows.values() for value, _, _ in row.values()]
    assert np.corrcoef(dots, values)[0, 1] == pytest.approx(1)


def test_figures_are_kept_preset_by_preset_and_belong_to_their_networks(benchmark: ModuleType, tmp_path: Path) -> None:
    file, keys = tmp_path / "000.json", {"random noise": "networks a", "Dormant": "networks a"}
    first = benchmark.Kept(file, keys)
    first.add("random noise", [{"psnr": 1.0}])
    first.add("Dormant", [{"psnr": 2.0}])
    assert benchmark.Kept(file, keys).rows == {"random noise": [{"psnr": 1.0}], "Dormant": [{"psnr": 2.0}]}
    assert benchmark.Kept(file, {**keys, "Dormant": "networks b"}).rows == {"random noise": [{"psnr": 1.0}]}
