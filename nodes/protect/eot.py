"""EoT."""

from __future__ import annotations

from comfy_api.latest import io

from ...engine.transforms import EoT
from ..sockets import EoTSocket


class EoTNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        def share(name: str, default: float, top: float, tooltip: str) -> io.Float.Input:
            return io.Float.Input(name, default=default, min=0.0, max=top, step=0.01, advanced=True, tooltip=tooltip)

        return io.Schema(
            node_id="StillguardEoT",
            display_name="EoT (Transformations)",
            category="stillguard",
            description="Before each step one of these is drawn and applied to what the models see, so that the protection survives it.",
            search_aliases=["robustness", "jpeg", "blur", "expectation over transformation"],
            inputs=[
                io.Boolean.Input("blur", default=True, tooltip="Gaussian blur, 3 pixels wide."),
                io.Boolean.Input("jpeg", default=True, tooltip="JPEG compression, in a form that gradients pass."),
                io.Boolean.Input("noise", default=True, tooltip="Gaussian noise."),
                io.Boolean.Input("resize", default=True, tooltip="Resize to another size and back."),
                io.Boolean.Input("identity", default=True, tooltip="Sometimes no transformation at all."),
                io.Int.Input("samples", default=1, min=1, max=16, tooltip="Transformations averaged per step; each costs a full step."),
                share("blur_low", 0.1, 5.0, "Weakest blur (sigma in pixels)."),
                share("blur_high", 3.0, 5.0, "Strongest blur (sigma in pixels)."),
                io.Int.Input("jpeg_low", default=30, min=1, max=100, advanced=True, tooltip="Lowest JPEG quality."),
                io.Int.Input("jpeg_high", default=69, min=1, max=100, advanced=True, tooltip="Highest JPEG quality."),
                share("noise_high", 0.03, 0.5, "Strongest noise (standard deviation; the picture spans 0 to 1)."),
                io.Float.Input("resize_low", default=0.5, min=0.1, max=1.0, step=0.01, advanced=True, tooltip="Smallest size as a factor."),
                io.Float.Input("resize_high", default=2.0, min=1.0, max=4.0, step=0.01, advanced=True, tooltip="Largest size as a factor."),
            ],
            outputs=[EoTSocket.Output("eot", display_name="eot")],
        )

    @classmethod
    def execute(
        cls,
        blur: bool,
        jpeg: bool,
        noise: bool,
        resize: bool,
        identity: bool,
        samples: int,
        blur_low: float,
        blur_high: float,
        jpeg_low: int,
        jpeg_high: int,
        noise_high: float,
        resize_low: float,
        resize_high: float,
    ) -> io.NodeOutput:
        return io.NodeOutput(
            EoT(
                blur_sigma=(max(blur_low, 0.01), max(blur_high, 0.01)) if blur else None,
                jpeg_quality=(jpeg_low, jpeg_high) if jpeg else None,
                noise_sigma=(0.0, noise_high) if noise else None,
                resize_scale=(resize_low, resize_high) if resize else None,
                identity=identity,
                samples=samples,
            )
        )


NODES: tuple[type[io.ComfyNode], ...] = (EoTNode,)
