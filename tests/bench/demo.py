"""`python -m bench.demo`: protect a portrait with a real ComfyUI server and say where the result is."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from .client import Client, Event, Prompt, Result
from .home import PHOTO, prepare_home
from .paths import ROOT, BenchError
from .progress import Progress
from .prompt import load_prompt, titles
from .serve import keep_open
from .server import ComfyServer

WORKFLOW = ROOT / "workflows" / "protect_portrait.json"
# What is reported -> title of the node that saved it.
PICTURES = {
    "Protected picture": "Protected picture",
    "Amplified perturbation": "Amplified perturbation",
    "Before and after reconstruction": "Before and after reconstruction",
}
NUMBERS = "StillguardPerturbationVisibility"


def main(argv: list[str] | None = None) -> int:
    options = _options(argv)
    try:
        _demo(options.image, keep=options.keep_open)
    except BenchError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: stopped before it was finished; run it again for a result.", file=sys.stderr)
        return 130
    return 0


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="nox -s demo --", description="Protect a portrait with a real ComfyUI server.")
    parser.add_argument("--image", type=Path, help="your own photo instead of the astronaut")
    parser.add_argument("--keep-open", action="store_true", help="leave the server running and print its address")
    return parser.parse_args(argv)


def _demo(image: Path | None, *, keep: bool) -> None:
    if image is not None and not image.is_file():
        raise BenchError(f"The photo {image} does not exist; give the path of a picture file.")
    print("Preparing ComfyUI, an example photo and the weights of the LPIPS network ...", flush=True)
    base = prepare_home()
    print("Starting ComfyUI ...", flush=True)
    with ComfyServer(base) as server:
        with server.client(silence_seconds=1800) as client:
            prompt = load_prompt(WORKFLOW, client.object_info())
            if image is not None:
                use_photo(prompt, client.upload_image(image))
            result = follow(client, prompt)
            if result.status != "success":
                reason = result.error or f"the run was {result.status}"
                raise BenchError(f"ComfyUI could not finish the workflow ({reason}); its log is {server.log}.")
            print(report(result, prompt, base), flush=True)
        if keep:
            keep_open(server)


def use_photo(prompt: Prompt, name: str) -> None:
    """Let every LoadImage that loads the example photo load `name` instead."""
    for node in prompt.values():
        if node["class_type"] == "LoadImage" and node["inputs"].get("image") == PHOTO:
            node["inputs"]["image"] = name


def follow(client: Client, prompt: Prompt) -> Result:
    """Run with progress on the terminal; Ctrl-C interrupts the prompt, waits for its end and goes on."""
    show = Progress(titles(prompt))
    prompt_id = client.queue(prompt)
    events: list[Event] = []
    try:
        _collect(client, prompt_id, events, show)
    except KeyboardInterrupt:
        show.end()
        print("Interrupting ...", flush=True)
        client.interrupt(prompt_id)
        _collect(client, prompt_id, events, show)
        raise
    finally:
        show.end()
    return client.result(prompt_id, events)


def _collect(client: Client, prompt_id: str, events: list[Event], show: Progress) -> None:
    for event in client.events(prompt_id):
        events.append(event)
        show(event)


def report(result: Result, prompt: Prompt, base: Path) -> str:
    """The files and the visibility numbers of a finished run, one per line; BenchError where one is missing."""
    lines = [""]
    for what, where in PICTURES.items():
        for entry in _output(result, prompt, where, "images"):
            lines.append(f"{what}: {base / entry['type'] / entry['subfolder'] / entry['filename']}")
    return "\n".join([*lines, "", *(str(text) for text in _output(result, prompt, NUMBERS, "text"))])


def _output(result: Result, prompt: Prompt, where: str, key: str) -> list[Any]:
    names = titles(prompt)
    for node_id, node in prompt.items():
        if where in (node["class_type"], names[node_id]) and (found := result.outputs.get(node_id, {}).get(key)):
            return list(found)
    raise BenchError(f"The workflow {WORKFLOW.name} gave no output of {where!r}; restore it from the repository.")


if __name__ == "__main__":
    sys.exit(main())
