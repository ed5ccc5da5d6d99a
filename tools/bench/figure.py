"""`python -m bench.figure`: the README's pictures and the template thumbnails, from a run of three workflows."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from stillguard.engine.conversions import to_pillow

from .face_story import animation
from .home import PHOTO, prepare_home
from .paths import BENCH, ROOT, BenchError
from .pose_clip import example_pose
from .prompt import load_prompt, titles
from .server import ComfyServer
from .workflows_anti_i2v import WORKFLOWS as ANTI_I2V_WORKFLOWS
from .workflows_core import WORKFLOWS as CORE_WORKFLOWS
from .workflows_face import FPS, FRAMES_TITLE, WINK
from .workflows_packs import WORKFLOWS as PACK_WORKFLOWS

SIDE, GAP, LINE = 300, 6, 22


def outputs(workflows: Iterable[str]) -> dict[str, list[Image.Image]]:
    """Title of a saving node -> the pictures that it saved; BenchError when ComfyUI could not finish one of the workflows."""
    base, found = prepare_home(), {}
    with ComfyServer(base) as server, server.client(silence_seconds=1800) as client:
        for name in workflows:
            prompt = load_prompt(ROOT / "workflows" / f"{name}.json", client.object_info())
            result = client.run(prompt)
            if result.status != "success":
                raise BenchError(f"ComfyUI could not finish the workflow {name} ({result.error}); its log is {server.log}.")
            names = titles(prompt)
            for node_id, output in result.outputs.items():
                files = [base / entry["type"] / entry["subfolder"] / entry["filename"] for entry in output.get("images", [])]
                if pictures := [Image.open(file).convert("RGB") for file in files if file.suffix == ".png"]:
                    found[names[node_id]] = pictures
    return found


def halves(pair: Image.Image) -> tuple[Image.Image, Image.Image]:
    """The rebuilt pictures: right half of the upper and of the lower row of the reconstruction figure."""
    width, height = pair.size
    return pair.crop((width // 2, 0, width, height // 2)), pair.crop((width // 2, height // 2, width, height))


def thirds(row: Image.Image) -> dict[str, Image.Image]:
    side = row.height
    names = ("clean, animated", "with noise, animated", "protected, animated")
    return {name: row.crop((index * side, 0, (index + 1) * side, side)) for index, name in enumerate(names)}


def strip(pictures: dict[str, Image.Image]) -> Image.Image:
    """Pictures side by side with a line of text below each."""
    sheet = Image.new("RGB", (len(pictures) * (SIDE + GAP) - GAP, SIDE + LINE), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (caption, picture) in enumerate(pictures.items()):
        left = index * (SIDE + GAP)
        sheet.paste(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (left, 0))
        draw.text((left + SIDE / 2, SIDE + LINE / 2), caption, fill="black", anchor="mm", font_size=14)
    return sheet


def main() -> None:
    animated = outputs(["attack_lab"])["Clean, noise, protected: animator"][0]
    faces = outputs(["attack_face"])[FRAMES_TITLE]
    moving: Path = ROOT / "workflows" / "attack_face.webp"
    moving.write_bytes(animation(np.stack([np.asarray(face) for face in faces]), FPS))
    shown = {title: pictures[0] for title, pictures in outputs(["protect_portrait"]).items()}
    photo = Image.open(BENCH / "demo" / "input" / PHOTO).convert("RGB")
    before, after = halves(shown["Before and after reconstruction"])
    pictures = {"photo": photo, "protected": shown["Protected picture"], "perturbation, amplified": shown["Amplified perturbation"]}
    rebuilt = {"photo, as the VAE rebuilds it": before, "protected, as the VAE rebuilds it": after}
    # What goes in, and no result: nothing that Dormant does to the real animators has been seen with networks of this size.
    posed = {f"pose {index}": to_pillow(example_pose(index / 8)) for index in (0, 2, 6)}
    wanted = {
        "protect_portrait": pictures | rebuilt,
        "protect_first_try": pictures,
        "protect_dormant": {"photo": photo, "its pose": posed["pose 0"]},
        "attack_dormant": {"photo": photo, **posed},
        "attack_lab": {"photo": photo, **thirds(animated)},
        "attack_face": thirds(faces[WINK]),
        # Nothing that was done to real models has been seen either.
        "attack_i2vguard_svd": {"photo": photo},
        "attack_i2vguard_wan": {"photo": photo},
        "protect_silencer": {"photo": photo},
        "attack_silencer": {"photo": photo},
        **{name: {"photo": photo} for name in (*ANTI_I2V_WORKFLOWS, *CORE_WORKFLOWS, *PACK_WORKFLOWS)},
    }
    for name, chosen in wanted.items():
        file: Path = ROOT / "workflows" / f"{name}.jpg"
        strip(chosen).save(file, quality=88)
        print(file)


if __name__ == "__main__":
    main()
