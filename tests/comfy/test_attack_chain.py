"""The attack test from end to end in the real server: protect, attack the three pictures with an image-to-video model, compare, report.

The model is SVD in core's own classes with random weights. It proves that the numbers are those of the frames, and nothing about effect.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench.client import Client, Result
from bench.prompt import load_prompt, titles
from bench.server import ComfyServer
from PIL import Image
from safetensors.numpy import load_file
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from support import Graph, make_quick, node

BRANCHES = ("clean", "protected", "noise")
WORKFLOW = Path(__file__).parents[2] / "workflows" / "attack_svd.json"


@dataclass(frozen=True)
class Chain:
    """A finished run. frames, pictures: by branch, [N,H,W,3] in [0,1] before any rounding."""

    prompt: Graph
    result: Result
    written: dict[str, Path]
    document: dict[str, Any]
    frames: dict[str, np.ndarray]
    pictures: dict[str, np.ndarray]

    @property
    def rows(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Measure -> branch -> reading, of the one victim."""
        return {row["name"]: row["readings"] for row in self.document["victims"][0]["rows"]}


def only(prompt: Graph, kind: str) -> str:
    (key,) = [key for key, entry in prompt.items() if entry["class_type"] == kind]
    return key


def titled(prompt: Graph, title: str) -> dict[str, Any]:
    (key,) = [key for key, name in titles(prompt).items() if name == title]
    return prompt[key]["inputs"]


def run(client: Client, server: ComfyServer, prompt: Graph, name: str) -> Chain:
    """Run it, keeping also what the victim made and what it was given."""
    compared, told = prompt[only(prompt, "StillguardCompareVideos")]["inputs"], prompt[only(prompt, "StillguardProtectionReport")]["inputs"]
    for branch in BRANCHES:
        prompt[f"frames {branch}"] = node("TestkitKeepFrames", frames=compared[branch], name=f"{name}_frames_{branch}")
        prompt[f"picture {branch}"] = node("TestkitKeepFrames", frames=told[branch], name=f"{name}_picture_{branch}")
    result = client.run(prompt)
    assert result.status == "success", result.error
    output = server.base / "output"
    shown = result.outputs[only(prompt, "StillguardProtectionReport")]
    page, card = shown["stillguard_report"][0], shown["images"][0]
    files = {Path(entry["filename"]).suffix: output / entry["subfolder"] / entry["filename"] for entry in (page, card)}
    files[".json"] = files[".html"].with_suffix(".json")
    kept = {
        what: {branch: load_file(output / f"{name}_{what}_{branch}.safetensors")["frames"] for branch in BRANCHES}
        for what in ("frames", "picture")
    }
    document = json.loads(files[".json"].read_text(encoding="utf-8"))
    return Chain(prompt, result, files, document, kept["frames"], kept["picture"])


@pytest.fixture(scope="module")
def connected(server: ComfyServer) -> Iterator[Client]:
    with server.client(silence_seconds=120) as client:
        yield client


@pytest.fixture(scope="module")
def chain(connected: Client, server: ComfyServer) -> Chain:
    return run(connected, server, make_quick(load_prompt(WORKFLOW, connected.object_info())), "chain")


def test_the_report_is_a_page_a_file_for_programs_and_a_picture(chain: Chain) -> None:
    assert set(chain.written) == {".html", ".json", ".png"}
    page = chain.written[".html"].read_text(encoding="utf-8")
    assert "SVD" in page
    assert page.count("data:image/") >= 3 * 3 + 3  # a strip of three frames for each branch, and the pictures themselves
    assert not re.search(r"(src|href|srcset)\s*=\s*[\"']?\s*(https?:|//)|url\(\s*[\"']?https?:|@import", page)  # it loads nothing
    card = Image.open(chain.written[".png"])
    assert min(card.size) > 200
    assert card.info == {}


def test_the_numbers_are_those_of_the_frames(chain: Chain) -> None:
    """PSNR, SSIM and mean difference by scikit-image and NumPy."""
    clean = chain.frames["clean"].astype(float)
    assert clean.shape == (3, 64, 64, 3)
    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    for branch in ("protected", "noise"):
        frames = chain.frames[branch].astype(float)
        assert (frames != clean).any()
        psnr = [peak_signal_noise_ratio(a, b, data_range=1.0) for a, b in zip(clean, frames, strict=True)]
        ssim = [structural_similarity(a, b, data_range=1.0, channel_axis=2, **gaussian) for a, b in zip(clean, frames, strict=True)]
        readings = {name: chain.rows[name][branch] for name in ("PSNR", "SSIM", "L1")}
        assert readings["PSNR"]["items"] == pytest.approx(psnr, abs=1e-3)
        assert readings["PSNR"]["value"] == pytest.approx(np.mean(psnr), abs=1e-3)
        assert readings["SSIM"]["items"] == pytest.approx(ssim, abs=1e-4)
        assert readings["L1"]["value"] == pytest.approx(255 * np.abs(frames - clean).mean(), rel=1e-4)
        assert chain.rows["LPIPS"][branch]["value"] > 0


