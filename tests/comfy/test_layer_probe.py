"""Layer Probe on core's small video models: the right places in the right colours, one sentence for what does not fit, a real server."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from bench.client import Client
from bench.server import ComfyServer
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from stillguard.engine.contact_sheet import GAP, strip_height
from stillguard.engine.probe import principal_picture
from support import Graph, node
from torch import Tensor, nn
from video_models import Loaded, load

HEIGHT, WIDTH = 48, 80
# Of the pictures without their labels: whole pixels for every place of CogVideoX.
SHOWN = (144, 240)


@pytest.fixture(scope="module")
def folder(comfy: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("probe")


@pytest.fixture(scope="module", params=["CogVideoX", "SVD"])
def loaded(request: pytest.FixtureRequest, folder: Path) -> Loaded:
    return load(request.param, folder)


@pytest.fixture(scope="module")
def cogvideox(folder: Path) -> Loaded:
    return load("CogVideoX", folder)


@pytest.fixture(autouse=True)
def previews(comfy: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import folder_paths

    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))


def halves() -> Tensor:
    """IMAGE, dark on the left and bright on the right."""
    image = torch.full((1, HEIGHT, WIDTH, 3), 0.1)
    image[:, :, WIDTH // 2 :] = 0.9
    return image


def sized(loaded: Loaded, **changes: object) -> Any:
    """A surrogate whose videos have the picture's size."""
    spec = loaded.spec(**changes)
    return replace(spec, size=replace(spec.size, width=0, height=0))


def probed(surrogate: object, **changes: object) -> tuple[Any, ...]:
    from stillguard.nodes.evaluate.layer_probe import ALONE, LayerProbe

    inputs = {"image": halves(), "level": 0.5, "blocks": "all", "frame": 0, "size": SHOWN[1], "working_size": WIDTH, "seed": 0}
    with torch.inference_mode():
        return LayerProbe.PREPARE_CLASS_CLONE(None).execute(i2v_surrogate=surrogate, **{**inputs, "components": ALONE, **changes}).args


def cells(picture: Tensor, height: int, width: int) -> Tensor:
    """What a labelled picture [H,W,3] shows in the middle of each place: [3,h,w]."""
    shown = picture[strip_height(SHOWN[1]) :].movedim(-1, 0)
    assert shown.shape == (3, *SHOWN)
    rows, columns = (((torch.arange(count) + 0.5) * side / count).long() for count, side in zip((height, width), SHOWN, strict=True))
    return shown[:, rows][:, :, columns]


