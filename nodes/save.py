"""Save Protected Image."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

import folder_paths
from comfy_api.latest import io
from torch import Tensor

from ..engine.files import Format, decode_picture, encode_picture, write_new
from ..engine.metrics.visibility import linf_levels
from ..engine.picture import check_finite, split_alpha
from .bridge.progress import show_text


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
                io.Combo.Input("format", options=["png", "webp"], tooltip="Both are lossless; WebP files are smaller."),
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
        references = None if clean is None else _references(clean.movedim(-1, 1), pictures)
        text = _recipe(cls.hidden.prompt, cls.hidden.extra_pnginfo) if keep_workflow else None
        saved, notes = [], []
        for index, picture in enumerate(pictures):
            data = encode_picture(picture, format, text=text)
            reference = None if references is None else references[index % references.shape[0]]
            difference = _verify(decode_picture(data), picture, reference, budget)
            prefix = filename_prefix.replace("%batch_num%", str(index))
            (entry,) = write_numbered(prefix, {format: data}, width=picture.shape[-1], height=picture.shape[-2])
            saved.append(entry)
            checked = "" if difference is None else f", differs by at most {difference} levels"
            notes.append(f"{entry['filename']}: {len(data) / 1024:.0f} kB{checked}")
        report = "\n".join(notes)
        show_text(report, node_id=cls.hidden.unique_id)
        return io.NodeOutput(report, ui={"images": saved, "text": (report,)})


def _references(clean: Tensor, pictures: Tensor) -> Tensor:
    if clean.shape[-2:] != pictures.shape[-2:] or clean.shape[0] not in (1, pictures.shape[0]):
        raise ValueError(
            f"`clean` is {clean.shape[0]} of {clean.shape[-1]}x{clean.shape[-2]} but `images` is {pictures.shape[0]} of "
            f"{pictures.shape[-1]}x{pictures.shape[-2]}: connect the picture that went into Protect."
        )
    return clean


def _verify(written: Tensor, picture: Tensor, reference: Tensor | None, budget: float) -> int | None:
    """Compare what the file's bytes decode to with what was asked for. Returns the difference from the clean picture in levels."""
    # WebP has no greyscale: its three equal channels are compared with the one.
    colours = [split_alpha(image[None].cpu().float())[0].expand(-1, 3, -1, -1) for image in (written, picture)]
    if int(linf_levels(*colours)):
        raise RuntimeError("The encoded file does not hold the picture's levels, so nothing was written: save in the other format.")
    if reference is None:
        return None
    difference = int(linf_levels(colours[0], split_alpha(reference[None].cpu().float())[0].expand(-1, 3, -1, -1)))
    if difference > budget:
        raise ValueError(
            f"The picture differs from the clean one by {difference} levels where the budget is {budget:g}, so it was not saved: "
            "connect the pictures of one and the same Protect, or raise the budget here to the one used there."
        )
    return difference


def write_numbered(prefix: str, files: Mapping[str, bytes], *, width: int = 0, height: int = 0) -> list[dict[str, str]]:
    """Write files, by their endings, below ComfyUI's output folder under the first number that is free for all of them.

    Returns what ComfyUI's page needs to find each. Raises what folder_paths raises for a prefix that leads out of the folder.
    """
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, folder_paths.get_output_directory(), width, height)
    paths: dict[str, Path] = {}
    while not paths:
        numbered = {ending: Path(folder) / f"{name}_{counter:05}_.{ending}" for ending in files}
        if not any(path.exists() for path in numbered.values()):
            # Another process may take the number in between; what was written by then stays, and all is written under the next.
            with contextlib.suppress(FileExistsError):
                for ending, path in numbered.items():
                    write_new(path, files[ending])
                paths = numbered
        counter += 1
    for ending, path in paths.items():
        if path.read_bytes() != files[ending]:
            raise OSError(f"{path.name} reads back differently from what was written: check the disk of the output folder.")
    return [{"filename": path.name, "subfolder": subfolder, "type": "output"} for path in paths.values()]


def _recipe(prompt: object, extra: dict[str, object] | None) -> dict[str, str]:
    """The prompt first: WebP files have it where ComfyUI's page expects it."""
    recipe = {} if prompt is None else {"prompt": json.dumps(prompt)}
    return recipe | {name: json.dumps(value) for name, value in (extra or {}).items()}
