"""Save Protected Image."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...engine.conversions import in_colour
from ...engine.files import Format, decode_picture, encode_picture
from ...engine.metrics.visibility import linf_levels
from ...engine.picture import check_finite
from ..bridge.files import loaded_picture, write_numbered, writes_metadata
from ..bridge.progress import show_text

NO_METADATA = "The workflow was not written, since ComfyUI was started with --disable-metadata."


class SaveProtectedImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardSaveProtectedImage",
            display_name="Save Protected Image",
            category="stillguard",
            description="Writes pixels only, without loss: no EXIF, no GPS, no prompt or workflow that tells how it was protected.",
            search_aliases=["save", "png", "webp", "strip metadata"],
            is_output_node=True,
            inputs=[
                io.Image.Input("images"),
                io.String.Input(
                    "filename_prefix",
                    default="stillguard/protected",
                    tooltip="Below ComfyUI's output folder; files are numbered and never overwritten.",
                ),
                io.Combo.Input(
                    "format",
                    options=["png", "webp"],
                    tooltip=(
                        "png: comes back through ComfyUI's Load Image to the bit. webp: smaller, with the same levels for other programs, "
                        "but ComfyUI's Load Image moves about half of them by one: do not attack this file."
                    ),
                ),
                io.Float.Input(
                    "budget",
                    default=8.0,
                    min=0.0,
                    max=64.0,
                    step=0.5,
                    tooltip="With `clean` connected: refuse to save a picture that differs by more levels than this.",
                ),
                io.Boolean.Input(
                    "keep_workflow",
                    default=False,
                    tooltip="Write ComfyUI's prompt and workflow into the file, for yourself. Do not publish such a file.",
                ),
                io.Image.Input("clean", optional=True, tooltip="The picture before protection; what was written is compared with it."),
            ],
            outputs=[io.String.Output("report", display_name="report")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, images: Tensor, filename_prefix: str, format: Format, budget: float, keep_workflow: bool, clean: Tensor | None = None
    ) -> io.NodeOutput:
        pictures = images.movedim(-1, 1)
        check_finite(pictures)
        # All of them before the first is written, so that a batch is written whole or not at all.
        differences = [] if clean is None else _differences(clean.movedim(-1, 1), pictures, budget)
        text = _recipe(cls.hidden.prompt, cls.hidden.extra_pnginfo) if keep_workflow and writes_metadata() else None
        saved, notes = [], []
        for index, picture in enumerate(pictures):
            data = _encoded(picture, format, text)
            prefix = filename_prefix.replace("%batch_num%", str(index))
            (entry,) = write_numbered(prefix, {format: data}, width=picture.shape[-1], height=picture.shape[-2])
            saved.append(entry)
            checked = f", differs by at most {differences[index]} levels" if differences else ""
            notes.append(f"{entry['filename']}: {len(data) / 1024:.0f} kB{checked}, {_in_comfyui(entry, picture)}")
        report = "\n".join([*notes, *([NO_METADATA] if keep_workflow and text is None else [])])
        show_text(report, node_id=cls.hidden.unique_id)
        return io.NodeOutput(report, ui={"images": saved, "text": (report,)})


def _differences(clean: Tensor, pictures: Tensor, budget: float) -> list[int]:
    """Of each picture from its clean one, in levels. Raises ValueError where one is over the budget, or cannot be compared."""
    if clean.shape[-2:] != pictures.shape[-2:] or clean.shape[0] not in (1, pictures.shape[0]):
        raise ValueError(
            f"`clean` is {clean.shape[0]} of {clean.shape[-1]}x{clean.shape[-2]} but `images` is {pictures.shape[0]} of "
            f"{pictures.shape[-1]}x{pictures.shape[-2]}: connect the picture that went into Protect."
        )
    differences = []
    for index, picture in enumerate(pictures):
        difference = int(linf_levels(_colour(clean[index % clean.shape[0]])[None], _colour(picture)[None]))
        if difference > budget:
            which, saved = ("The picture", "it was not saved") if len(pictures) == 1 else (f"Picture {index + 1}", "none was saved")
            raise ValueError(
                f"{which} differs from the clean one by {difference} levels where the budget is {budget:g}, so {saved}: "
                "connect the pictures of one and the same Protect, or raise the budget here to the one used there."
            )
        differences.append(difference)
    return differences


def _colour(picture: Tensor) -> Tensor:
    """[C,H,W] -> [3,H,W] fp32 without alpha; neither PNG's greyscale nor WebP, which has none, come back as such."""
    return in_colour(picture[None].cpu())[0]


def _encoded(picture: Tensor, format: Format, text: Mapping[str, str] | None) -> bytes:
    """A file's bytes, which hold the picture's very levels; greyscale as three equal channels."""
    # ComfyUI's Load Image gives the levels of colour files, and of grey ones others: FFmpeg converts those.
    data = encode_picture(_colour(picture) if picture.shape[0] == 1 else picture, format, text=text)
    if _moved(_colour(decode_picture(data, own=True)), picture):
        raise RuntimeError("The encoded file does not hold the picture's levels, so nothing was written: save in the other format.")
    return data


def _in_comfyui(entry: Mapping[str, str], picture: Tensor) -> str:
    """What became of the file's levels in ComfyUI's own loader, which is how an attack inside ComfyUI sees it."""
    loaded = loaded_picture(entry["filename"], entry["subfolder"])
    if loaded is None:
        return "ComfyUI's Load Image cannot read it: save it as png to attack it"
    moved = _moved(loaded, picture)
    if moved:
        return f"ComfyUI's Load Image changes it by up to {moved} levels: save it as png to attack it"
    return "comes back unchanged through Load Image"


def _moved(read: Tensor, picture: Tensor) -> int:
    """Largest difference of [3,H,W] that was read from the picture that was to be written, in levels."""
    return int(linf_levels(read[None].cpu(), _colour(picture)[None]))


def _recipe(prompt: object, extra: Mapping[str, object] | None) -> dict[str, str]:
    """The prompt first: WebP files have it where ComfyUI's page expects it."""
    recipe = {} if prompt is None else {"prompt": prompt}
    return {name: json.dumps(_strict(value), allow_nan=False) for name, value in (recipe | dict(extra or {})).items()}


def _strict(value: Any) -> Any:
    """The same where numbers that JSON does not know, as other packs leave them, are the words that ComfyUI reads as those numbers."""
    if isinstance(value, Mapping):
        return {name: _strict(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(entry) for entry in value]
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)


NODES: tuple[type[io.ComfyNode], ...] = (SaveProtectedImage,)
