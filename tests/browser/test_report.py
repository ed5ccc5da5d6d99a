"""The report's page in Chromium, and the node that shows it in ComfyUI's page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import pytest
import torch
from bench.browser import Frontend, find_chromium, frontend
from bench.paths import BENCH
from bench.server import ComfyServer
from playwright.sync_api import Page, sync_playwright
from stillguard.engine.baselines import random_signs
from stillguard.engine.metrics.compare import compare
from stillguard.engine.metrics.comparison import CLEAN, NOISE, PROTECTED, TRUTH, Comparison
from stillguard.engine.metrics.image import l1_measure, psnr_measure, ssim_measure
from stillguard.engine.metrics.measure import Unavailable
from stillguard.engine.metrics.obedience import obedience_measure
from stillguard.engine.metrics.video_clip import HeldClip
from stillguard.engine.metrics.visibility import visibility
from stillguard.engine.report.document import NodeSettings, Report, gallery
from stillguard.engine.report.page import report_page
from support import Graph, node
from torch import Tensor

SCREENSHOTS = BENCH / "screenshots"
LONG = "AVictimWithANameThatNobodyCouldEverBreakIntoLines" * 3
HURT = "<img src=http://127.0.0.1:9/x onerror=document.title='hurt'><script>document.title='hurt'</script>"
# Contrast as WCAG 2.2 defines it, of every text with its own background or the page's.
FAINT = """() => {
    const parts = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(Number);
    const light = colour => parts(colour).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const paper = light(getComputedStyle(document.body).backgroundColor);
    const faint = [];
    for (const element of document.querySelectorAll('body *')) {
        if (element.matches('title, desc') || ![...element.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
        const style = getComputedStyle(element), ink = light(element.closest('svg') ? style.fill : style.color);
        const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
        if (ratio < 4.5) faint.push(`${element.tagName} ${element.className} ${ratio.toFixed(2)}`);
    }
    return faint;
}"""


def moving(photo: Tensor, frames: int = 20) -> Tensor:
    return torch.stack([photo.roll(index, dims=2) for index in range(frames)]).movedim(1, -1)


def compared(photo: Tensor, victim: str, *, surrogate: bool, truth: bool) -> Comparison:
    generator = torch.Generator().manual_seed(0)
    clean = moving(photo)
    branches = {CLEAN: clean, PROTECTED: (clean + 0.2 * torch.randn(clean.shape, generator=generator)).clamp(0, 1)}
    branches |= {NOISE: (clean + 0.05 * torch.randn(clean.shape, generator=generator)).clamp(0, 1)}
    branches |= {TRUTH: clean.flip(0)} if truth else {}
    measures = [
        obedience_measure(),
        psnr_measure(),
        ssim_measure(),
        l1_measure(),
        Unavailable("FVD", "its weights i3d.safetensors are not in models/stillguard."),
    ]
    clips = {branch: HeldClip(frames) for branch, frames in branches.items()}
    (*_, last) = compare(clips, measures, victim=victim, surrogate=surrogate, settings={"length": "equal"})
    assert last.comparison is not None
    return last.comparison


@pytest.fixture(scope="module")
def file(astronaut: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two victims, one of them with all branches and with names that would like to be markup."""
    photo = astronaut[:, :, :160, 40:200]
    noise = random_signs(photo, 8.0, seed=1)
    pictures = {CLEAN: photo[0], PROTECTED: random_signs(photo, 8.0, seed=2)[0], NOISE: noise[0]}
    report = Report(
        title="Portrait, protected at 8 levels",
        date=date(2025, 11, 20),
        comparisons=(
            compared(photo[0], "Made-up animator", surrogate=True, truth=True),
            compared(photo[0], f"{HURT} {LONG}", surrogate=False, truth=False),
        ),
        visibilities={branch: visibility(photo, pictures[branch][None])[0] for branch in (PROTECTED, NOISE)},
        gallery=gallery(pictures),
        nodes=(NodeSettings("3", "KSampler", LONG, {"seed": 2**63 - 1, "steps": 20, "text": HURT, LONG: LONG}),),
        versions={"Stillguard": "0.1.0"},
        notes=f"First line.\n{LONG}",
        workflow={"1": {"class_type": "LoadImage", "inputs": {"image": LONG}}},
    )
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(report_page(report), encoding="utf-8")
    return path


@contextmanager
def opened(file: Path, *, scheme: str, width: int) -> Iterator[tuple[Page, list[str]]]:
    """The file as a reader opens it, and all that the browser complains of or asks for."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), headless=True, args=["--disable-gpu"])
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith(("data:", file.as_uri())) else said.append(request.url))
        page.goto(file.as_uri())
        yield page, said
        browser.close()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1400), ("dark", 1400), ("light", 400)])
def test_the_page_is_quiet_fits_and_can_be_read(file: Path, scheme: str, width: int) -> None:
    with opened(file, scheme=scheme, width=width) as (page, said):
        page.screenshot(path=SCREENSHOTS / f"report-{scheme}-{width}.png", full_page=True)
        page.get_by_text("The whole prompt").click()
        assert page.evaluate("document.documentElement.scrollWidth") == width
        overflowing = "[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
        inside = f"{overflowing}.filter(e => !e.closest('.scroll')).map(e => e.tagName + ' ' + e.textContent.slice(0, 40))"
        assert page.evaluate(inside) == []
        assert page.evaluate(FAINT) == []
        broken = page.evaluate("[...document.images].filter(i => !i.naturalWidth).length")
        assert broken == 0
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, paper[4:-1].split(","))) > 384) == (scheme == "light")
        assert page.title() == "Portrait, protected at 8 levels"
        assert said == []


def test_the_page_prints_on_white(file: Path) -> None:
    """Also where the reader's system is dark."""
    with opened(file, scheme="dark", width=1400) as (page, _):
        page.emulate_media(media="print")
        dark = page.evaluate("getComputedStyle(document.body).color")
        assert sum(map(int, dark[4:-1].split(","))) < 384
        assert page.evaluate(FAINT.replace("getComputedStyle(document.body).backgroundColor", "'rgb(255, 255, 255)'")) == []


def report_graph(title: str) -> Graph:
    """Titles by which no run finds another's results."""
    videos = {f"{name}_video": node("RepeatImageBatch", image=[name, 0], amount=20) for name in ("small", "blurred", "noise")}
    links = {"clean": ["small_video", 0], "protected": ["blurred_video", 0], "noise": ["noise_video", 0]}
    compared = {"victim": "A still", "surrogate": True, "measures": "pixels only", "lpips_backbone": "none", "length": "equal"}
    pictures = {"comparisons.comparison0": ["compare", 0], "clean": ["small", 0], "protected": ["blurred", 0], "noise": ["noise", 0]}
    given = {"lpips_backbone": "none", "title": title, "notes": "", "filename_prefix": "test/shown", "include_workflow": False}
    graph = {
        "load": node("LoadImage", image="astronaut.png"),
        "small": node("ImageScale", image=["load", 0], upscale_method="area", width=128, height=128, crop="disabled"),
        "blurred": node("ImageBlur", image=["small", 0], blur_radius=3, sigma=2.0),
        "noise": node("StillguardRandomNoise", image=["small", 0], budget=8.0, seed=314159),
        **videos,
        "compare": node("StillguardCompareVideos", **links, **compared, paper_conventions=False),
        "report": node("StillguardProtectionReport", **pictures, **given),
    }
    # The page takes numbers for the ids of nodes only.
    ids = {key: str(index) for index, key in enumerate(graph, 1)}
    for entry in graph.values():
        entry["inputs"] = {name: [ids[value[0]], value[1]] if isinstance(value, list) else value for name, value in entry["inputs"].items()}
    return {ids[key]: entry for key, entry in graph.items()}


@pytest.fixture(params={"classic": False, "vue": True})
def shown(request: pytest.FixtureRequest, server: ComfyServer) -> Iterator[tuple[Frontend, str]]:
    """A graph with a report in ComfyUI's page, and the renderer's name."""
    with frontend(server.url, vue=request.param == "vue") as page:
        page.wait_for_node_type("StillguardProtectionReport")
        page.page.evaluate("prompt => app.loadApiJson(prompt, 'report')", report_graph(f"Shown by {request.param}"))
        page.page.evaluate(
            """() => { const node = app.graph.nodes.find(n => n.type === 'StillguardProtectionReport'); node.pos = [0, 3000];
            node.setSize([440, 720]); app.canvas.ds.scale = 1; app.canvas.ds.offset = [480, -2880]; app.canvas.setDirty(true, true); }"""
        )
        page.page.get_by_role("button", name="Open report").wait_for()
        page.errors.clear()
        yield page, str(request.param)


def test_the_node_shows_the_report_in_a_frame_that_can_do_nothing(shown: tuple[Frontend, str]) -> None:
    page, renderer = shown
    button, dialog = page.page.get_by_role("button", name="Open report"), page.page.locator("dialog.stillguard-report-dialog")
    button.click()
    page.page.get_by_text("Run the workflow first").wait_for(timeout=5000)
    assert page.run() == "success"
    assert "report_view" not in str(page.graph_to_prompt())
    page.page.wait_for_function(
        """() => document.querySelector('img[src*=shown_]')?.naturalWidth
        || app.graph.nodes.some(n => n.type === 'StillguardProtectionReport' && n.imgs?.length)"""
    )
    page.page.wait_for_timeout(500)
    page.screenshot(SCREENSHOTS / f"report-node-{renderer}.png")
    button.click()
    frame = page.page.frame_locator("dialog.stillguard-report-dialog iframe")
    assert frame.get_by_role("heading", level=1).inner_text() == f"Shown by {renderer}"
    assert dialog.locator("iframe").get_attribute("sandbox") == ""
    page.page.wait_for_timeout(400)
    page.screenshot(SCREENSHOTS / f"report-dialog-{renderer}.png")
    frame.get_by_role("link", name="A still").click()
    page.page.wait_for_function("() => document.querySelector('.stillguard-report-dialog iframe')")
    assert frame.get_by_role("heading", level=1).inner_text() == f"Shown by {renderer}"  # a link within leads nowhere else
    with page.page.expect_download() as saving:
        dialog.get_by_text("Save a copy").click()
    assert saving.value.suggested_filename.startswith("shown_")
    nodes = page.page.evaluate("app.graph.nodes.length")
    page.page.keyboard.press("Delete")
    page.page.keyboard.press("Escape")
    dialog.wait_for(state="detached")
    assert page.page.evaluate("app.graph.nodes.length") == nodes
    assert page.errors == []
