"""Compare Videos."""

from __future__ import annotations

import contextlib
from typing import Any

from comfy_api.latest import Input, io, ui
from torch import Tensor

from ...engine.metrics.comparison import CLEAN, NOISE, PROTECTED, TRUTH
from ...engine.metrics.table import as_text
from ...engine.weights.catalogue import catalogue
from ..bridge.evaluate.compare import compare_videos
from ..bridge.model_files import choices, fingerprint
from ..bridge.progress import show_text
from ..sockets import ComparisonSocket
from .measures import GROUPS, MeasureSources, measures_of, weights_of
from .visibility import WITHOUT_LPIPS

ALL, PIXELS, CHOOSE = "all that this ComfyUI can measure", "pixels only", "choose"


class CompareVideos(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        frames = [io.Image, io.Video]
        toggles = [io.Boolean.Input(name, default=name in ("pixels", "lpips"), tooltip=tooltip) for name, tooltip in GROUPS.items()]
        return io.Schema(
            node_id="StillguardCompareVideos",
            display_name="Compare Videos",
            category="stillguard/evaluate",
            description=(
                "What a victim made of the clean and of the protected picture, measured frame by frame; with random noise of equal budget "
                "beside it, and the true video where there is one."
            ),
            search_aliases=["metrics", "obedience", "psnr", "ssim", "lpips", "fid", "fvd", "vbench", "clip-i", "dino", "attack test"],
            is_output_node=True,
            inputs=[
                io.MultiType.Input("clean", types=frames, tooltip="What the victim made of the clean picture: frames or a video."),
                io.MultiType.Input("protected", types=frames, tooltip="What it made of the protected one, with the same seed."),
                io.MultiType.Input(
                    "noise", types=frames, optional=True, tooltip="What it made of the picture with random noise of equal budget."
                ),
                io.MultiType.Input(
                    "ground_truth", types=frames, optional=True, tooltip="The true video, where there is one: papers compare with it."
                ),
                io.String.Input("victim", default="victim", tooltip="The model's name, as reports shall call it."),
                io.Boolean.Input("surrogate", default=False, tooltip="On if the protection was made with this very model."),
                io.DynamicCombo.Input(
                    "measures",
                    options=[
                        io.DynamicCombo.Option(ALL, []),
                        io.DynamicCombo.Option(PIXELS, []),
                        io.DynamicCombo.Option(CHOOSE, toggles),
                    ],
                    tooltip="What cannot be measured here is named with the reason, and the rest goes on.",
                ),
                io.Combo.Input(
                    "lpips_backbone",
                    options=[*choices([catalogue()["lpips_vgg16"]]), WITHOUT_LPIPS],
                    tooltip="VGG16 weights in models/stillguard; none leaves LPIPS out.",
                ),
                io.Boolean.Input(
                    "paper_conventions",
                    default=False,
                    tooltip="PSNR, SSIM, mean difference and LPIPS also as DisCo's evaluation computes them, for tables of papers.",
                ),
                io.Combo.Input("length", options=["equal", "shortest"], tooltip="shortest: compare only the frames that all videos have."),
                io.ClipVision.Input("clip_vision", optional=True, tooltip="For CLIP-I; for aesthetic quality it must be CLIP ViT-L/14."),
                io.Custom("INTERP_MODEL").Input(
                    "interpolation_model", optional=True, tooltip="From Load Frame Interpolation Model, for motion smoothness."
                ),
                io.Custom("INSIGHTFACE").Input("insightface", optional=True, tooltip="From IPAdapter InsightFace Loader, for identity."),
                io.Custom("FACE_DETECTION_MODEL").Input(
                    "face_detection_model",
                    optional=True,
                    tooltip="From Load Face Detection Model, for landmark distances and obedience of mouth, eyes and head.",
                ),
            ],
            outputs=[ComparisonSocket.Output("comparison", display_name="comparison"), io.String.Output("table", display_name="table")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, lpips_backbone: str | None = None, **others: object) -> str:
        return fingerprint(weights_of(lpips_backbone))

    @classmethod
    def execute(
        cls,
        clean: Tensor | Input.Video,
        protected: Tensor | Input.Video,
        victim: str,
        surrogate: bool,
        measures: dict[str, Any],
        lpips_backbone: str,
        paper_conventions: bool,
        length: str,
        noise: Tensor | Input.Video | None = None,
        ground_truth: Tensor | Input.Video | None = None,
        clip_vision: object = None,
        interpolation_model: object = None,
        insightface: object = None,
        face_detection_model: object = None,
    ) -> io.NodeOutput:
        given = {CLEAN: clean, PROTECTED: protected, NOISE: noise, TRUTH: ground_truth}
        backbone, groups = None if lpips_backbone == WITHOUT_LPIPS else lpips_backbone, _groups(measures)
        sources = MeasureSources(backbone, paper_conventions, clip_vision, interpolation_model, insightface, face_detection_model)
        with contextlib.closing(sources):
            comparison = compare_videos(
                {branch: frames for branch, frames in given.items() if frames is not None},
                measures_of(groups, sources),
                victim=victim.strip() or "victim",
                surrogate=surrogate,
                shortest=length == "shortest",
                settings={"measures": groups, "paper_conventions": paper_conventions, "length": length, "weights": sources.files},
                node_id=cls.hidden.unique_id,
            )
        table = as_text(comparison)
        # Replaces the last progress text below the node.
        show_text(table, node_id=cls.hidden.unique_id)
        return io.NodeOutput(comparison, table, ui=ui.PreviewText(table))


def _groups(choice: dict[str, Any]) -> list[str]:
    match choice["measures"]:
        case "choose":
            return [name for name in GROUPS if choice[name]]
        case "pixels only":
            return ["pixels"]
    return list(GROUPS)


NODES: tuple[type[io.ComfyNode], ...] = (CompareVideos,)
