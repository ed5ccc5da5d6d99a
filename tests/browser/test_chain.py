"""The attack test in ComfyUI's real page: the whole chain by the Run button, and the report as people open it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.browser import Frontend, frontend
from bench.paths import BENCH, ROOT
from bench.server import ComfyServer
from PIL import Image
from support import QUICK, with_stand_ins

WORKFLOW = ROOT / "workflows" / "attack_svd.json"
SHOTS = BENCH / "screenshots"

_LUMINANCE = """() => {
    const [r, g, b] = getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/g).map(Number);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}"""


@pytest.fixture(scope="module")
def page(server: ComfyServer) -> Iterator[Frontend]:
    with frontend(server.url, vue=True) as opened:
        opened.wait_for_node_type("StillguardProtectionReport")
        yield opened


def attack_a_copy(page: Frontend, url: str) -> None:
    """Choose a JPEG copy of half the size and turn the switch, as a user does."""
    photo = Image.open(io.BytesIO(page.page.request.get(f"{url}/view?type=input&filename=astronaut.png").body())).convert("RGB")
    buffer = io.BytesIO()
    photo.resize((photo.width // 2, photo.height // 2)).save(buffer, "JPEG", quality=75)
    copy = {"name": "copy.jpg", "mimeType": "image/jpeg", "buffer": buffer.getvalue()}
    assert page.page.request.post(f"{url}/upload/image", multipart={"image": copy}).ok
    page.page.evaluate(
        """() => { const titled = title => app.graph.nodes.find(node => node.title === title);
            const set = (node, name, value) => { node.widgets.find(widget => widget.name === name).value = value; };
            set(titled('Your protected photo'), 'image', 'copy.jpg'); set(titled('Use your protected photo'), 'switch', true); }"""
    )


@pytest.fixture(scope="module")
def report(page: Frontend, server: ComfyServer) -> Path:
    """The page that the chain wrote, run as a user runs it; the models are small."""
    page.load_workflow(with_stand_ins(json.loads(WORKFLOW.read_text(encoding="utf-8"))))
    page.page.evaluate(
        """quick => { for (const node of app.graph.nodes) for (const [name, value] of Object.entries(quick[node.type] ?? {}))
            node.widgets.find(widget => widget.name === name).value = value; }""",
        QUICK,
    )
    attack_a_copy(page, server.url)
    assert page.run(seconds=180) == "success"
    (entry,) = [output["stillguard_report"][0] for output in page.outputs().values() if "stillguard_report" in output]
    return server.base / "output" / entry["subfolder"] / entry["filename"]


def test_the_whole_chain_runs_and_the_node_shows_its_report(page: Frontend, report: Path) -> None:
    assert report.is_file()
    titles = {str(node["id"]): node.get("title") or node["type"] for node in json.loads(WORKFLOW.read_text(encoding="utf-8"))["nodes"]}
    shown = {titles[key]: output for key, output in page.outputs().items()}
    assert shown["Clean, protected, noise"]["images"][0]["filename"].endswith(".mp4")
    assert "128 × 128 pixels and was resized back to be measured" in report.read_text(encoding="utf-8")
    assert "copy.jpg" not in report.read_text(encoding="utf-8")
    assert page.errors == []
    page.page.evaluate(
        """() => { const node = app.graph.nodes.find(one => one.type === 'StillguardProtectionReport');
            app.canvas.selectNode(node); app.extensionManager.command.execute('Comfy.Canvas.FitView'); }"""
    )
    page.page.wait_for_timeout(1500)  # the view moves with an animation that announces no end
    page.screenshot(SHOTS / "chain-node.png")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_opens_by_itself_in_a_light_and_a_dark_browser(page: Frontend, report: Path, scheme: str) -> None:
    browser = page.page.context.browser
    assert browser is not None
    context = browser.new_context(color_scheme=scheme, viewport={"width": 1200, "height": 900}, offline=True)
    try:
        opened, asked, errors = context.new_page(), [], []
        opened.on("request", lambda request: asked.append(request.url))
        opened.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        opened.on("pageerror", lambda error: errors.append(str(error)))
        opened.goto(report.as_uri())
        assert {url for url in asked if not url.startswith("data:")} == {report.as_uri()}
        assert errors == []
        assert all(opened.evaluate("() => [...document.images].map(picture => picture.complete && picture.naturalWidth > 0)"))
        assert opened.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
        assert (opened.evaluate(_LUMINANCE) > 128) == (scheme == "light")
        opened.screenshot(path=SHOTS / f"chain-{scheme}.png", full_page=True)
    finally:
        context.close()