@pytest.mark.parametrize("components", ["all frames", "this frame"])
def test_every_place_of_every_block_has_the_colour_of_its_features(
    loaded: Loaded, components: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose places are known where they arise: UNets give them as maps, CogVideoX its latents' 3 x 5 patches frame by frame."""
    from stillguard.nodes.bridge.surrogates.taps import Recorder

    keep, maps = Recorder._keep, dict[int, Tensor]()

    def remember(self: Recorder, tap: Any, module: nn.Module, inputs: object, output: Any) -> None:
        given = output[0] if isinstance(output, tuple) else output
        maps[tap.block] = (given.unflatten(1, (2, 3, 5))[0] if given.ndim == 3 else given.movedim(1, -1)).clone()
        keep(self, tap, module, inputs, output)

    monkeypatch.setattr(Recorder, "_keep", remember)
    pictures, sheet, table = probed(sized(loaded), frame=1, components=components)
    assert len(pictures) == len(maps) == {"CogVideoX": 2, "SVD": 24}[loaded.family.name]
    lines = table.splitlines()
    assert lines[0].startswith(f"{loaded.family.name} at noise level 0.5, frame 1; ")
    for picture, (block, features), line in zip(pictures, sorted(maps.items()), lines[4:], strict=True):
        grid = tuple(features.shape[:3])
        expected = principal_picture(features.flatten(0, 2), grid, frame=1 if components == "this frame" else None)
        torch.testing.assert_close(cells(picture, *grid[1:]), expected.picture[1], atol=1e-5, rtol=0)
        shares = [f"{share:.1%}" for share in (*expected.shares, sum(expected.shares))]
        assert [cell.strip() for cell in line.strip("|").split("|")] == [str(block), f"{grid[2]}x{grid[1]}", *shares]
    assert torch.equal(sheet[0, : pictures.shape[1], : pictures.shape[2]], pictures[0])
    assert torch.equal(sheet[0, : pictures.shape[1], pictures.shape[2] + GAP :][:, : pictures.shape[2]], pictures[1])


def test_what_is_left_and_right_in_the_picture_is_so_in_the_features(loaded: Loaded) -> None:
    """Almost without noise, in the first block: the first component tells the halves apart, and not what is above from what is below."""
    large = halves().repeat_interleave(2, 1).repeat_interleave(2, 2)
    pictures, *_ = probed(sized(loaded), image=large, working_size=2 * WIDTH, level=0.02, blocks="0")
    height, width = {"CogVideoX": (6, 10), "SVD": (12, 20)}[loaded.family.name]
    red = cells(pictures[0], height, width)[0].numpy()
    rows, columns = np.mgrid[:height, :width]
    alike = [abs(np.corrcoef(red.ravel(), half.ravel())[0, 1]) for half in (columns >= width / 2, rows >= height / 2)]
    assert alike[0] > 0.75
    assert alike[1] < 0.25


def test_the_noise_is_that_of_the_seed_and_only_the_chosen_blocks_are_shown(cogvideox: Loaded) -> None:
    surrogate = sized(cogvideox)
    whole, *_ = probed(surrogate)
    assert torch.equal(probed(surrogate)[0], whole)
    assert torch.equal(probed(surrogate, blocks=" 1 ")[0], whole[1:])
    assert torch.equal(probed(surrogate, blocks="auto")[0], whole)
    assert not torch.equal(probed(surrogate, seed=1)[0], whole)


def test_a_connected_video_is_probed_and_nothing_is_sampled(cogvideox: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    import comfy.sample

    monkeypatch.setattr(comfy.sample, "sample", mock.Mock(side_effect=AssertionError))
    still, *_ = probed(sized(cogvideox), level=0.1)
    same, *_ = probed(sized(cogvideox, video=halves().expand(5, -1, -1, -1)), level=0.1)
    other, *_ = probed(sized(cogvideox, video=halves().flip(2).expand(5, -1, -1, -1)), level=0.1)
    torch.testing.assert_close(same, still, atol=1e-4, rtol=0)
    assert float((other - still).abs().mean()) > 0.01


def test_what_fp16_cannot_hold_is_run_in_fp32(cogvideox: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    from stillguard.engine.compute.half import HalfPrecisionError
    from stillguard.nodes.bridge.evaluate import probe
    from stillguard.nodes.bridge.surrogates.denoiser import DifferentiableDenoiser

    estimate, said = DifferentiableDenoiser.estimate, []

    def overflowing(self: DifferentiableDenoiser, *args: Any) -> Any:
        if not self._in_fp32:
            raise HalfPrecisionError(self)
        return estimate(self, *args)

    expected, *_ = probed(sized(cogvideox))
    monkeypatch.setattr(DifferentiableDenoiser, "estimate", overflowing)
    monkeypatch.setattr(probe, "show_text", lambda text, node_id: said.append(text))
    assert torch.equal(probed(sized(cogvideox))[0], expected)
    assert said == ["The video model gives numbers that are not finite in half precision and is run in fp32, which is slower."]


def test_a_cancelled_probe_ends_between_blocks_and_leaves_nothing_behind(cogvideox: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    import comfy.model_management as management

    expected, *_ = probed(sized(cogvideox))
    pictured = mock.Mock(side_effect=AssertionError)
    with monkeypatch.context() as patch:
        patch.setattr("stillguard.nodes.bridge.evaluate.probe.principal_picture", pictured)
        # Between encoders and model, after the first block, and then the user has had enough.
        looks = mock.Mock(side_effect=[None, None, management.InterruptProcessingException])
        patch.setattr(management, "throw_exception_if_processing_interrupted", looks)
        with pytest.raises(management.InterruptProcessingException):
            probed(sized(cogvideox))
    assert not management.in_training
    assert torch.equal(probed(sized(cogvideox))[0], expected)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"image": torch.rand(2, 8, 8, 3)},
            r"^`image` holds 2 pictures, and one is probed at a time: choose one with Get Image from Batch\.$",
        ),
        ({"level": 1.5}, r"^`level` is 1\.5, and noise goes from 0 \(none\) to 1 \(nothing but noise\): choose a number between\.$"),
        ({"level": float("nan")}, r"^`level` is nan, and noise goes from 0"),
        ({"blocks": "last"}, r"^blocks is 'last': write auto, or indices with commas between them"),
        ({"blocks": "0, 2"}, r"^blocks is '0, 2', and this model has blocks 0 to 1: choose among them"),
        ({"frame": 2}, r"^`frame` is 2, and the model's latents have the frames 0 to 1: choose one of these\.$"),
        ({"image": torch.full((1, 64, 64, 3), float("nan"))}, "pixels that are not numbers"),
    ],
)
def test_what_does_not_fit_is_one_sentence(cogvideox: Loaded, changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        probed(sized(cogvideox), **changes)


def test_a_model_without_blocks_is_one_sentence(cogvideox: Loaded) -> None:
    bare = mock.Mock()
    bare.model.diffusion_model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"^This model's blocks cannot be found, so that there is nothing to probe: connect another I2V "):
        probed(sized(cogvideox, model=bare))


