"""The attack workflows for third-party packs, in a server with stand-ins of the same ports, and in one without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench.client import Client, Prompt, PromptRefused
from bench.paths import BenchError
from bench.ports import PACKS
from bench.prompt import load_prompt
from bench.server import ComfyServer
from PIL import Image
from support import PACK_NODES, PACK_WORKFLOWS, WORKFLOWS, make_quick, node, packs_of

SMALL = "small.png"
FAST: dict[str, dict[str, object]] = {
    "ImageScale": {"width": 64, "height": 64},
    "EmptyLatentImage": {"width": 64, "height": 64, "batch_size": 3},
    "StillguardCompareVideos": {"measures": "pixels only"},
}
# What brings a picture to another size or number on its way into the victim.
FITTING = {"ImageScale", "ImageScaleToMaxDimension", "RepeatImageBatch"}
# No stand-in reads what these load.
READERS = {"CLIPLoader": "TestkitNoTextEncoder", "CLIPVisionLoader": "TestkitTinyCLIPVision"}
Link = tuple[str, int]


@pytest.fixture(scope="module")
def with_packs(pack_server: ComfyServer) -> Iterator[Client]:
    Image.open(pack_server.base / "input" / "astronaut.png").resize((64, 64)).save(pack_server.base / "input" / SMALL)
    with pack_server.client(silence_seconds=120) as connected:
        yield connected


@pytest.fixture(scope="module")
def object_info(with_packs: Client) -> dict[str, Any]:
    return with_packs.object_info()


@pytest.fixture(scope="module")
def victims(comfy: None) -> tuple[Any, ...]:
    from stillguard.nodes.attack.victim_table import VICTIMS

    return VICTIMS


def small(prompt: Prompt) -> Prompt:
    """The same prompt with a small photo, few steps, and nothing loaded for the stand-ins."""
    for entry in prompt.values():
        if entry["class_type"] in READERS:
            entry.update(class_type=READERS[entry["class_type"]], inputs={})
        if entry["class_type"] == "LoadImage":
            entry["inputs"]["image"] = SMALL
        entry["inputs"].update(FAST.get(entry["class_type"], {}))
    return make_quick(prompt)


def one(prompt: Prompt, kind: str) -> dict[str, Any]:
    (found,) = [entry["inputs"] for entry in prompt.values() if entry["class_type"] == kind]
    return found


@pytest.mark.parametrize("workflow", PACK_WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_with_its_packs(with_packs: Client, object_info: dict[str, Any], workflow: Path) -> None:
    result = with_packs.run(small(load_prompt(workflow, object_info)))
    assert result.status == "success", result.error
    page = [entry for output in result.outputs.values() for entry in output.get("stillguard_report", [])]
    assert len(page) == 1
    assert b"<html" in with_packs.view(page[0])


@pytest.mark.parametrize("workflow", PACK_WORKFLOWS, ids=lambda path: path.stem)
def test_without_its_packs_a_workflow_is_refused_with_the_names_of_the_nodes(
    client: Client, object_info: dict[str, Any], workflow: Path
) -> None:
    prompt = load_prompt(workflow, object_info)
    missing = {entry["class_type"] for entry in prompt.values() if entry["class_type"] in PACK_NODES}
    assert missing
    with pytest.raises(BenchError) as refused:
        load_prompt(workflow, client.object_info())
    assert all(name in str(refused.value) for name in missing | packs_of(workflow))
    with pytest.raises(PromptRefused) as answer:
        client.run(prompt)
    error = answer.value.details["error"]
    assert error["type"] == "missing_node_type"
    assert error["extra_info"]["class_type"] in missing


def test_installed_victims_sees_the_packs_and_then_their_files(with_packs: Client, pack_server: ComfyServer) -> None:
    def listed() -> str:
        result = with_packs.run({"victims": node("StillguardInstalledVictims")})
        return str(result.outputs["victims"]["text"][0])

    def section(text: str, name: str) -> str:
        return next(part for part in text.split("\n\n") if name in part)

    before = listed()
    assert "Cannot run" not in before
    assert "install" not in before
    assert "- MimicMotion:" in section(before, "no file was found")
    files = [
        pack_server.base / "models" / "mimicmotion" / "MimicMotionMergedUnet_1-1-fp16.safetensors",
        pack_server.base / "models" / "diffusers" / "stable-video-diffusion-img2vid-xt-1-1" / "model_index.json",
    ]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    try:
        assert "- MimicMotion:" in section(listed(), "Can run now")
    finally:
        for file in files:
            file.unlink()


def test_the_table_names_the_nodes_packs_and_ports_that_the_workflows_use(victims: tuple[Any, ...], object_info: dict[str, Any]) -> None:
    by_workflow = {victim.workflow: victim for victim in victims if victim.pack is not None}
    assert set(by_workflow) == {workflow.stem for workflow in PACK_WORKFLOWS}
    for workflow in PACK_WORKFLOWS:
        victim = by_workflow[workflow.stem]
        used = {entry["class_type"] for entry in load_prompt(workflow, object_info).values()}
        assert set(victim.requires) == used & PACK_NODES.keys()
        assert {victim.pack.repository} == packs_of(workflow)
    assert {pack.repository for pack in PACKS} == {victim.pack.repository for victim in by_workflow.values()}
    for victim in victims:
        for kind, name in victim.pictures:
            assert name in {**object_info[kind]["input"].get("required", {}), **object_info[kind]["input"].get("optional", {})}


def expression(prompt: Prompt, link: Link, pictures: set[Link]) -> object:
    """What a link carries, written out down to its sources, with PICTURE for any of `pictures`."""
    if link in pictures:
        return "PICTURE"
    entry = prompt[link[0]]
    inputs = {name: expression(prompt, _link(value), pictures) if is_link(value) else value for name, value in entry["inputs"].items()}
    return entry["class_type"], link[1], sorted(inputs.items(), key=lambda item: item[0])


def is_link(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def _link(value: Any) -> Link:
    return str(value[0]), int(value[1])


def entries(prompt: Prompt, source: Link, picture: Link) -> set[tuple[str, str]]:
    """Inputs upstream of `source` that take the picture, fitted or not."""
    upstream, waiting = {picture[0]}, [source[0]]
    while waiting:
        key = waiting.pop()
        if key not in upstream:
            upstream.add(key)
            waiting += [value[0] for value in prompt[key]["inputs"].values() if is_link(value)]
    taken = {
        (key, name)
        for key in upstream - {picture[0]}
        for name, value in prompt[key]["inputs"].items()
        if is_link(value) and _link(value) == picture
    }
    kinds = {(prompt[key]["class_type"], name) for key, name in taken if prompt[key]["class_type"] not in FITTING}
    # What fits a picture hands on the same picture.
    return kinds.union(*(entries(prompt, source, (key, 0)) for key, _ in taken if prompt[key]["class_type"] in FITTING))


@pytest.mark.parametrize(
    "workflow",
    [path for path in WORKFLOWS if "StillguardProtectionReport" in path.read_text(encoding="utf-8")],
    ids=lambda path: path.stem,
)
def test_the_three_branches_differ_in_nothing_but_the_picture(
    object_info: dict[str, Any], victims: tuple[Any, ...], workflow: Path
) -> None:
    """Seeds, settings, poses and audio are the same, those of the clean picture, and the picture enters where the table says."""
    prompt = load_prompt(workflow, object_info)
    photos = one(prompt, "StillguardProtectionReport")
    pictures = {name: _link(photos[name]) for name in ("clean", "protected", "noise")}
    assert len(set(pictures.values())) == 3
    ports = [set(victim.pictures) for victim in victims if victim.workflow == workflow.stem]
    compared = [entry["inputs"] for entry in prompt.values() if entry["class_type"] == "StillguardCompareVideos"]
    assert compared
    for frames in compared:
        whole = {name: expression(prompt, _link(frames[name]), {link, pictures["clean"]}) for name, link in pictures.items()}
        assert whole["clean"] == whole["protected"] == whole["noise"]
        for name in ("protected", "noise"):
            assert entries(prompt, _link(frames[name]), pictures[name]) in ports
