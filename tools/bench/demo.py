"""`python -m bench.demo`: protect a portrait in a real ComfyUI server, attack it there, and open a page with what came of it."""

from __future__ import annotations

import argparse
import sys
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from . import workflows_face
from .client import Client, Event, Prompt, Result
from .face_story import FaceAttack, face_part, read_rows, verdict
from .home import DRAWING, PHOTO, prepare_home
from .paths import ROOT, BenchError
from .progress import Progress
from .prompt import load_prompt, titles
from .serve import keep_open
from .server import ComfyServer
from .story import COLUMNS, Attack, numbers, story, write_new_page
from .weights import face_animator
from .workflows_lab import VICTIMS

LABORATORY, FACE = "attack_lab", "attack_face"
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
    parser.add_argument(
        "--image",
        type=Path,
        help="your own picture instead of the examples: a person cut out, with a transparent background, for the real animator; with head "
        "and shoulders about where the astronaut's are for the laboratory, which also takes a photo with its background",
    )
    parser.add_argument(
        "--head",
        type=float,
        nargs=3,
        metavar=("X", "Y", "HEIGHT"),
        help="where the head is on your picture: its middle, and from hair to chin, in shares of the picture's width, height and height; "
        "without it the picture is taken as framed already, a square with the head where the example has it",
    )
    parser.add_argument("--no-browser", action="store_true", help="only print where the page is")
    parser.add_argument("--keep-open", action="store_true", help="leave the server running and print its address")
    return parser.parse_args(argv)


def _demo(options: argparse.Namespace) -> None:
    if options.image is not None and not options.image.is_file():
        raise BenchError(f"The photo {options.image} does not exist; give the path of a picture file.")
    print("Preparing ComfyUI and the example pictures ...", flush=True)
    base = prepare_home(weights=False)
    why_not = _why_no_face(options.image, base)
    if why_not:
        print(f"The part with the real animator is left out: {why_not}", flush=True)
    print("Starting ComfyUI ...", flush=True)
    with ComfyServer(base) as server:
        with server.client(silence_seconds=1800) as client:
            name = None if options.image is None else client.upload_image(options.image)
            lead = "" if why_not else face(_run(server, client, FACE, lambda prompt: use_portrait(prompt, name, options.head)))
            page = report(_run(server, client, LABORATORY, lambda prompt: use_photo(prompt, name, PHOTO)), lead)
        if not options.no_browser:
            webbrowser.open(page.as_uri())
        if options.keep_open:
            keep_open(server)


def _why_no_face(image: Path | None, base: Path) -> str:
    """Puts the face animator into place, or says what is missing."""
    try:
        face_animator(base / "models" / "stillguard")
    except BenchError as error:
        return str(error)
    if image is None:
        return ""
    try:
        with Image.open(image) as picture:
            opaque = not picture.has_transparency_data
    except OSError as error:
        raise BenchError(f"{image} is not a picture that can be read; give a PNG, WebP or JPEG file.") from error
    return "it needs the person cut out; give a picture with a transparent background." if opaque else ""


@dataclass(frozen=True)
class Run:
    """A workflow that came to its end. base: ComfyUI's folder."""

    name: str
    prompt: Prompt
    result: Result
    base: Path

    def files(self, title: str) -> list[Path]:
        """What the node of this title saved; BenchError where that is nothing."""
        names = titles(self.prompt)
        for node_id in self.prompt:
            if names[node_id] == title and (found := self.result.outputs.get(node_id, {}).get("images")):
                return [self.base / entry["type"] / entry["subfolder"] / entry["filename"] for entry in found]
        raise BenchError(f"The workflow {self.name} gave no output of {title!r}; restore it from the repository.")

    def pictures(self, title: str) -> list[np.ndarray]:
        return [_levels(file) for file in self.files(title)]

    def report(self) -> Path:
        for output in self.result.outputs.values():
            for entry in output.get("stillguard_report", ()):
                return Path(self.base, entry["type"], entry["subfolder"], entry["filename"])
        raise BenchError(f"The workflow {self.name} wrote no report; restore it from the repository.")


