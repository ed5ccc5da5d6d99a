"""The first part of the demo's page: a portrait moved by a real animator, clean, with noise and protected, and whether it still obeys."""

from __future__ import annotations

import html
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from stillguard.engine.metrics.comparison import NOISE, PROTECTED, Reading, Row
from stillguard.engine.report.words import number, reason, spread

from .paths import BenchError
from .story import COLUMNS, Attack, data_address, largest_change, png, psnr

OBEDIENCE = "Obedience"
"""The row of Compare Videos that the verdict is made of, and the beginning of those of mouth, eyes and head."""
LITTLE, NEARLY_ALL = 1 / 3, 0.9
"""Obedience of a face that is said to obey no longer, by the upper end of its interval where it has one, and of one that obeys."""

_STILLS, _QUALITY = 6, 90
_LONGEST = 1024
"""Pixels of the longer side of the photo on the page."""


@dataclass(frozen=True)
class FaceAttack:
    """What the animator made. photos: COLUMNS -> [H,W,3] uint8, the pictures that were animated.

    rows: what Compare Videos measured, by the part of the face that was driven ("mouth and eyes", "the head"), the most telling first.
    """

    photos: Mapping[str, np.ndarray]
    attack: Attack
    rows: Mapping[str, Sequence[Row]]
    fps: float

    def obedience(self) -> dict[str, Row]:
        """By part. Raises BenchError where it was not measured."""
        found = {part: next((row for row in rows if row.name == OBEDIENCE), None) for part, rows in self.rows.items()}
        if missing := [part for part, row in found.items() if row is None]:
            raise BenchError(f"The report has no {OBEDIENCE.lower()} of {' and '.join(missing)}; restore the workflow from the repository.")
        return {part: row for part, row in found.items() if row is not None}


def read_rows(report: Path) -> dict[str, list[Row]]:
    """What a report's JSON says of each victim, by its name."""
    victims = json.loads(report.read_text(encoding="utf-8"))["victims"]
    return {one["victim"]: [Row(**{**row, "readings": _readings(row["readings"])}) for row in one["rows"]] for one in victims}


def _readings(branches: Mapping[str, Mapping[str, Any]]) -> dict[str, Reading]:
    # JSON has no infinity, so the report writes it as text.
    numbers: dict[str, dict[str, Any]] = {
        branch: {key: float(v) if v in ("inf", "-inf") else v for key, v in told.items()} for branch, told in branches.items()
    }
    return {branch: Reading(**{**told, "items": tuple(told["items"])}) for branch, told in numbers.items()}


def verdict(parts: Mapping[str, Row]) -> str:
    """One sentence of the obedience that was measured, by the part of the face that was driven."""
    readings = {part: (row.readings[PROTECTED], row.readings[NOISE]) for part, row in parts.items()}
    for part, pair in readings.items():
        if lacking := next((reading for reading in pair if reading.value is None), None):
            return f"Whether the protected face obeys with {part} could not be said ({reason(lacking)})."
    stopped = [part for part, pair in readings.items() if _stopped(*pair)]
    fewer = [part for part, pair in readings.items() if _apart(*pair)]
    where = f" with {' and '.join(stopped or fewer)}" if len(stopped or fewer) < len(parts) else ""
    said = f"no longer obeys{where}" if stopped else f"obeys less{where}" if fewer else "obeys about as the noisy one does"
    left = [
        f"of the movement of {part} {_share(one)} is left, where noise leaves {_share(other)}" for part, (one, other) in readings.items()
    ]
    return f"The protected face {said}: {', and '.join(left)}."


def _stopped(protected: Reading, noise: Reading) -> bool:
    most = protected.value if protected.high is None else protected.high
    return most is not None and noise.value is not None and most <= LITTLE and noise.value >= NEARLY_ALL


def _apart(protected: Reading, noise: Reading) -> bool:
    """Whether the intervals say that the protected face obeys less than the noisy one."""
    return protected.high is not None and noise.low is not None and protected.high < noise.low


def _share(reading: Reading) -> str:
    assert reading.value is not None
    between = "" if reading.low is None or reading.high is None else f" ({round(100 * reading.low)} to {round(100 * reading.high)})"
    return f"{round(100 * reading.value)} %{between}".replace("-", "−")