def test_noise_has_the_budget_of_the_protection(chain: Chain) -> None:
    levels = {branch: np.rint(picture[0] * 255).astype(int) for branch, picture in chain.pictures.items()}
    for branch in ("protected", "noise"):
        seen = chain.document["visibility"][branch]
        assert seen["linf"] == np.abs(levels[branch] - levels["clean"]).max() == 8
        psnr = peak_signal_noise_ratio(levels["clean"], levels[branch], data_range=255)
        assert seen["psnr"] == pytest.approx(psnr, abs=1e-3)


def test_what_cannot_be_measured_is_named_and_the_rest_goes_on(chain: Chain) -> None:
    missing = {name: readings["protected"] for name, readings in chain.rows.items() if readings["protected"]["value"] is None}
    assert "FVD" in missing
    assert all(reading["why"] for reading in missing.values())
    page = chain.written[".html"].read_text(encoding="utf-8")
    assert "not measured" in page


def test_settings_and_seeds_are_told_and_file_names_are_not(chain: Chain) -> None:
    told = {entry["title"]: entry["values"] for entry in chain.document["settings"]}
    assert [told[f"Attack: {branch}"]["seed"] for branch in BRANCHES] == [2024] * 3
    assert told["Example protection"]["budget"] == told["Random Noise (Baseline)"]["budget"]
    assert "astronaut" not in chain.written[".html"].read_text(encoding="utf-8") + json.dumps(chain.document)


def test_the_same_seed_gives_the_same_frames(chain: Chain, connected: Client, server: ComfyServer) -> None:
    """Made anew: what ComfyUI remembered is forgotten."""
    connected.post("/free", {"unload_models": True, "free_memory": True})
    # ComfyUI forgets between two prompts, and a prompt that comes at once may be the first of them.
    connected.run({"load": node("LoadImage", image="astronaut.png"), "show": node("PreviewImage", images=["load", 0])})
    again = run(connected, server, json.loads(json.dumps(chain.prompt)), "again")
    for branch in BRANCHES:
        assert np.array_equal(again.frames[branch], chain.frames[branch])
    assert again.rows == chain.rows
    assert again.written[".html"] != chain.written[".html"]
    assert chain.written[".html"].is_file()


def saved(picture: Image.Image, ending: str = "png", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, ending, **options)
    return buffer.getvalue()


def photo(values: np.ndarray) -> Image.Image:
    """[1,H,W,3] in [0,1] -> the picture that a lossless file holds."""
    return Image.fromarray(np.rint(values[0] * 255).astype(np.uint8))


def at_sixteen_levels(clean: Image.Image) -> Image.Image:
    noise = np.random.default_rng(0).choice([-16, 16], (clean.height, clean.width, 3))
    return Image.fromarray((np.array(clean).astype(int) + noise).clip(0, 255).astype(np.uint8))


COPIES: dict[str, Callable[[Image.Image, Image.Image], bytes]] = {
    "own PNG": lambda protected, clean: saved(protected),
    "own WebP": lambda protected, clean: saved(protected, "webp", lossless=True),
    "WebP with loss": lambda protected, clean: saved(protected, "webp", quality=75),
    "JPEG 75": lambda protected, clean: saved(protected, "jpeg", quality=75),
    "half size": lambda protected, clean: saved(protected.resize((128, 128), Image.Resampling.LANCZOS)),
    "screenshot": lambda protected, clean: saved(protected.resize((263, 261), Image.Resampling.BILINEAR)),
    "crop": lambda protected, clean: saved(protected.crop((20, 10, 220, 170))),
    "16 levels": lambda protected, clean: saved(at_sixteen_levels(clean)),
}
"""What people have of a protected photo: (protected, clean) -> a file."""


def attack(chain: Chain, connected: Client, server: ComfyServer, name: str, file: bytes, **check: object) -> Chain:
    """Choose the file, turn the switch, run."""
    prompt = json.loads(json.dumps(chain.prompt))
    titled(prompt, "Your protected photo")["image"] = connected.upload_image(file, f"{name}.{Image.open(io.BytesIO(file)).format.lower()}")
    titled(prompt, "Use your protected photo")["switch"] = True
    prompt[only(prompt, "StillguardCheckCopy")]["inputs"].update(check)
    return run(connected, server, prompt, name.replace(" ", "_"))