def _levels(file: Path) -> np.ndarray:
    with Image.open(file) as picture:
        return np.array(picture.convert("RGB"))


def _run(server: ComfyServer, client: Client, name: str, change: Callable[[Prompt], None]) -> Run:
    prompt = load_prompt(ROOT / "workflows" / f"{name}.json", client.object_info())
    change(prompt)
    result = follow(client, prompt)
    if result.status != "success":
        reason = result.error or f"the run was {result.status}"
        raise BenchError(f"ComfyUI could not finish the workflow {name} ({reason}); its log is {server.log}.")
    return Run(name, prompt, result, server.base)


def use_photo(prompt: Prompt, name: str | None, example: str) -> None:
    """Let every LoadImage that loads the example load `name` instead, unless that is None."""
    for node in prompt.values():
        if name is not None and node["class_type"] == "LoadImage" and node["inputs"].get("image") == example:
            node["inputs"]["image"] = name


def use_portrait(prompt: Prompt, name: str | None, head: list[float] | None) -> None:
    """The same for the face animator; head: see --head."""
    use_photo(prompt, name, DRAWING)
    for node in prompt.values():
        if head is not None and node["class_type"] == "StillguardFramePortrait":
            places = dict(zip(("place.x", "place.y", "place.height"), head, strict=True))
            node["inputs"].update({"place": "by hand", **places})


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


def face(run: Run) -> str:
    """The page's first part; prints its sentence and where everything is."""
    (source,) = {node["inputs"]["image"] for node in run.prompt.values() if node["class_type"] == "LoadImage"}
    photos = {name: _on_white(run.pictures(title)[0], run.base / "input" / source) for name, title in PHOTOS.items()}
    rows = read_rows(run.report().with_suffix(".json"))
    parts = {part: rows[workflows_face.victim(part)] for part in workflows_face.PARTS}
    frames = np.stack(run.pictures(workflows_face.FRAMES_TITLE))
    told = FaceAttack(photos, Attack("face animator", True, frames), parts, workflows_face.FPS)
    print(f"\n{verdict(told.obedience())}")
    print(f"Protected portrait: {run.files(PHOTOS['protected'])[0]}\nIts report: {run.report()}\n", flush=True)
    return face_part(told)


def _on_white(picture: np.ndarray, source: Path) -> np.ndarray:
    """The colours [H,W,3] over white, with the transparency of the file that they came from: ComfyUI loads it apart from the colours."""
    with Image.open(source) as loaded:
        alpha = ImageOps.exif_transpose(loaded).convert("RGBA").getchannel("A")
    white = Image.new("RGB", alpha.size, "white")
    white.paste(Image.fromarray(picture), mask=alpha)
    return np.array(white)


def report(run: Run, lead: str) -> Path:
    """Write the page, print the numbers and where everything is; BenchError where an output is missing."""
    pictures = {name: run.pictures(title)[0] for name, title in PHOTOS.items()}
    (perturbation,) = run.pictures("Amplified perturbation")
    attacks = [Attack(name, name == VICTIMS[0], np.stack(run.pictures(f"Clean, noise, protected: {name}"))) for name in VICTIMS]
    path = write_new_page(run.base / "output" / "stillguard", story(pictures, perturbation, attacks, lead=lead))
    print("\nThe laboratory's PSNR against what is made of the clean photo (lower is more different): noise, protected")
    for what, noise, protected in numbers(pictures, attacks):
        print(f"  {what}: {noise}, {protected}")
    print(f"Protected picture: {run.files(PHOTOS['protected'])[0]}\nProtection report: {run.report()}")
    print(f"Pictures and numbers: {path}", flush=True)
    return path


if __name__ == "__main__":
    sys.exit(main())
