"""ComfyUI's real page in a headless Chromium, in either of its two node renderers."""

from __future__ import annotations

import json
import os
import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import ConsoleMessage, Page, Request, Response, Route, sync_playwright
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from .client import PromptRefused
from .paths import BenchError

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = ["--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
# The bare page's own: three files that may be missing, a model of its default workflow, and a complaint while it starts.
_EXPECTED = ("/user.css", "/userdata/", "/userdata?", "huggingface.co/Comfy-Org/", "graph accessed before initialization")
_READY = "() => window.app?.extensionManager && window.app?.canvas?.graph && !document.querySelector('.p-blockui-mask')"
_DROP = """text => {
    const data = new DataTransfer();
    data.items.add(new File([text], 'workflow.json', { type: 'application/json' }));
    document.querySelector('#graph-canvas').dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true }));
}"""
_LOADED = "types => JSON.stringify(app.graph.nodes.map(n => n.type).sort()) === types"
_LISTEN = """() => {
    window.benchEnd = null;
    if (window.benchListens) return;
    window.benchListens = true;
    for (const type of ['success', 'error', 'interrupted'])
        app.api.addEventListener('execution_' + type, e => { window.benchEnd ??= { status: type, detail: e.detail }; });
}"""


@dataclass
class Frontend:
    """The open page. `errors` collects console errors, page errors and failed requests to the server; clear it when you begin to look."""

    page: Page
    errors: list[str] = field(default_factory=list)

    def wait_for_node_type(self, name: str, seconds: float = 60) -> None:
        self._wait("name => window.LiteGraph?.registered_node_types?.[name]", name, seconds, f"the node type {name} was not registered")

    def load_workflow(self, workflow: Path | dict[str, Any], seconds: float = 30) -> None:
        """Drop the file on the canvas, as a user does, and wait until its nodes are there. Clears `errors`."""
        text = workflow.read_text(encoding="utf-8") if isinstance(workflow, Path) else json.dumps(workflow)
        types = sorted(str(node["type"]) for node in json.loads(text)["nodes"])
        self.page.evaluate("app.graph.clear()")
        self.errors.clear()
        self.page.evaluate(_DROP, text)
        self._wait(_LOADED, json.dumps(types, separators=(",", ":"), ensure_ascii=False), seconds, "the dropped workflow did not appear")
        self._settle()

    def _settle(self) -> None:
        """Wait for the veil that covers the page while it loads. Loads in quick succession can leave one behind for good."""
        try:
            self.page.wait_for_function("() => !document.querySelector('.p-blockui-mask')", timeout=3000)
        except PlaywrightTimeout:
            self.page.evaluate("document.querySelectorAll('.p-blockui-mask').forEach(veil => veil.remove())")

    def run(self, seconds: float = 120) -> str:
        """Press Run and wait for the end: "success", "error" or "interrupted"."""
        self.start()
        return self.wait_for_end(seconds)

    def start(self) -> None:
        """Press Run; BenchError when the server refuses the prompt."""
        self.page.evaluate(_LISTEN)
        with self.page.expect_response(lambda answer: answer.request.method == "POST" and answer.url.endswith("/prompt")) as queued:
            self.page.get_by_test_id("queue-button").click()
        if queued.value.status >= 400:
            raise PromptRefused(queued.value.json())

    def wait_for_end(self, seconds: float = 120) -> str:
        self._wait("() => window.benchEnd", None, seconds, "the run did not end")
        return str(self.page.evaluate("window.benchEnd.status"))

    def outputs(self) -> dict[str, dict[str, Any]]:
        """Node id -> what the node sent to the page."""
        outputs: dict[str, dict[str, Any]] = self.page.evaluate("app.nodeOutputs")
        return outputs

    def graph_to_prompt(self) -> dict[str, dict[str, Any]]:
        """The prompt that Run would send, by the page's own conversion."""
        prompt: dict[str, dict[str, Any]] = self.page.evaluate("async () => (await app.graphToPrompt()).output")
        return prompt

    def fit_view(self) -> None:
        self.page.evaluate("app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        self.page.wait_for_timeout(800)  # the view moves with an animation that announces no end

    def screenshot(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path)
        return path

    def _wait(self, condition: str, argument: object, seconds: float, otherwise: str) -> None:
        try:
            self.page.wait_for_function(condition, arg=argument, timeout=seconds * 1000)
        except PlaywrightTimeout:
            raise BenchError(f"In the browser {otherwise} within {seconds:.0f} s; it reported {self.errors or 'no errors'}.") from None


@contextmanager
def frontend(url: str, *, vue: bool = False, size: tuple[int, int] = (1400, 900), seconds: float = 120) -> Iterator[Frontend]:
    """Open ComfyUI's page at `url` with a fresh profile; `vue` picks the newer renderer ("Nodes 2.0"). Only loopback is reachable."""
    settings = {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": vue, "Comfy.Workflow.ShowMissingModelsWarning": False}
    for name, value in settings.items():
        _set(url, name, value)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), headless=True, args=_FLAGS)
        try:
            page = browser.new_page(viewport={"width": size[0], "height": size[1]})
            opened = Frontend(page)
            _watch(opened)
            page.route(_leaves_machine, _refuse)
            page.goto(url, wait_until="domcontentloaded")
            opened._wait(_READY, None, seconds, "ComfyUI's page did not become ready")
            opened.wait_for_node_type("LoadImage")
            yield opened
        finally:
            browser.close()


def find_chromium() -> str:
    """Path of Chromium: the environment variable CHROMIUM, else the first of its usual names on PATH."""
    for candidate in (os.environ.get("CHROMIUM"), *map(shutil.which, _NAMES)):
        if candidate and Path(candidate).is_file():
            return candidate
    raise BenchError("No Chromium was found; install it (Debian: apt-get install chromium) or set CHROMIUM to its path.")


def _watch(opened: Frontend) -> None:
    def console(message: ConsoleMessage) -> None:
        if message.type == "error" and not _expected(f"{message.location.get('url')} {message.text}"):
            opened.errors.append(message.text)

    def answered(response: Response) -> None:
        if response.status >= 400 and not _expected(response.url):
            opened.errors.append(f"{response.status} {response.url}")

    def failed(request: Request) -> None:
        if not _leaves_machine(request.url) and not _expected(request.url):
            opened.errors.append(f"{request.failure} {request.url}")

    opened.page.on("console", console)
    opened.page.on("pageerror", lambda error: opened.errors.append(str(error)))
    opened.page.on("response", answered)
    opened.page.on("requestfailed", failed)


def _expected(text: str) -> bool:
    return any(part in text for part in _EXPECTED)


def _leaves_machine(address: str) -> bool:
    parts = urlsplit(address)
    return parts.scheme in ("http", "https", "ws", "wss") and parts.hostname not in ("127.0.0.1", "localhost")


def _refuse(route: Route) -> None:
    route.abort()


def _set(url: str, name: str, value: object) -> None:
    request = urllib.request.Request(f"{url}/settings/{name}", json.dumps(value).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30):
        pass