def test_a_block_without_numbers_says_so(folder: Path) -> None:
    """Not for lack of noise: level 0 is the least that the model was trained with."""
    svd = load("SVD", folder)
    probed(sized(svd), level=0.0, blocks="1")
    broken, key = svd.model.clone(), "diffusion_model.input_blocks.1.0.in_layers.2.weight"
    broken.add_patches({key: ("diff", (torch.full_like(svd.model.model.state_dict()[key], float("nan")),))})
    with pytest.raises(ValueError, match=r"^Block 1 gives numbers that are not finite at noise level 0\.5: choose another `level`\.$"):
        probed(sized(svd, model=broken), blocks="1")


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 70), st.integers(1, 70), st.integers(0, 4))
def test_grids_are_those_of_halved_sides(frames: int, height: int, width: int, halvings: int) -> None:
    """As a convolution of stride 2 halves them, and patches with what fills the last one up."""
    from stillguard.nodes.bridge.evaluate.probe import grid_of

    pixels = torch.zeros(frames, 1, height, width, device="meta")
    for _ in range(halvings):
        pixels = nn.functional.conv2d(pixels, torch.zeros(1, 1, 3, 3, device="meta"), stride=2, padding=1)
    wanted = (frames, *pixels.shape[-2:])
    places = pixels.numel()
    assert grid_of(places, (frames, 4, height, width)) == wanted
    assert grid_of(places, (1, 16, frames, height, width)) == wanted


def test_places_that_are_no_grid_are_one_sentence() -> None:
    from stillguard.nodes.bridge.evaluate.probe import grid_of

    with pytest.raises(
        ValueError, match=r"^A block of this model has 50 places, which are no grid of 2 frames of 10x6 latents: choose other"
    ):
        grid_of(50, (1, 16, 2, 6, 10))


def test_the_node_in_a_real_server(client: Client, server: ComfyServer) -> None:
    """Pictures behind core's Save Image, the sheet in the node, progress of every block with previews."""
    surrogate = {"conditioning": "auto", "width": 64, "height": 64, "length": 5, "prior_steps": 2, "prior_cfg": 1.5, "prior_seed": 0}
    sockets = {"model": ["model", 0], "vae": ["vae", 0], "clip_vision": ["clip", 0], "positive": ["prompt", 0]}
    chosen = {"level": 0.5, "blocks": "all", "frame": 0, "size": 128, "working_size": 64, "components": "all frames", "seed": 0}
    graph: Graph = {
        "load": node("LoadImage", image="astronaut.png"),
        "model": node("UNETLoader", unet_name="tiny_wan_i2v.safetensors", weight_dtype="default"),
        "vae": node("VAELoader", vae_name="tiny_wan_vae.safetensors"),
        "clip": node("TestkitTinyCLIPVision", hidden=1280),
        "prompt": node("TestkitTinyConditioning"),
        "surrogate": node("StillguardI2VSurrogate", **sockets, **surrogate, attention_blocks="auto"),
        "probe": node("StillguardLayerProbe", image=["load", 0], i2v_surrogate=["surrogate", 0], **chosen),
        "save": node("SaveImage", images=["probe", 0], filename_prefix="test/probe"),
        "sheet": node("SaveImage", images=["probe", 1], filename_prefix="test/sheet"),
    }
    result = client.run(graph)
    assert result.status == "success", result.error
    with safe_open(server.base / "models" / "diffusion_models" / "tiny_wan_i2v.safetensors", "pt") as file:
        names = list(file.keys())
    count = len({key.split(".")[1] for key in names if key.startswith("blocks.")})
    pictures = [np.array(Image.open(io.BytesIO(client.view(entry)))) for entry in result.outputs["save"]["images"]]
    assert [picture.shape for picture in pictures] == [(128 + strip_height(128), 128, 3)] * count
    (shown,) = (np.array(Image.open(io.BytesIO(client.view(entry)))) for entry in result.outputs["probe"]["images"])
    (saved,) = (np.array(Image.open(io.BytesIO(client.view(entry)))) for entry in result.outputs["sheet"]["images"])
    assert np.array_equal(shown, saved)
    assert np.array_equal(shown[: pictures[0].shape[0], :128], pictures[0])
    table = result.outputs["probe"]["text"][0]
    assert table.startswith("Wan at noise level 0.5, frame 0; ")
    assert [line.split("|")[2].strip() for line in table.splitlines()[4:]] == ["4x4"] * count
    steps = [event.data for event in result.of("progress") if event.data["node"] == "probe"]
    # The server leaves out some of those that follow one another at once.
    assert [step["value"] for step in steps] == sorted(step["value"] for step in steps)
    assert (steps[-1]["value"], steps[-1]["max"]) == (2 * count, 2 * count)
    assert [event for event in result.of("binary4") if event.data["node_id"] == "probe"]
