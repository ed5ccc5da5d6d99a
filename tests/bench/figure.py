"""`python -m bench.figure`: the README's picture and the template thumbnails, made from the newest outputs of the demo."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw
from torch import Tensor

from .paths import BENCH, ROOT, BenchError
from .pose_clip import example_pose

SIDE, GAP, LINE = 300, 6, 22


def newest(pattern: str) -> Image.Image:
    """The demo's newest output whose name matches; BenchError when the demo has not run."""
    files = sorted((BENCH / "demo" / "output" / "stillguard").glob(pattern))
    if not files:
        raise BenchError("There are no outputs of the demo yet; run `nox -s demo` first.")
    return Image.open(files[-1]).convert("RGB")


def halves(pair: Image.Image) -> tuple[Image.Image, Image.Image]:
    """The rebuilt pictures: right half of the upper and of the lower row of the reconstruction figure."""
    width, height = pair.size
    return pair.crop((width // 2, 0, width, height // 2)), pair.crop((width // 2, height // 2, width, height))


def picture_of(tensor: Tensor) -> Image.Image:
    return Image.fromarray((tensor * 255).round().byte().permute(1, 2, 0).numpy())


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
    photo = Image.open(BENCH / "demo" / "input" / "astronaut.png").convert("RGB")
    before, after = halves(newest("reconstruction_*.png"))
    pictures = {"photo": photo, "protected": newest("protected_*.png"), "perturbation, amplified": newest("perturbation_*.png")}
    rebuilt = {"photo, as the VAE rebuilds it": before, "protected, as the VAE rebuilds it": after}
    # What goes in, and no result: nothing that Dormant does to the real animators has been seen with networks of this size.
    posed = {f"pose {index}": picture_of(example_pose(index / 8)) for index in (0, 2, 6)}
    wanted = {
        "protect_portrait": pictures | rebuilt,
        "protect_first_try": pictures,
        "protect_dormant": {"photo": photo, "its pose": posed["pose 0"]},
        "attack_dormant": {"photo": photo, **posed},
    }
    for name, chosen in wanted.items():
        file: Path = ROOT / "workflows" / f"{name}.jpg"
        strip(chosen).save(file, quality=88)
        print(file)


if __name__ == "__main__":
    main()
