"""ADM against the outputs of OpenAI's own code (see adm_files), the published file's layout, and what wrong files say."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from adm_files import DATA, published_shapes, small_adm, small_state
from safetensors.torch import load_file
from stillguard.engine.purify.adm import adm, load_adm
from stillguard.engine.weights.catalogue import catalogue
from stillguard.engine.weights.reading import WeightsError


def test_equals_the_official_network(tmp_path: Path) -> None:
    """Two heads in the attention of the coarsest level, sides of different length, and steps from both ends of the schedule."""
    official = load_file(DATA / "official.safetensors")
    network = load_adm(small_adm(tmp_path))
    with torch.no_grad():
        output = network(official["x"], official["t"])
        eps, variance = network.eps_and_variance(official["x"], official["t"])
    torch.testing.assert_close(output, official["output"], atol=1e-5, rtol=0)
    assert torch.equal(torch.cat([eps, variance], dim=1), output)
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not network.training


def test_heads_of_another_width_are_another_network() -> None:
    """Guards the test above: 32 channels a head fit the same file."""
    official = load_file(DATA / "official.safetensors")
    with torch.no_grad():
        output = adm(small_state(), "small", head_channels=32)(official["x"], official["t"])
    assert float((output - official["output"]).abs().max()) > 0.01


def test_half_precision_stays_near() -> None:
    official = load_file(DATA / "official.safetensors")
    network = adm(small_state(), "small", dtype=torch.bfloat16)
    with torch.no_grad():
        output = network(official["x"], official["t"])
    assert output.dtype == torch.float32
    assert float((output - official["output"]).std() / official["output"].std()) < 0.03


def test_every_name_of_the_published_file_is_accounted_for() -> None:
    state = published_shapes()
    network = adm(state, "256x256_diffusion_uncond.pt")
    numbers = sum(math.prod(tensor.shape) for tensor in state.values())
    assert sum(parameter.numel() for parameter in network.parameters()) == numbers
    assert network.multiple == 32
    entry = catalogue()["adm_uncond"]
    assert set(entry.keys) <= state.keys()
    assert entry.size_mb == pytest.approx(4 * numbers / 1e6, abs=1)


NAMES = ["input_blocks.13.1.qkv.weight", "middle_block.2.emb_layers.1.bias", "output_blocks.2.2.out_layers.3.weight", "time_embed.2.bias"]


@pytest.mark.parametrize("name", NAMES)
def test_a_tensor_too_few_is_named(name: str) -> None:
    state = published_shapes()
    del state[name]
    with pytest.raises(WeightsError, match=rf"file is not a whole ADM, because it lacks {name} \(1 in all\): choose"):
        adm(state, "file")


@pytest.mark.parametrize("name", [*NAMES, "surprise"])
def test_a_tensor_too_many_or_of_another_shape_is_named(name: str) -> None:
    state = published_shapes()
    known, state[name] = name in state, torch.empty(7, device="meta")
    problem = f"has other shapes for {name}" if known else f"has unknown {name}"
    with pytest.raises(WeightsError, match=rf"file is not a whole ADM, because it {problem} \(1 in all\): choose"):
        adm(state, "file")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"out.2.weight": None}, "is not a model in ADM's format"),
        ({"label_emb.weight": (1000, 1024)}, "is an ADM that has to be told what a picture shows"),
        ({"input_blocks.0.0.weight": (256, 6, 3, 3)}, "takes 6 channels and gives 6, where"),
        ({"out.2.weight": (3, 256, 3, 3)}, "takes 3 channels and gives 3, where"),
        ({"input_blocks.4.0.out_layers.3.weight": None}, r"has no blocks of ADM's layout at input_blocks\.4\.0\.out_layers\.3\.weight"),
        ({"input_blocks.4.0.out_layers.3.weight": (48, 48, 3, 3)}, "has levels 256, 48, 512, 512, 1024, 1024 channels wide"),
    ],
)
def test_other_models_are_told(change: dict[str, tuple[int, ...] | None], sentence: str) -> None:
    state = published_shapes()
    for name, shape in change.items():
        state.pop(name, None)
        if shape is not None:
            state[name] = torch.empty(shape, device="meta")
    with pytest.raises(WeightsError, match=f"^file {sentence}.*: choose OpenAI's 256x256_diffusion_uncond.pt.$"):
        adm(state, "file")


def test_a_stable_diffusion_model_is_told() -> None:
    state = {f"model.diffusion_model.{name}": tensor for name, tensor in published_shapes().items()}
    with pytest.raises(WeightsError, match="is not a model in ADM's format"):
        adm(state, "file")
