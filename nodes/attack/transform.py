"""Transform Image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...engine.draws import SEEDS
from ...engine.purify.edits import (
    ROUNDINGS,
    SUBSAMPLINGS,
    BitSqueeze,
    Brightness,
    Contrast,
    Erase,
    JPEGFile,
    MedianBlur,
    OpenCVBlur,
    RoundedNoise,
    SaltAndPepper,
    WebPFile,
)
from ...engine.purify.geometry import METHODS, Crop, Resize, Rotate
from ...engine.purify.pipelines import PIPELINES, Pipeline
from ...engine.transforms import Transform
from ..bridge.attack.transform import transform_images
from ..bridge.progress import show_text


class TransformImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardTransformImage",
            display_name="Transform Image",
            category="stillguard/attack test",
            description=(
                "What platforms and people do to pictures: compress, resize, blur, crop, or several of these. "
                "Does the protection survive it? Chain nodes for a sequence of your own."
            ),
            search_aliases=["jpeg", "webp", "compress", "blur", "noise", "median", "resize", "crop", "rotate", "robustness", "attack"],
            inputs=[
                io.Image.Input("image", tooltip="Pictures or frames: the clean and the protected one, each through a node of its own."),
                _transformation_input(),
                io.String.Input(
                    "before",
                    optional=True,
                    force_input=True,
                    tooltip="`done` of the transformation before this one, so that the last one tells of all.",
                ),
            ],
            outputs=[io.Image.Output("image", display_name="image"), io.String.Output("done", display_name="done")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, image: Tensor, transformation: dict[str, Any], before: str | None = None) -> io.NodeOutput:
        pipeline = _pipeline(transformation)
        edited = transform_images(image, pipeline, node_id=cls.hidden.unique_id)
        before_size, after_size = (f"{pictures.shape[2]}x{pictures.shape[1]}" for pictures in (image, edited))
        sizes = "" if before_size == after_size else f", {before_size} became {after_size}"
        done = f"{before} -> {pipeline}{sizes}" if before else f"{pipeline}{sizes}"
        show_text(done, node_id=cls.hidden.unique_id)
        return io.NodeOutput(edited, done)


@dataclass(frozen=True)
class _Kind:
    """An edit and the inputs that set it, which are called as its fields."""

    make: Callable[..., Transform]
    inputs: list[io.Input]


def _kinds() -> dict[str, _Kind]:
    def number(name: str, default: float, low: float, high: float, tooltip: str, *, step: float = 0.01) -> io.Float.Input:
        return io.Float.Input(name, default=default, min=low, max=high, step=step, tooltip=tooltip)

    def kernel(default: int) -> io.Int.Input:
        return io.Int.Input("kernel", default=default, min=1, max=99, step=2, tooltip="Width of the square in pixels, odd.")

    quality = io.Int.Input("quality", default=75, min=1, max=100, tooltip="The encoder's. Smaller files, and less of the picture, below.")
    subsampling = io.Combo.Input(
        "subsampling", options=list(SUBSAMPLINGS), tooltip="4:2:0 keeps colour at half the resolution, 4:4:4 whole."
    )
    sigma = number("sigma", 0.0, 0.0, 50.0, "In pixels; 0 takes what OpenCV takes for the kernel.")
    strength = number("sigma", 0.03, 0.0, 1.0, "Standard deviation, where a picture spans 0 to 1.")
    seed = io.Int.Input("seed", default=0, min=0, max=SEEDS - 1, tooltip="Use one seed for clean and protected.")
    bits = io.Int.Input("bits", default=4, min=1, max=8, tooltip="Bits left per channel, of 8.")
    rounding = io.Combo.Input("rounding", options=list(ROUNDINGS), tooltip="To the nearest value that is left, or the low bits cut off.")
    scale = number("scale", 0.5, 0.01, 4.0, "Of both sides.")
    method = io.Combo.Input("method", options=list(METHODS), tooltip="Pillow's filter.")
    back = io.Boolean.Input("back", default=True, tooltip="Resize to the old size afterwards.")
    factor = number("factor", 1.5, 0.0, 4.0, "1 changes nothing.")
    steps = "; ".join(f"{name}: {pipeline}" for name, pipeline in PIPELINES.items())
    sequence = io.Combo.Input("sequence", options=list(PIPELINES), tooltip=steps)
    return {
        "JPEG": _Kind(JPEGFile, [quality, subsampling]),
        "WebP": _Kind(WebPFile, [quality]),
        "Gaussian blur": _Kind(lambda kernel, sigma: OpenCVBlur(kernel, sigma or None), [kernel(5), sigma]),
        "Gaussian noise": _Kind(RoundedNoise, [strength, seed]),
        "median blur": _Kind(MedianBlur, [kernel(3)]),
        "bit squeeze": _Kind(BitSqueeze, [bits, rounding]),
        "resize": _Kind(Resize, [scale, method, back]),
        "crop": _Kind(Crop, [number("share", 0.75, 0.01, 1.0, "Of both sides, around the middle."), back]),
        "rotation": _Kind(Rotate, [number("degrees", 5.0, -180.0, 180.0, "Counter-clockwise; the size stays.", step=0.1)]),
        "brightness": _Kind(Brightness, [factor]),
        "contrast": _Kind(Contrast, [factor]),
        "salt and pepper": _Kind(SaltAndPepper, [number("share", 0.05, 0.001, 1.0, "Of the pixels.", step=0.001), seed]),
        "erase": _Kind(Erase, [number("share", 0.125, 0.001, 1.0, "Of the area.", step=0.001), seed]),
        "pipeline": _Kind(lambda sequence: PIPELINES[sequence], [sequence]),
    }


def _transformation_input() -> io.DynamicCombo.Input:
    return io.DynamicCombo.Input(
        "transformation",
        options=[io.DynamicCombo.Option(name, kind.inputs) for name, kind in _kinds().items()],
        tooltip="What is done to every picture. The result is what an 8-bit file would hold.",
    )


def _pipeline(choice: dict[str, Any]) -> Pipeline:
    settings = {name: value for name, value in choice.items() if name != "transformation"}
    edit = _kinds()[choice["transformation"]].make(**settings)
    return edit if isinstance(edit, Pipeline) else Pipeline((edit,))


NODES: tuple[type[io.ComfyNode], ...] = (TransformImage,)
