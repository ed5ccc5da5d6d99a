"""One real ComfyUI server on a free port, for as long as a `with` block lasts."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Self

from .client import Client
from .comfyui import comfyui
from .paths import ROOT, BenchError

_FAILED = ("Cannot import", "comfy_entrypoint in", "module for custom nodes due to")
FOLDERS = ("custom_nodes", "input", "output", "temp", "models", "user")


class ComfyServer:
    """Starts ComfyUI with this pack linked as `custom_nodes/stillguard`.

    base: folder for models, inputs, outputs and the log; made when missing, never emptied.
    packs: further custom node folders, linked under their own names.
    args: appended to ComfyUI's command line.
    threads: of torch; None leaves the choice to torch, which takes one for each physical core.
    """

    def __init__(
        self,
        base: Path,
        *,
        packs: Sequence[Path] = (),
        args: Sequence[str] = (),
        threads: int | None = None,
        start_seconds: float = 300,
    ) -> None:
        self.base = base.resolve()
        self.packs = {"stillguard": ROOT, **{p.name: p.resolve() for p in packs}}
        self.args = list(args)
        self.threads = threads
        self.start_seconds = start_seconds
        self.log = self.base / "server.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._sink: IO[bytes] | None = None

    def __enter__(self) -> Self:
        for name in FOLDERS:
            (self.base / name).mkdir(parents=True, exist_ok=True)
        for name, folder in self.packs.items():
            link_folder(folder, self.base / "custom_nodes" / name)
        try:
            self._start()
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise BenchError("The server has not been started; use it in a `with` block.")
        return self._process

    def client(self, *, silence_seconds: float = 300) -> Client:
        """A connected client; see `Client` for `silence_seconds`."""
        return Client(self.port, silence_seconds=silence_seconds)

    def log_text(self) -> str:
        """Everything the server wrote so far, without colour codes."""
        return re.sub(r"\x1b\[[0-9;]*m", "", self.log.read_text(encoding="utf-8", errors="replace"))

    def log_tail(self, lines: int = 40) -> str:
        return "\n".join(self.log_text().splitlines()[-lines:])

    def failure(self, what: str) -> BenchError:
        return BenchError(f"{what}; correct what the end of its log, {self.log}, says:\n{self.log_tail()}")

    def stop(self) -> None:
        """End the process: politely, and after 15 s by force."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            if self._process.stdin:
                self._process.stdin.close()
        if self._sink is not None:
            self._sink.close()

    def _start(self) -> None:
        self._sink = self.log.open("wb")
        self._process = subprocess.Popen(
            self._command(),
            stdin=subprocess.PIPE,  # launch.py ends when this closes
            stdout=self._sink,
            stderr=subprocess.STDOUT,
            env=self._environment(),
            start_new_session=True,  # Ctrl-C is ours: the prompt is interrupted first, then the server stopped
        )

    def _command(self) -> list[str]:
        import torch

        where = ["--listen", "127.0.0.1", "--port", str(self.port), "--base-directory", str(self.base)]
        quiet = ["--disable-api-nodes", "--database-url", "sqlite:///:memory:"]
        device = [] if torch.cuda.is_available() else ["--cpu"]
        launch = Path(__file__).with_name("launch.py")
        return [sys.executable, str(launch), str(comfyui()), *where, *quiet, *device, *self.args]

    def _environment(self) -> dict[str, str]:
        # Without PYTHONPATH: tests/nodes would shadow ComfyUI's nodes.py.
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        fixed = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
        chosen = {} if self.threads is None else {"OMP_NUM_THREADS": str(self.threads)}
        return {**inherited, **fixed, **chosen}

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.start_seconds
        while not self._answers():
            if self.process.poll() is not None:
                raise self.failure("ComfyUI ended while it was starting")
            if time.monotonic() > deadline:
                raise self.failure(f"ComfyUI did not answer within {self.start_seconds:.0f} s")
            time.sleep(0.2)
        if reason := import_failure(self.log_text()):
            raise BenchError(f"A custom node could not be imported; correct it, the whole log is {self.log}:\n{reason}")

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/system_stats", timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            return False


def import_failure(log: str) -> str:
    """What ComfyUI's log says about custom nodes that could not be imported, with their tracebacks; empty when none failed."""
    lines = log.splitlines()
    found: list[str] = []
    for failed in re.findall(r"\(IMPORT FAILED\): (.+)", log):
        last = next((i for i, line in enumerate(lines) if failed in line and any(mark in line for mark in _FAILED)), len(lines) - 1)
        trace = [i for i in range(max(last - 60, 0), last) if "Traceback" in lines[i]]
        found += lines[trace[-1] if trace and failed in "".join(lines[trace[-1] : last]) else last : last + 1]
    return "\n".join(found)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def link_folder(folder: Path, link: Path) -> None:
    """Make `link` lead to `folder`, replacing an older link; a junction where Windows does not permit symbolic links."""
    if link.is_symlink():
        link.unlink()
    if link.exists():
        if link.samefile(folder):
            return
        raise BenchError(f"{link} is in the way of a link to {folder}; move it away and try again.")
    link.parent.mkdir(parents=True, exist_ok=True)
    try:
        link.symlink_to(folder, target_is_directory=True)
    except OSError:
        if os.name != "nt":
            raise
        subprocess.run(["cmd", "/c", "mklink", "/J", str(link), str(folder)], check=True, capture_output=True)
