"""`python -m bench.demo`: protect a portrait in a real ComfyUI server, attack it there, and open a page with what came of it."""

from __future__ import annotations

import argparse
import sys
import webbrowser
from pathlib import Path

import numpy as np
from PIL import Image

from .client import Client, Event, Prompt, Result
from .home import PHOTO, prepare_home
from .paths import ROOT, BenchError
from .progress import Progress
from .prompt import load_prompt, titles
from .serve import keep_open
from .server import ComfyServer
from .story import COLUMNS, Attack, numbers, story, write_new_page
from .workflows_lab import VICTIMS

WORKFLOW = ROOT / "workflows" / "attack_lab.json"
# What is attacked -> title of the node that saved it.
PHOTOS = dict(zip(COLUMNS, ("Clean picture", "Picture with noise", "Protected picture"), strict=True))


def main(argv: list[str] | None = None) -> int:
    options = _options(argv)
    try:
        _demo(options)
    except BenchError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: stopped before it was finished; run it again for a result.", file=sys.stderr)
        return 130
    return 0


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="nox -s demo --", description="Protect a portrait in a real ComfyUI server, then attack it.")
    parser.add_argument("--image", type=Path, help="your own photo instead of the astronaut, with head and shoulders about where hers are")
    parser.add_argument("--no-browser", action="store_true", help="only print where the page is")
    parser.add_argument("--keep-open", action="store_true", help="leave the server running and print its address")
    return parser.parse_args(argv)


def _demo(options: argparse.Namespace) -> None:
    if options.image is not None and not options.image.is_file():
        raise BenchError(f"The photo {options.image} does not exist; give the path of a picture file.")
    print("Preparing ComfyUI and an example photo ...", flush=True)
    base = prepare_home(lpips=False)
    print("Starting ComfyUI ...", flush=True)
    with ComfyServer(base) as server:
        with server.client(silence_seconds=1800) as client:
            prompt = load_prompt(WORKFLOW, client.object_info())
            if options.image is not None:
                use_photo(prompt, client.upload_image(options.image))
            result = follow(client, prompt)
            if result.status != "success":
                reason = result.error or f"the run was {result.status}"
                raise BenchError(f"ComfyUI could not finish the workflow ({reason}); its log is {server.log}.")
        page = report(result, prompt, base)
        if not options.no_browser:
            webbrowser.open(page.as_uri())
        if options.keep_open:
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


def report(result: Result, prompt: Prompt, base: Path) -> Path:
    """Write the page, print the numbers and where everything is; BenchError where an output is missing."""
    pictures = {name: _pictures(result, prompt, base, title)[0] for name, title in PHOTOS.items()}
    (perturbation,) = _pictures(result, prompt, base, "Amplified perturbation")
    attacks = [Attack(name, name == VICTIMS[0], np.stack(_pictures(result, prompt, base, _compared(name)))) for name in VICTIMS]
    path = write_new_page(base / "output" / "stillguard", story(pictures, perturbation, attacks))
    print("\nPSNR against what is made of the clean photo (lower is more different): noise, protected")
    for what, noise, protected in numbers(pictures, attacks):
        print(f"  {what}: {noise}, {protected}")
    print(f"Protected picture: {_files(result, prompt, base, PHOTOS['protected'])[0]}\nProtection report: {_report_file(result, base)}")
    print(f"Pictures and numbers: {path}", flush=True)
    return path


def _report_file(result: Result, base: Path) -> Path:
    for output in result.outputs.values():
        for entry in output.get("stillguard_report", ()):
            return Path(base, entry["type"], entry["subfolder"], entry["filename"])
    raise BenchError(f"The workflow {WORKFLOW.name} wrote no report; restore it from the repository.")


def _compared(victim: str) -> str:
    return f"Clean, noise, protected: {victim}"


def _pictures(result: Result, prompt: Prompt, base: Path, title: str) -> list[np.ndarray]:
    pictures = []
    for file in _files(result, prompt, base, title):
        with Image.open(file) as picture:
            pictures.append(np.array(picture.convert("RGB")))
    return pictures


def _files(result: Result, prompt: Prompt, base: Path, title: str) -> list[Path]:
    """What the node of this title saved."""
    names = titles(prompt)
    for node_id in prompt:
        if names[node_id] == title and (found := result.outputs.get(node_id, {}).get("images")):
            return [base / entry["type"] / entry["subfolder"] / entry["filename"] for entry in found]
    raise BenchError(f"The workflow {WORKFLOW.name} gave no output of {title!r}; restore it from the repository.")


if __name__ == "__main__":
    sys.exit(main())
