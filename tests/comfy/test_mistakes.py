"""What users can do wrong with Protect and its neighbours: one sentence each, and the next prompt runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from bench.client import Client
from bench.server import ComfyServer
from safetensors.torch import load_file, save_file
from stillguard.engine.surrogates.tiny_autoencoder import SHIPPED
from support import Graph, node

Build = Callable[..., Graph]


def failure(client: Client, graph: Graph) -> str:
    """The message that the page shows, after which the next prompt must still run."""
    result = client.run(graph)
    assert result.status == "error"
    return result.error


def test_no_loss_connected(client: Client, protect_graph: Build) -> None:
    assert "No loss is connected to Protect: add a loss node" in failure(client, protect_graph(loss=None))


@pytest.mark.parametrize("budget", [0.0, 64.5])
def test_budget_out_of_range(client: Client, protect_graph: Build, budget: float) -> None:
    graph = protect_graph(budget=budget)
    graph["save"]["inputs"]["budget"] = 8.0
    assert f"The budget is {budget:g} levels: choose 1 to 64" in failure(client, graph)


def test_pixels_that_are_not_numbers(client: Client, protect_graph: Build) -> None:
    graph = protect_graph(image=["spoilt", 0])
    graph["spoilt"] = node("TestkitSpoilPixels", image=["small", 0])
    assert "The picture has pixels that are not numbers" in failure(client, graph)


def test_mask_of_another_size(client: Client, protect_graph: Build) -> None:
    assert "The mask is 64x64 but the picture is 256x256: resize the mask" in failure(
        client, protect_graph(image=["load", 0], mask=["load", 1])
    )


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_a_mask_that_lets_nothing_through(client: Client, protect_graph: Build, value: float) -> None:
    graph = protect_graph(mask=["nothing", 0])
    graph["nothing"] = node("SolidMask", value=value, width=64, height=64)
    assert "A mask is empty" in failure(client, graph)


def test_missing_lpips_weights(client: Client, server: ComfyServer, protect_graph: Build) -> None:
    file = server.base / "models" / "stillguard" / "lpips_vgg16.safetensors"
    file.rename(file.with_suffix(".away"))
    try:
        message = failure(client, protect_graph(seed=41))
    finally:
        file.with_suffix(".away").rename(file)
    assert "lpips_vgg16.safetensors or vgg16-397923af.pth is missing" in message
    assert "models/stillguard" in message


def test_a_vae_without_encoder(client: Client, server: ComfyServer, protect_graph: Build) -> None:
    folder = server.base / "models" / "vae"
    folder.mkdir(exist_ok=True)
    decoder = {key: value for key, value in load_file(SHIPPED).items() if "encoder" not in key}
    save_file(decoder, folder / "decoder_only.safetensors")
    graph = protect_graph()
    graph["vae"]["inputs"]["vae_name"] = "decoder_only.safetensors"
    assert "decoder_only.safetensors has a decoder only" in failure(client, graph)


def test_a_loader_whose_file_lacks_what_is_connected(client: Client, protect_graph: Build) -> None:
    """Core's loader gives nothing for what the file does not hold, and says nothing."""
    graph = protect_graph(loss=["semantic", 0])
    graph["svd"] = node("ImageOnlyCheckpointLoader", ckpt_name="tiny_svd.safetensors")
    graph["semantic"] = node("StillguardCLIPSemanticLoss", clip_vision=["svd", 1], weight=10.0)
    assert "What is connected to `clip_vision` gives nothing, as a loader whose file lacks it does: connect Load CLIP Vision." in failure(
        client, graph
    )


def test_out_of_memory_is_left_to_comfyui(client: Client, protect_graph: Build) -> None:
    graph = protect_graph(seed=51)
    graph["greedy"] = node("TestkitExhaustingVAE", vae=["vae", 0])
    graph["latent"]["inputs"]["vae"] = ["greedy", 0]
    result = client.run(graph)
    (error,) = result.of("execution_error")
    assert "OutOfMemoryError" in error.data["exception_type"]
    assert client.run(protect_graph(seed=52)).status == "success"


def test_only_a_penalty_connected(client: Client, protect_graph: Build) -> None:
    assert "Nothing drives the protection" in failure(client, protect_graph(loss=["lpips", 0]))


def test_saving_a_picture_over_budget_is_refused(client: Client, server: ComfyServer, protect_graph: Build) -> None:
    graph = protect_graph(seed=61)
    graph["save"]["inputs"].update(budget=4.0, filename_prefix="test/refused")
    message = failure(client, graph)
    assert "differs from the clean one by 8 levels where the budget is 4" in message
    assert not list((server.base / "output" / "test").glob("refused*"))
