"""The pack in ComfyUI's real page, in both of its node renderers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.browser import Frontend, frontend
from bench.paths import BENCH, ROOT
from bench.prompt import to_prompt
from bench.server import ComfyServer
from support import OWN_WORKFLOWS, QUICK, with_stand_ins

# Attacks on other victims than the laboratory's run through the API, and one of them in test_chain.py: here they would take minutes.
QUICK_ONES = [
    path for path in OWN_WORKFLOWS if path.stem == "attack_lab" or "StillguardProtectionReport" not in path.read_text(encoding="utf-8")
]
FIRST_TRY = ROOT / "workflows" / "protect_first_try.json"
# Workflow -> title of the node that shows what it is about.
ANIMATED = "Clean and protected, animated"
LAST = {
    "attack_dormant": ANIMATED,
    "attack_lab": "Clean, noise, protected: unet",
    "attack_i2vguard_svd": ANIMATED,
    "attack_i2vguard_wan": ANIMATED,
}
RENDERERS = {"classic": False, "vue": True}


@pytest.fixture(scope="module", params=RENDERERS)
def page(request: pytest.FixtureRequest, server: ComfyServer) -> Iterator[Frontend]:
    with frontend(server.url, vue=RENDERERS[request.param]) as opened:
        opened.wait_for_node_type("StillguardProtect")
        yield opened


def quick(page: Frontend, workflow: Path) -> None:
    """Load the workflow with few steps, small pictures and small models."""
    page.load_workflow(with_stand_ins(json.loads(workflow.read_text(encoding="utf-8"))))
    page.page.evaluate(
        """quick => { for (const node of app.graph.nodes) for (const [name, value] of Object.entries(quick[node.type] ?? {}))
            node.widgets.find(widget => widget.name === name).value = value; }""",
        QUICK,
    )


@pytest.mark.parametrize("workflow", QUICK_ONES, ids=lambda path: path.stem)
def test_a_workflow_loads_runs_and_shows_its_pictures(page: Frontend, workflow: Path, request: pytest.FixtureRequest) -> None:
    if workflow.stem == "attack_lab" and "classic" in request.node.name and not request.config.getoption("--slow"):
        pytest.skip("slow: this one runs in the newer renderer; add --slow to run it in both")
    quick(page, workflow)
    assert page.run(seconds=180) == "success"
    titles = {node["id"]: node.get("title") for node in json.loads(workflow.read_text(encoding="utf-8"))["nodes"]}
    shown = {titles[int(node_id)]: output for node_id, output in page.outputs().items()}
    assert shown["Protected picture"]["images"][0]["filename"].startswith("protected_")
    assert "at most 8 levels" in shown["Protected picture"]["text"][0]
    assert shown[LAST.get(workflow.stem, "Amplified perturbation")]["images"]
    assert page.errors == []
    page.fit_view()
    page.screenshot(BENCH / "screenshots" / f"{request.node.callspec.id}.png")


def test_the_page_can_make_every_node(page: Frontend) -> None:
    """Its menu lists also those that it cannot put down: where a dynamic input's first choice brought sockets, it failed."""
    page.errors.clear()
    made = """() => Object.keys(LiteGraph.registered_node_types).filter(type => type.startsWith('Stillguard'))
        .map(type => [type, LiteGraph.createNode(type) !== null])"""
    outcome = dict(page.page.evaluate(made))
    assert len(outcome) > 30
    assert [name for name, whole in outcome.items() if not whole] == []
    assert page.errors == []


@pytest.mark.parametrize("workflow", OWN_WORKFLOWS, ids=lambda path: path.stem)
def test_the_bench_converts_a_workflow_as_the_page_does(page: Frontend, workflow: Path, server: ComfyServer) -> None:
    """And the committed file is what the page would write today: no input is lost or shifted."""
    page.load_workflow(workflow)
    with server.client() as client:
        converted = to_prompt(json.loads(workflow.read_text(encoding="utf-8")), client.object_info())
    from_page = page.graph_to_prompt()
    for node in from_page.values():
        node["inputs"].pop("video-preview", None)  # the page's own player, which the server does not know
    assert {k: (n["class_type"], n["inputs"]) for k, n in converted.items()} == {
        k: (n["class_type"], n["inputs"]) for k, n in from_page.items()
    }


def test_progress_and_preview_reach_the_page(page: Frontend) -> None:
    quick(page, FIRST_TRY)
    page.page.evaluate(
        """() => { window.seen = {};
        const protect = app.graph.nodes.find(n => n.type === 'StillguardProtect');
        protect.widgets.find(w => w.name === 'seed').value += 1000 + Math.floor(Math.random() * 1e6);
        for (const kind of ['progress', 'progress_state', 'progress_text', 'b_preview_with_metadata'])
            app.api.addEventListener(kind, e => { (window.seen[kind] ??= []).push(e.detail?.text ?? 1); }); }"""
    )
    assert page.run(seconds=180) == "success"
    seen = page.page.evaluate("window.seen")
    assert seen["progress_state"]
    assert seen["b_preview_with_metadata"]
    assert any("VAE Latent" in str(text) for text in seen["progress_text"])


def test_a_mistake_is_explained_in_the_page(page: Frontend, request: pytest.FixtureRequest) -> None:
    quick(page, FIRST_TRY)
    page.page.evaluate("() => { const n = app.graph.nodes.find(n => n.type === 'StillguardProtect'); n.disconnectInput(1); }")
    assert page.run() == "error"
    page.page.get_by_text("No loss is connected to Protect: add a loss node").first.wait_for(timeout=5000)
    page.page.wait_for_timeout(600)  # messages slide in
    page.screenshot(BENCH / "screenshots" / f"error-{request.node.callspec.id}.png")
    page.page.evaluate("app.extensionManager.toast.removeAll()")


def test_a_file_that_core_cannot_read_is_explained_too(page: Frontend, server: ComfyServer, request: pytest.FixtureRequest) -> None:
    """Core says what its library says: "Invalid data found", and where the file lies."""
    (server.base / "input" / "garbage.wav").write_bytes(bytes(range(256)))
    quick(page, ROOT / "workflows" / "protect_silencer.json")
    page.page.evaluate(
        "() => { app.graph.nodes.find(n => n.title === 'Speech').widgets.find(widget => widget.name === 'audio').value = 'garbage.wav'; }"
    )
    assert page.run() == "error"
    page.page.get_by_text("Load Audio cannot read its file: choose another one, or save it again").first.wait_for(timeout=5000)
    page.page.wait_for_timeout(600)  # messages slide in
    page.screenshot(BENCH / "screenshots" / f"unreadable-{request.node.callspec.id}.png")
    page.page.evaluate("app.extensionManager.toast.removeAll()")


def test_the_help_page_opens(page: Frontend, request: pytest.FixtureRequest) -> None:
    page.load_workflow(FIRST_TRY)
    page.page.evaluate("app.canvas.selectNode(app.graph.nodes.find(n => n.type === 'StillguardProtect'))")
    page.page.locator("[data-testid*=info]").first.click()  # the (i) above the selected node
    page.page.get_by_text("Each photo of a batch").first.wait_for(timeout=5000)
    page.screenshot(BENCH / "screenshots" / f"help-{request.node.callspec.id}.png")