def face_part(face: FaceAttack) -> str:
    """The part, as HTML."""
    photos, attack = face.photos, face.attack
    moved = max(largest_change(photos[name], photos["clean"]) for name in COLUMNS[1:])
    captions = "".join(f"<figcaption>{name}</figcaption>" for name in COLUMNS)
    moving = f'<img alt="{", ".join(COLUMNS)}, animated" src="{data_address(animation(attack.frames, face.fps), "webp")}">'
    return f"""<figure class="moving">{moving}{captions}</figure>
<p class="verdict">{html.escape(verdict(face.obedience()))}</p>
<p>One portrait, three times the same driving. The noise and the protection have the same budget: no channel of any pixel moved by more
than {moved} of 255 levels. Move the slider to see how much of that shows.</p>
{_slider(photos["clean"], photos["protected"])}
<h2>In numbers</h2>
<p>Obedience is the share of the movement in the clean video that is also in the other one: 100 % for the clean photo itself, near 0 for a
face that stays still or does something else. Intervals are of 95 % and speak of other moments of this video, not of other photos. PSNR
and SSIM compare the same frames, and rank a face that stays still wrongly: it may look more like the clean video than one that is torn.</p>
<div class="wide"><table><tr><th>what</th><th>noise</th><th>protected</th></tr>{_table(face)}</table></div>
<h2>Single frames</h2>
<figure><img class="smooth" alt="single frames" src="{data_address(png(_stills(attack)), "png")}">
<figcaption>{", ".join(COLUMNS)} (top to bottom)</figcaption></figure>
<p>The animator is real: Talking Head(?) Anime 3 by Pramook Khungurn, whose trained networks are published under CC BY 4.0. The photo was
protected from this very animator, which is the best case for a protection. It says nothing about other animators, for which load their
files and attack the picture with them.</p>
"""


def cropped(frames: np.ndarray) -> np.ndarray:
    """Head and shoulders of [N,S,3*S,3], at the frames' own pixels, [N,5*S/8,3*(5*S/8),3]."""
    side = frames.shape[1]
    rows, columns = slice(side // 16, side // 16 + 5 * side // 8), slice(3 * side // 16, 3 * side // 16 + 5 * side // 8)
    parts = (frames[:, rows, side * index :][:, :, columns] for index in range(len(COLUMNS)))
    return np.concatenate(list(parts), axis=2)


def animation(frames: np.ndarray, fps: float) -> bytes:
    """WebP of head and shoulders of [N,S,3*S,3]: one file of all three, so that they never run apart."""
    buffer = io.BytesIO()
    first, *others = (Image.fromarray(frame) for frame in cropped(frames))
    first.save(buffer, "WEBP", save_all=True, append_images=others, duration=round(1000 / fps), loop=0, quality=_QUALITY)
    return buffer.getvalue()


def _stills(attack: Attack) -> np.ndarray:
    """Frames spread over the video, COLUMNS from top to bottom, at half their size."""
    chosen = np.linspace(0, len(attack.frames) - 1, _STILLS + 2).round().astype(int)[1:-1]
    rows = np.split(cropped(attack.frames[chosen]), len(COLUMNS), axis=2)
    sheet = Image.fromarray(np.concatenate([np.concatenate(list(row), axis=1) for row in rows]))
    return np.asarray(sheet.reduce(2))


def _table(face: FaceAttack) -> str:
    rows = [("PSNR of the photo itself", *(f"{psnr(face.photos[name], face.photos['clean']):.1f} dB" for name in COLUMNS[1:]))]
    compared = [
        (part, row) for part, own in face.rows.items() for row in own if row.reference and {NOISE, PROTECTED} <= row.readings.keys()
    ]
    for part, row in sorted(compared, key=lambda pair: not pair[1].name.startswith(OBEDIENCE)):
        rows.append((f"{row.name}: {part}", *(_cell(row, row.readings[branch]) for branch in (NOISE, PROTECTED))))
    return "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)


def _cell(row: Row, reading: Reading) -> str:
    if reading.value is None:
        return reason(reading)
    if row.name.startswith(OBEDIENCE):
        return _share(reading)
    between = spread(reading)
    return f"{number(reading.value)} {row.unit}".strip() + (f" ({between})" if between else "")


def _slider(clean: np.ndarray, protected: np.ndarray) -> str:
    first, second = (data_address(png(_small(picture)), "png") for picture in (clean, protected))
    move = "this.parentNode.style.setProperty('--at', this.value + '%')"
    return f"""<div class="slider"><img alt="clean photo" src="{first}"><img class="over" alt="protected photo" src="{second}">
<input type="range" min="0" max="100" value="50" aria-label="from the clean to the protected photo" oninput="{move}">
<span>clean</span><span>protected</span></div>"""


def _small(picture: np.ndarray) -> np.ndarray:
    image = Image.fromarray(picture)
    image.thumbnail((_LONGEST, _LONGEST), Image.Resampling.BOX)
    return np.asarray(image)
