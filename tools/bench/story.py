"""The demo's page: what was protected, what animators made of it, and the numbers, in one HTML file without script blocks or links."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

COLUMNS = ("clean", "noise", "protected")
"""What is attacked, from left to right: the noise that any change makes, then what the protection makes."""
_STILLS, _FRAME_MS = 6, 125
_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
img { image-rendering: pixelated; max-width: 100%; border-radius: 4px; }
figure { margin: 0; } figcaption { font-size: .9rem; opacity: .8; }
.row { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem 0; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .3rem .8rem; border-bottom: 1px solid #8886; text-align: right; }
th:first-child, td:first-child { text-align: left; }
.wide { overflow-x: auto; }
.moving { display: grid; grid-template-columns: repeat(3, 1fr); text-align: center; }
.moving img { grid-column: 1 / 4; width: 100%; image-rendering: auto; background: #fff; }
.moving figcaption { font-size: 1.1rem; opacity: 1; }
.verdict { font-size: 1.25rem; font-weight: 600; }
.smooth { image-rendering: auto; }
.slider { --at: 50%; display: grid; grid-template-columns: 1fr 1fr; width: min(100%, 32rem); }
.slider > img { grid-area: 1 / 1 / 2 / 3; width: 100%; image-rendering: auto; background: #fff; }
.slider .over { clip-path: inset(0 0 0 var(--at)); }
.slider input { grid-column: 1 / 3; width: 100%; margin: .5rem 0 0; }
.slider span:last-child { text-align: right; }
"""


@dataclass(frozen=True)
class Attack:
    """One victim's videos. frames: [N,S,3*S,3] uint8, those of the clean, the noisy and the protected picture side by side."""

    name: str
    surrogate: bool
    frames: np.ndarray

    def video(self, column: int) -> np.ndarray:
        side = self.frames.shape[1]
        return self.frames[:, :, column * side : (column + 1) * side]

    def psnr(self, column: int) -> float:
        """Of a video against the clean picture's, in dB."""
        return psnr(self.video(column), self.video(0))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Of uint8 pictures, in dB."""
    error = float(np.square(a.astype(np.float64) - b.astype(np.float64)).mean())
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


def largest_change(a: np.ndarray, b: np.ndarray) -> int:
    """Of uint8 pictures, in levels."""
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def numbers(pictures: dict[str, np.ndarray], attacks: list[Attack]) -> list[tuple[str, str, str]]:
    """Rows of what, noise, protected."""
    clean, decibels = pictures["clean"], "{:.1f} dB".format
    rows = [("the photo itself", decibels(psnr(pictures["noise"], clean)), decibels(psnr(pictures["protected"], clean)))]
    for attack in attacks:
        what = f"{attack.name} ({'it was protected from this one' if attack.surrogate else 'never seen by the protection'})"
        rows.append((what, decibels(attack.psnr(1)), decibels(attack.psnr(2))))
    return rows


def story(pictures: dict[str, np.ndarray], perturbation: np.ndarray, attacks: list[Attack], *, lead: str = "") -> str:
    """The page. pictures: COLUMNS -> [H,W,3] uint8; perturbation [H,W,3] uint8, amplified. lead: HTML of what comes first."""
    shown = [*pictures.items(), ("perturbation, amplified", perturbation)]
    photos = "".join(_figure(png(picture), name, width=200) for name, picture in shown)
    moved = max(largest_change(pictures[name], pictures["clean"]) for name in ("noise", "protected"))
    table = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in numbers(pictures, attacks))
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Stillguard: protected, then attacked</title><style>{_STYLE}</style>
<h1>Protected, then attacked</h1>
{lead}{"<h1>In the laboratory</h1>" if lead else ""}
<p>Left to right: the clean photo, the same with random noise, the same protected with Dormant. Noise and protection have the same
budget: no channel of any pixel moved by more than {moved} of 255 levels.</p>
<div class="row">{photos}</div>
<p>Small animators then moved each of them through the same poses, from the same starting noise. The more the third video differs from
the first, the more the protection did; the second says what any noise does.</p>
{"".join(_attack(attack) for attack in attacks)}
<h2>In numbers</h2>
<p>PSNR against what is made of the clean photo: lower is more different. A protection should be low where noise is high.</p>
<div class="wide"><table><tr><th>what</th><th>noise</th><th>protected</th></tr>{table}</table></div>
<p>These animators are the laboratory's: small networks, trained on a few hundred people for this pack, at 128 pixels. They show how the
method works and what it does to networks that it was not made with. They do not say whether the photo is safe from the models that people
use. For those, load their files and attack the picture with them.</p>
</html>
"""


def _attack(attack: Attack) -> str:
    chosen = np.linspace(0, len(attack.frames) - 1, _STILLS).round().astype(int)
    rows = [np.concatenate(list(attack.video(column)[chosen]), axis=1) for column in range(len(COLUMNS))]
    kind = "surrogate" if attack.surrogate else "black box"
    moving = _figure(_animation(attack.frames), "clean, noise, protected", width=576)
    stills = _figure(png(np.concatenate(rows)), "single frames of clean, noise, protected (top to bottom)", width=768)
    return f"<h2>{html.escape(attack.name)} ({kind})</h2><div class='row'>{moving}</div><div class='row'>{stills}</div>"


def _figure(data: bytes, caption: str, *, width: int) -> str:
    text = html.escape(caption)
    return f'<figure><img width="{width}" alt="{text}" src="{data_address(data, "png")}"><figcaption>{text}</figcaption></figure>'


def data_address(data: bytes, kind: str) -> str:
    """A picture file of this kind as the address of an image, so that the page needs no other file."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def _animation(frames: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    first, *others = (Image.fromarray(frame) for frame in frames)
    first.save(buffer, "PNG", save_all=True, append_images=others, duration=_FRAME_MS, loop=0)
    return buffer.getvalue()


def write_new_page(folder: Path, text: str) -> Path:
    """Under the first free number."""
    number = 1
    while True:
        path = folder / f"story_{number:05}.html"
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
            return path
        except FileExistsError:
            number += 1
