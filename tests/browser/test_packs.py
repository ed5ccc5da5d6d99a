"""The attack workflows for third-party packs in ComfyUI's real page, with stand-ins for the packs and without."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.browser import Frontend, frontend
from bench.paths import BENCH
from bench.prompt import to_prompt
from bench.server import ComfyServer
from support import PACK_WORKFLOWS, packs_of


@pytest.fixture(scope="module")
def page(request: pytest.FixtureRequest) -> Iterator[Frontend]:
    """Of the server whose fixture is named: one page at a time."""
    server: ComfyServer = request.getfixturevalue(request.param)
    with frontend(server.url, vue=True) as opened:
        opened.wait_for_node_type("StillguardProtect")
        yield opened


@pytest.mark.parametrize("page", ["pack_server"], indirect=True)
@pytest.mark.parametrize("workflow", PACK_WORKFLOWS, ids=lambda path: path.stem)
def test_with_its_packs_the_page_converts_a_workflow_as_the_bench_does(page: Frontend, workflow: Path, pack_server: ComfyServer) -> None:
    page.load_workflow(workflow)
    with pack_server.client() as client:
        converted = to_prompt(json.loads(workflow.read_text(encoding="utf-8")), client.object_info())
    from_page = page.graph_to_prompt()
    for node in from_page.values():
        for player in ("video-preview", "audioUI"):  # the page's own, which the server does not know
            node["inputs"].pop(player, None)
    assert {key: (node["class_type"], node["inputs"]) for key, node in converted.items()} == {
        key: (node["class_type"], node["inputs"]) for key, node in from_page.items()
    }


@pytest.mark.parametrize("page", ["server"], indirect=True)
@pytest.mark.parametrize("workflow", PACK_WORKFLOWS[::3], ids=lambda path: path.stem)
def test_without_its_packs_a_workflow_opens_and_the_page_names_them(page: Frontend, workflow: Path) -> None:
    page.load_workflow(workflow)
    heading = page.page.get_by_text("Missing Node Packs").first
    if not heading.is_visible():
        page.page.get_by_role("button", name="View details").first.click()
    heading.wait_for(timeout=10_000)
    for repository in packs_of(workflow):
        page.page.get_by_text(repository).first.wait_for(timeout=10_000)
    page.screenshot(BENCH / "screenshots" / f"missing-{workflow.stem}.png")
