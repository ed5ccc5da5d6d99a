"""Protection Report in the real server, and what it tells of a graph."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import pytest
from bench.client import Client
from bench.server import ComfyServer
from PIL import Image
from support import Graph, node

FRAMES = 20
GROUPS = ("pixels", "lpips", "semantics", "consistency", "quality", "faces", "fid", "fvd")


@pytest.fixture
def report_graph() -> Callable[..., Graph]:
    """A prompt: three still videos of the astronaut are compared and reported; keywords replace inputs of the report."""

    def build(**report: object) -> Graph:
        inputs = {
            "comparisons.comparison0": ["compare", 0],
            "clean": ["small", 0],
            "protected": ["blurred", 0],
            "noise": ["noise", 0],
            "lpips_backbone": "lpips_vgg16.safetensors",
            "title": "The astronaut",
            "notes": "My own words.",
            "filename_prefix": "test/report",
            "include_workflow": False,
            **report,
        }
        # Seeds that nothing else uses: what the server has done already it does not do again.
        noise = node("StillguardRandomNoise", image=["small", 0], budget=8.0, seed=271828)
        videos = {f"{name}_video": node("RepeatImageBatch", image=[name, 0], amount=FRAMES) for name in ("small", "blurred", "noise")}
        links = {"clean": ["small_video", 0], "protected": ["blurred_video", 0], "noise": ["noise_video", 0]}
        compared = {"victim": "A <b>still</b> & nothing", "surrogate": True, "measures": "pixels only", "lpips_backbone": "none"}
        return {
            "load": node("LoadImage", image="astronaut.png"),
            "small": node("ImageScale", image=["load", 0], upscale_method="area", width=64, height=64, crop="disabled"),
            "blurred": node("ImageBlur", image=["small", 0], blur_radius=3, sigma=2.0),
            "noise": {**noise, "_meta": {"title": "Equal noise"}},
            **videos,
            "compare": node("StillguardCompareVideos", **links, **compared, paper_conventions=False, length="equal"),
            "report": node("StillguardProtectionReport", **{name: value for name, value in inputs.items() if value is not None}),
        }

    return build


def written(client: Client, output: dict[str, object]) -> dict[str, bytes]:
    """Ending -> content of the three files of one report."""
    (page,) = output["stillguard_report"]
    name = page["filename"].removesuffix("html")
    return {ending: client.view({**page, "filename": name + ending}) for ending in ("html", "json", "png")}


def test_a_report_of_videos_is_written_as_page_file_and_card(client: Client, report_graph: Callable[..., Graph]) -> None:
    result = client.run(report_graph())
    assert result.status == "success", result.error
    output = result.outputs["report"]
    files = written(client, output)
    document = json.loads(files["json"])
    (victim,) = document["victims"]
    assert (victim["victim"], victim["surrogate"], victim["frames"]) == ("A <b>still</b> & nothing", True, FRAMES)
    readings = {row["name"]: row["readings"] for row in victim["rows"] if row["reference"] == "clean"}
    # Blurring reaches further from the clean picture than eight levels of noise do.
    assert readings["PSNR"]["protected"]["value"] < readings["PSNR"]["noise"]["value"]
    assert document["visibility"]["noise"]["linf"] == 8
    assert document["visibility"]["protected"]["lpips"] > 0
    assert document["title"] == "The astronaut"
    page = files["html"].decode()
    assert "A &lt;b&gt;still&lt;/b&gt; &amp; nothing" in page
    assert "My own words." in page
    card = Image.open(io.BytesIO(files["png"]))
    assert (card.format, card.width, card.info) == ("PNG", 1200, {})
    assert output["images"][0]["filename"] == output["stillguard_report"][0]["filename"].replace(".html", ".png")
    assert "test/report_" in output["text"][0]


def test_without_the_weights_of_lpips_the_rest_goes_on(client: Client, server: ComfyServer, report_graph: Callable[..., Graph]) -> None:
    file = server.base / "models" / "stillguard" / "lpips_vgg16.safetensors"
    aside = file.with_suffix(".aside")
    file.rename(aside)
    graph = report_graph(title="No weights")
    graph["compare"]["inputs"].update(
        {"measures": "choose", "lpips_backbone": file.name} | dict.fromkeys((f"measures.{g}" for g in GROUPS), False)
    )
    graph["compare"]["inputs"]["measures.lpips"] = True
    try:
        result = client.run(graph)
    finally:
        aside.rename(file)
    assert result.status == "success", result.error
    document = json.loads(written(client, result.outputs["report"])["json"])
    assert document["visibility"]["protected"]["lpips"] is None
    assert document["visibility"]["protected"]["psnr"] > 0
    (text,) = result.outputs["report"]["text"]
    assert "LPIPS of the photos is not measured: The file lpips_vgg16.safetensors" in text
    assert "models/stillguard folder" in text
    # The same prompt, once the file is there: what was said without it is not remembered.
    again = client.run(graph)
    document = json.loads(written(client, again.outputs["report"])["json"])
    assert document["visibility"]["protected"]["lpips"] > 0
    ((lpips,),) = [
        [row["readings"]["protected"]["value"] for row in victim["rows"] if row["name"] == "LPIPS"] for victim in document["victims"]
    ]
    assert lpips > 0
    third = client.run(graph)
    assert not {"compare", "report"} & {event.data["node"] for event in third.of("executing")}  # and what was said with it is


def test_a_report_that_a_loop_makes_tells_settings_and_seeds(
    client: Client, server: ComfyServer, report_graph: Callable[..., Graph]
) -> None:
    graph = {key: entry for key, entry in report_graph().items() if key in ("load", "small")}
    graph["loop"] = node("TestkitReportInALoop", frames=["small", 0], seed=161803)
    result = client.run(graph)
    assert result.status == "success", result.error
    (file,) = (server.base / "output" / "test").glob("looped_*.json")
    told = {entry["kind"]: entry["values"] for entry in json.loads(file.read_text(encoding="utf-8"))["settings"]}
    assert told["StillguardRandomNoise"]["seed"] == 161803
    assert told["StillguardCompareVideos"]["measures"] == "pixels only"


def test_settings_and_seeds_are_told_but_no_photo_and_no_folder(
    client: Client, server: ComfyServer, report_graph: Callable[..., Graph]
) -> None:
    graph = report_graph(title="Settings")
    graph["unrelated"] = node("StillguardRandomNoise", image=["small", 0], budget=3.0, seed=5)
    result = client.run(graph)
    assert result.status == "success", result.error
    files = written(client, result.outputs["report"])
    told = {entry["node"]: entry for entry in json.loads(files["json"])["settings"]}
    assert told["noise"] == {
        "node": "noise",
        "kind": "StillguardRandomNoise",
        "title": "Equal noise",
        "values": {"budget": 8.0, "seed": 271828},
    }
    assert told["load"]["values"]["image"] == "(file name left out)"
    assert not {"unrelated", "report"} & told.keys()
    order = list(told)
    assert order.index("load") < order.index("small") < order.index("noise") < order.index("compare")
    for text in (files["html"].decode(), files["json"].decode()):
        assert "271828" in text
        assert "astronaut.png" not in text
        assert str(server.base) not in text


def test_the_workflow_is_added_on_request(client: Client, report_graph: Callable[..., Graph]) -> None:
    result = client.run(report_graph(include_workflow=True, title="With workflow"))
    files = written(client, result.outputs["report"])
    assert json.loads(files["json"])["workflow"]["load"]["inputs"]["image"] == "astronaut.png"
    assert "astronaut.png" in files["html"].decode()


def test_reports_share_a_number_and_overwrite_nothing(client: Client, server: ComfyServer, report_graph: Callable[..., Graph]) -> None:
    folder = server.base / "output" / "test"
    folder.mkdir(exist_ok=True)
    (folder / "taken_00001_.png").write_bytes(b"the user's")
    names = []
    for title in ("one", "two"):
        output = client.run(report_graph(filename_prefix="test/taken", title=title)).outputs["report"]
        names.append(output["stillguard_report"][0]["filename"])
    assert names == ["taken_00002_.html", "taken_00003_.html"]
    assert (folder / "taken_00001_.png").read_bytes() == b"the user's"
    assert sorted(path.suffix for path in folder.glob("taken_00002_.*")) == [".html", ".json", ".png"]


def test_reports_stay_in_the_output_folder(client: Client, server: ComfyServer, report_graph: Callable[..., Graph]) -> None:
    assert client.run(report_graph(filename_prefix="../outside")).status == "error"
    assert not list(server.base.glob("outside*"))


def test_comparisons_alone_are_enough(client: Client, report_graph: Callable[..., Graph]) -> None:
    graph = report_graph(clean=None, protected=None, noise=None, lpips_backbone="none", **{"comparisons.comparison1": ["compare", 0]})
    result = client.run(graph)
    assert result.status == "success", result.error
    document = json.loads(written(client, result.outputs["report"])["json"])
    assert len(document["victims"]) == 2
    assert document["visibility"] == {}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"protected": ["blurred_video", 0]}, "`protected` has 20 pictures"),
        ({"clean": None}, "connect the photo that went into Protect to `clean`"),
    ],
)
def test_a_mistake_is_explained(client: Client, report_graph: Callable[..., Graph], change: dict[str, object], sentence: str) -> None:
    result = client.run(report_graph(**change))
    assert result.status == "error"
    assert sentence in result.error
