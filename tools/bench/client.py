"""A client of ComfyUI's HTTP and websocket interface that sees everything the browser sees."""

from __future__ import annotations

import json
import struct
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import websocket

from .paths import BenchError

Prompt = dict[str, dict[str, Any]]
_ENDINGS = {"execution_success": "success", "execution_error": "error", "execution_interrupted": "interrupted"}


@dataclass(frozen=True)
class Event:
    """One websocket message. A binary one is called "binary" + its number; "binary4" is a preview.

    data: the message, or the metadata of a preview. payload: the bytes of a binary message, a JPEG for a preview.
    time: time.monotonic() on arrival, in seconds.
    """

    type: str
    data: dict[str, Any]
    time: float
    payload: bytes = b""


@dataclass(frozen=True)
class Result:
    """A finished prompt. `status` is success, error or interrupted; `outputs` maps node id to what the node sent to the page."""

    prompt_id: str
    status: str
    outputs: dict[str, dict[str, Any]]
    events: list[Event] = field(repr=False)
    history: dict[str, Any] = field(repr=False)

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event.type == kind]

    @property
    def error(self) -> str:
        """What ComfyUI said when a node failed, else an empty string."""
        failed = self.of("execution_error")
        return f"{failed[0].data['node_type']}: {failed[0].data['exception_message'].strip()}" if failed else ""


class PromptRefused(BenchError):
    """The server did not accept the prompt; `details` is its answer."""

    def __init__(self, details: dict[str, Any]) -> None:
        nodes = details.get("node_errors") or {}
        reasons = [f"{node['class_type']}: {e['message']} ({e['details']})" for node in nodes.values() for e in node["errors"]]
        reasons = reasons or [str((details.get("error") or {}).get("message", details))]
        super().__init__("ComfyUI refused the workflow; correct this and queue it again: " + "; ".join(reasons))
        self.details = details


class Client:
    """One connection. `silence_seconds`: how long a running prompt may send nothing before `events` raises."""

    def __init__(self, port: int, *, silence_seconds: float = 300) -> None:
        self.host = f"127.0.0.1:{port}"
        self.id = uuid.uuid4().hex
        self.silence_seconds = silence_seconds
        self._socket = websocket.create_connection(f"ws://{self.host}/ws?clientId={self.id}", timeout=silence_seconds)
        # Without this flag previews come without the id of the node that they belong to.
        self._socket.send(json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}}))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def get(self, path: str) -> Any:
        return json.loads(self._request(path))

    def post(self, path: str, body: object) -> Any:
        """The answer's JSON, or None where the answer is empty."""
        answer = self._request(path, json.dumps(body).encode(), "application/json")
        return json.loads(answer) if answer else None

    def object_info(self) -> dict[str, Any]:
        info: dict[str, Any] = self.get("/object_info")
        return info

    def history(self, prompt_id: str) -> dict[str, Any]:
        entry: dict[str, Any] = self.get(f"/history/{prompt_id}")[prompt_id]
        return entry

    def view(self, image: dict[str, str]) -> bytes:
        """The file behind an entry of a node's `images` output."""
        return self._request("/view?" + urllib.parse.urlencode(image))

    def interrupt(self, prompt_id: str | None = None) -> None:
        """Stop the prompt if it is the one running; without an id whichever is."""
        self.post("/interrupt", {"prompt_id": prompt_id} if prompt_id else {})

    def upload_image(self, image: Path | bytes, name: str | None = None) -> str:
        """Put a picture into the input folder; returns the name that LoadImage knows it by."""
        content = image.read_bytes() if isinstance(image, Path) else image
        name = name or (image.name if isinstance(image, Path) else "image.png")
        mark = uuid.uuid4().hex
        quoted = name.replace("\\", "_").replace('"', "_")
        head = [f"--{mark}", f'Content-Disposition: form-data; name="image"; filename="{quoted}"', "Content-Type: application/octet-stream"]
        body = b"\r\n".join([*(line.encode() for line in head), b"", content, f"--{mark}--".encode(), b""])
        answer = json.loads(self._request("/upload/image", body, f"multipart/form-data; boundary={mark}"))
        return str(Path(answer["subfolder"], answer["name"]).as_posix())

    def queue(self, prompt: Prompt) -> str:
        """Queue a prompt in API format and return its id; PromptRefused when any part of it does not validate."""
        try:
            answer = self.post("/prompt", {"prompt": prompt, "client_id": self.id})
        except urllib.error.HTTPError as refusal:
            if refusal.code != 400:
                raise
            raise PromptRefused(json.loads(refusal.read())) from None
        prompt_id = str(answer["prompt_id"])
        if answer.get("node_errors"):
            # The server would run the parts that do validate, and say nothing of the others.
            self.post("/queue", {"delete": [prompt_id]})
            self.interrupt(prompt_id)
            raise PromptRefused(answer)
        return prompt_id

    def events(self, prompt_id: str) -> Iterator[Event]:
        """Messages as they come; ends when the prompt is over *and* its history is stored."""
        while True:
            event = self._receive(prompt_id)
            yield event
            # `execution_success` comes before the history is stored, this one after.
            if event.type == "executing" and event.data.get("node") is None and event.data.get("prompt_id") == prompt_id:
                return

    def run(self, prompt: Prompt, on_event: Callable[[Event], None] | None = None) -> Result:
        """Queue, follow to the end, and collect. A failing node is a Result with status "error", not an exception."""
        prompt_id = self.queue(prompt)
        events: list[Event] = []
        for event in self.events(prompt_id):
            events.append(event)
            if on_event:
                on_event(event)
        return self.result(prompt_id, events)

    def result(self, prompt_id: str, events: list[Event]) -> Result:
        """The Result of a prompt whose `events` were collected to the end."""
        endings = [_ENDINGS[e.type] for e in events if e.type in _ENDINGS and e.data.get("prompt_id") == prompt_id]
        history = self.history(prompt_id)
        return Result(prompt_id, endings[-1] if endings else "error", history.get("outputs", {}), events, history)

    def _receive(self, prompt_id: str) -> Event:
        try:
            message = self._socket.recv()
        except websocket.WebSocketTimeoutException:
            silence = f"ComfyUI sent nothing about prompt {prompt_id} for {self.silence_seconds:.0f} s"
            raise BenchError(f"{silence}; look into the server's log and queue it again.") from None
        except (websocket.WebSocketException, OSError):
            raise BenchError("ComfyUI closed the connection; look into the server's log for the reason.") from None
        return parse(message, time.monotonic())

    def _request(self, path: str, body: bytes | None = None, kind: str = "") -> bytes:
        request = urllib.request.Request(f"http://{self.host}{path}", body, {"Content-Type": kind} if kind else {})
        with urllib.request.urlopen(request, timeout=60) as answer:
            content: bytes = answer.read()
        return content


def parse(message: str | bytes, arrived: float) -> Event:
    """Decode a websocket message; the binary layouts are those of ComfyUI's protocol.py."""
    if isinstance(message, str):
        document = json.loads(message)
        return Event(document["type"], document.get("data") or {}, arrived)
    kind, size = struct.unpack(">II", message[:8])
    if kind == 4:  # preview with metadata
        return Event("binary4", json.loads(message[8 : 8 + size]), arrived, message[8 + size :])
    if kind == 3:  # a node's progress text
        return Event("binary3", {"node": message[8 : 8 + size].decode()}, arrived, message[8 + size :])
    return Event(f"binary{kind}", {}, arrived, message[8:])  # preview without metadata
