"""Perturbation Visibility."""

from __future__ import annotations

from comfy_api.latest import io, ui
from torch import Tensor

from ...engine.files import encode_picture
from ...engine.metrics.visibility import NotMeasured, Visibility
from ...engine.weights.catalogue import catalogue
from ..bridge.evaluate.visibility import measure_visibility
from ..bridge.model_files import choices, find_file, fingerprint
from ..bridge.progress import show_text

WITHOUT_LPIPS = "none"


class PerturbationVisibility(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardPerturbationVisibility",
            display_name="Perturbation Visibility",
            category="stillguard/evaluate",
            description="How much a protected picture differs from the clean one, after rounding to 8 bits.",
            search_aliases=["psnr", "ssim", "lpips", "compare", "l-infinity"],
            is_output_node=True,
            inputs=[
                io.Image.Input("clean"),
                io.Image.Input("protected", tooltip="The protected picture, or a copy of it in another size."),
                io.Combo.Input(
                    "lpips_backbone",
                    options=[WITHOUT_LPIPS, *choices([catalogue()["lpips_vgg16"]])],
                    tooltip="VGG16 weights in models/stillguard; none leaves LPIPS out.",
                ),
            ],
            outputs=[io.String.Output("report", display_name="report")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, lpips_backbone: str | None = None, **others: object) -> str:
        return fingerprint([(catalogue()["lpips_vgg16"], lpips_backbone)])

    @classmethod
    def execute(cls, clean: Tensor, protected: Tensor, lpips_backbone: str) -> io.NodeOutput:
        before, after = (image.movedim(-1, 1) for image in (clean, protected))
        backbone = None if lpips_backbone == WITHOUT_LPIPS else find_file(catalogue()["lpips_vgg16"], lpips_backbone)
        if before.shape[0] not in (1, after.shape[0]):
            raise ValueError(
                f"`clean` has {before.shape[0]} pictures and `protected` has {after.shape[0]}: give one clean picture, or one for each."
            )
        pairs = [(before[i % before.shape[0]][None], picture[None]) for i, picture in enumerate(after)]
        rows = measure_visibility(pairs, lpips_backbone=backbone)
        sizes = [(len(encode_picture(clean[0])), len(encode_picture(picture[0]))) for clean, picture in pairs]
        report = "\n".join(_line(index, row, size) for index, (row, size) in enumerate(zip(rows, sizes, strict=True)))
        show_text(report, node_id=cls.hidden.unique_id)
        return io.NodeOutput(report, ui=ui.PreviewText(report))


def _line(index: int, row: Visibility | NotMeasured, sizes: tuple[int, int]) -> str:
    before, after = sizes
    png = f"PNG {before / 1024:.0f} -> {after / 1024:.0f} kB ({after / before:.2f}x)"
    if isinstance(row, NotMeasured):
        return f"picture {index + 1}: not measured, since {row.why.rstrip('.')}; {png}"
    lpips = "not measured" if row.lpips is None else f"{row.lpips:.4f}"
    return (
        f"picture {index + 1}: L-infinity {row.linf} levels, PSNR {row.psnr:.2f} dB, SSIM {row.ssim:.4f}, LPIPS {lpips}, "
        f"{row.changed:.1%} of pixels changed, {png}{_resized(row)}"
    )


def _resized(row: Visibility) -> str:
    if row.resized_from is None:
        return ""
    height, width = row.resized_from
    return (
        f"; measured after resizing it back from {width}x{height}, which alone gives the clean picture a PSNR of {row.resizing_psnr:.2f} dB"
    )


NODES: tuple[type[io.ComfyNode], ...] = (PerturbationVisibility,)
