"""Transform Image in the real server."""

from __future__ import annotations

import pytest
import torch
from bench.client import Client, Event
from bench.server import ComfyServer
from stillguard.engine.files import decode_picture
from stillguard.engine.purify.edits import JPEGFile, RoundedNoise
from stillguard.engine.purify.geometry import Crop, Resize
from stillguard.engine.purify.pipelines import PIPELINES, Pipeline
from support import Graph, node


def edited(name: str, image: list[object], kind: str, before: str | None = None, **settings: object) -> Graph:
    settings = {f"transformation.{key}": value for key, value in settings.items()}
    words = {} if before is None else {"before": [before, 1]}
    saving = {"filename_prefix": f"test/{name}", "format": "png", "budget": 64.0, "keep_workflow": False}
    return {
        name: node("StillguardTransformImage", image=image, transformation=kind, **settings, **words),
        f"save {name}": node("StillguardSaveProtectedImage", images=[name, 0], **saving),
        f"done {name}": node("PreviewAny", source=[name, 1]),
    }


LOAD: Graph = {
    "load": node("LoadImage", image="astronaut.png"),
    "transparent": node("SolidMask", value=0.25, width=256, height=256),
    "alpha": node("JoinImageWithAlpha", image=["load", 0], alpha=["transparent", 0]),
    "two": node("RepeatImageBatch", image=["alpha", 0], amount=2),
}


def test_a_chain_of_nodes_does_what_it_says_to_every_picture(client: Client, server: ComfyServer) -> None:
    photo = decode_picture((server.base / "input" / "astronaut.png").read_bytes())[None, :3]
    height, width = photo.shape[-2:]
    graph = {key: dict(entry) for key, entry in LOAD.items()}
    graph["transparent"] = node("SolidMask", value=0.25, width=width, height=height)
    graph |= edited("noise", ["two", 0], "Gaussian noise", sigma=0.05, seed=3)
    graph |= edited("cropped", ["noise", 0], "crop", "noise", share=0.5, back=False)
    graph |= edited("jpeg", ["cropped", 0], "JPEG", "cropped", quality=60, subsampling="4:4:4")
    graph |= edited("posted", ["load", 0], "pipeline", sequence="social media")
    graph |= edited("sized", ["load", 0], "resize", scale=0.5, method="bicubic", back=True)
    result = client.run(graph)
    assert result.status == "success", result.error

    def pictures(name: str) -> list[torch.Tensor]:
        return [decode_picture(client.view(image)) for image in result.outputs[f"save {name}"]["images"]]

    chain = Pipeline((RoundedNoise(0.05, 3), Crop(0.5), JPEGFile(60, "4:4:4")))
    for index, picture in enumerate(pictures("jpeg")):
        assert torch.equal(picture[:3], chain.numbered(index)(photo)[0])
        assert set((picture[3] * 255).round().unique().tolist()) == {191.0}
    (first, second) = pictures("jpeg")
    assert not torch.equal(first, second)
    assert torch.equal(pictures("posted")[0], PIPELINES["social media"](photo)[0])
    assert torch.equal(pictures("sized")[0], Resize(0.5, "bicubic")(photo)[0])
    (done,) = result.outputs["done jpeg"]["text"]
    sizes = f"{width}x{height} became {width // 2}x{height // 2}"
    assert done == f"Gaussian noise, sigma 0.05, seed 3 -> {Crop(0.5)}, {sizes} -> {JPEGFile(60, '4:4:4')}"
    assert [event.data["value"] for event in result.of("progress") if event.data["node"] == "jpeg"][-1] == 2


@pytest.mark.parametrize(
    ("kind", "settings", "sentence"),
    [
        ("median blur", {"kernel": 4}, "A kernel 4 pixels wide has no middle pixel"),
        ("crop", {"share": 0.01, "back": True}, "leaves nothing: keep more"),
        ("Gaussian blur", {"kernel": 99, "sigma": 0.0}, "A kernel of 99 pixels is too wide for a picture of 32x32"),
    ],
)
def test_nonsense_is_told(client: Client, kind: str, settings: dict[str, object], sentence: str) -> None:
    graph = {"load": LOAD["load"]}
    graph["small"] = node("ImageScale", image=["load", 0], upscale_method="area", width=32, height=32, crop="disabled")
    result = client.run(graph | edited("wrong", ["small", 0], kind, **settings))
    assert result.status == "error"
    assert sentence in result.error


def test_every_kind_runs_with_its_defaults(client: Client) -> None:
    """As a user meets them: what the node offers, with the values that stand there."""
    options = client.object_info()["StillguardTransformImage"]["input"]["required"]["transformation"][1]["options"]
    assert len(options) == 14
    graph: Graph = {"load": LOAD["load"]}
    for option in options:
        fields = option["inputs"].get("required", {})
        defaults = {name: facts["default"] if "default" in facts else facts["options"][0] for name, (_, facts) in fields.items()}
        assert all(facts["tooltip"] for _, facts in fields.values())
        graph |= edited(option["key"], ["load", 0], option["key"], **defaults)
    result = client.run(graph)
    assert result.status == "success", result.error
    words = [result.outputs[f"done {option['key']}"]["text"][0] for option in options]
    assert len(set(words)) == len(words)


def test_a_long_video_can_be_cancelled(client: Client) -> None:
    def cancel(event: Event) -> None:
        if event.type == "progress" and event.data["node"] == "long" and event.data["value"] >= 2:
            client.interrupt()

    graph = {"load": LOAD["load"], "many": node("RepeatImageBatch", image=["load", 0], amount=200)}
    graph |= edited("long", ["many", 0], "median blur", kernel=9)
    assert client.run(graph, cancel).status == "interrupted"