def check_copy(own: Chain, kind: str) -> None:
    """The victim ran on it, and the report says how visible it is or why that is not known."""
    ran = {event.data["node"] for event in own.result.of("executing")}
    assert only(own.prompt, "StillguardProtectionReport") in ran
    assert only(own.prompt, "StillguardProtect") not in ran
    assert own.rows["PSNR"]["protected"]["value"] is not None
    page, text = (
        own.written[".html"].read_text(encoding="utf-8"),
        own.result.outputs[only(own.prompt, "StillguardProtectionReport")]["text"][0],
    )
    seen, clean, copy = own.document["visibility"].get("protected"), photo(own.pictures["clean"]), photo(own.pictures["protected"])
    if kind == "crop":
        assert seen is None
        for told in (own.document["visibility_not_measured"]["protected"], page, text):
            assert "it shows about 49% of the clean picture (it is 200x160, the clean one 256x256)" in told
        return
    assert seen["resized_from"] == (None if copy.size == clean.size else [copy.height, copy.width])
    back = np.array(copy.resize(clean.size, Image.Resampling.BICUBIC))
    assert seen["psnr"] == pytest.approx(peak_signal_noise_ratio(np.array(clean), back), abs=0.1)
    if copy.size != clean.size:
        for told in (page, text):
            assert f"is {copy.width} × {copy.height} pixels and was resized back to be measured" in told


@pytest.mark.parametrize("kind", [pytest.param("own PNG", marks=pytest.mark.slow), "JPEG 75", "half size", "crop"])
def test_what_people_have_of_a_protected_photo_is_attacked(chain: Chain, connected: Client, server: ComfyServer, kind: str) -> None:
    """The user's way: a file goes in, the switch is turned, and nothing is protected here."""
    file = COPIES[kind](photo(chain.pictures["protected"]), photo(chain.pictures["clean"]))
    own = attack(chain, connected, server, kind, file)
    check_copy(own, kind)
    if kind == "own PNG":
        assert np.array_equal(own.pictures["protected"], chain.pictures["protected"])
        assert own.rows == chain.rows
        assert own.document["visibility"] == chain.document["visibility"]


def test_another_photo_stops_before_the_victim_runs_or_is_named_in_the_report(chain: Chain, connected: Client, server: ComfyServer) -> None:
    other = saved(Image.fromarray(data.chelsea()))
    with pytest.raises(AssertionError, match="does not look like a copy of the clean one: choose two files of the same photo"):
        attack(chain, connected, server, "other", other)
    own = attack(chain, connected, server, "other asked for", other, another_photo="go on")
    for told in (own.written[".html"].read_text(encoding="utf-8"), own.document["visibility_not_measured"]["protected"]):
        assert "it does not look like a copy of the clean picture" in told
    assert "choose its file anew" in own.result.outputs[only(own.prompt, "StillguardProtectionReport")]["text"][0]


CORE = [f"attack_{name}" for name in ("svd", "wan", "wan_animate", "ltx", "hunyuan", "sdedit", "instruct_pix2pix")]


@pytest.mark.slow
@pytest.mark.parametrize("workflow", CORE)
def test_every_victim_of_core_runs_on_every_copy(connected: Client, server: ComfyServer, workflow: str) -> None:
    prompt = make_quick(load_prompt(WORKFLOW.with_name(f"{workflow}.json"), connected.object_info()))
    prompt[only(prompt, "StillguardCompareVideos")]["inputs"]["measures"] = "pixels only"
    chain = run(connected, server, prompt, workflow)
    protected, clean = photo(chain.pictures["protected"]), photo(chain.pictures["clean"])
    for kind, make in COPIES.items():
        own = attack(chain, connected, server, f"{workflow} {kind}", make(protected, clean))
        check_copy(own, kind)
    with pytest.raises(AssertionError, match="does not look like a copy of the clean one"):
        attack(chain, connected, server, f"{workflow} other", saved(Image.fromarray(data.chelsea())))


def test_a_photo_that_is_not_protected_is_said_to_be_equal(chain: Chain, connected: Client, server: ComfyServer) -> None:
    prompt = json.loads(json.dumps(chain.prompt))
    titled(prompt, "Use your protected photo")["switch"] = True  # with the clean photo in its place
    own = run(connected, server, prompt, "unprotected")
    assert np.array_equal(own.frames["protected"], own.frames["clean"])
    assert own.rows["PSNR"]["protected"]["value"] == "inf"
    assert own.rows["SSIM"]["protected"]["value"] == pytest.approx(1, abs=1e-6)
    assert own.rows["L1"]["protected"]["value"] == 0
    assert own.document["visibility"]["protected"]["linf"] == 0
