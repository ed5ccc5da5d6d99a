"""Combine Losses, EoT and Protect."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..engine.space import RGB
from ..engine.transforms import EoT
from ..engine.update import Adam, MomentumSign, Sign, Update
from .bridge.run import Settings, protect_images
from .sockets import EoTSocket, Losses, LossSocket

CATEGORY = "stillguard"
NO_LOSS = "No loss is connected to Protect: add a loss node such as VAE Latent Loss and connect its output to 'loss'."


class CombineLosses(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        template = io.Autogrow.TemplatePrefix(LossSocket.Input("loss"), prefix="loss", min=1, max=16)
        return io.Schema(
            node_id="StillguardCombineLosses",
            display_name="Combine Losses",
            category=CATEGORY,
            description="One objective out of several losses; each keeps its own weight.",
            search_aliases=["objective", "sum losses"],
            inputs=[io.Autogrow.Input("losses", template=template)],
            outputs=[LossSocket.Output("loss", display_name="loss")],
        )

    @classmethod
    def execute(cls, losses: dict[str, Losses | None]) -> io.NodeOutput:
        return io.NodeOutput(tuple(spec for group in losses.values() if group is not None for spec in group))


class EoTNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        def share(name: str, default: float, top: float, tooltip: str) -> io.Float.Input:
            return io.Float.Input(name, default=default, min=0.0, max=top, step=0.01, advanced=True, tooltip=tooltip)

        return io.Schema(
            node_id="StillguardEoT",
            display_name="EoT (Transformations)",
            category=CATEGORY,
            description="Expectation over transformation: before each step one of these is drawn, so that the protection survives them.",
            search_aliases=["robustness", "jpeg", "blur", "expectation over transformation"],
            inputs=[
                io.Boolean.Input("blur", default=True, tooltip="Gaussian blur, 3 pixels wide."),
                io.Boolean.Input("jpeg", default=True, tooltip="JPEG compression, in a form that gradients pass."),
                io.Boolean.Input("noise", default=True, tooltip="Gaussian noise."),
                io.Boolean.Input("resize", default=True, tooltip="Resize to another size and back."),
                io.Boolean.Input("identity", default=True, tooltip="Sometimes no transformation at all."),
                io.Int.Input("samples", default=1, min=1, max=16, tooltip="Transformations averaged per step; each costs a full step."),
                share("blur_low", 0.1, 10.0, "Weakest blur (sigma in pixels)."),
                share("blur_high", 3.0, 10.0, "Strongest blur (sigma in pixels)."),
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
                blur_sigma=(max(blur_low, 0.01), blur_high) if blur else None,
                jpeg_quality=(jpeg_low, jpeg_high) if jpeg else None,
                noise_sigma=(0.0, noise_high) if noise else None,
                resize_scale=(resize_low, resize_high) if resize else None,
                identity=identity,
                samples=samples,
            )
        )


def _update_input() -> io.DynamicCombo.Input:
    step = io.Float.Input("step", default=1.0, min=0.01, max=64.0, step=0.01, tooltip="How far each pixel moves per step, in 8-bit levels.")
    decay = io.Float.Input("decay", default=0.5, min=0.0, max=2.0, step=0.01, tooltip="Share of the past direction that is kept.")
    return io.DynamicCombo.Input(
        "update",
        options=[
            io.DynamicCombo.Option("momentum sign", [step, decay]),
            io.DynamicCombo.Option("sign", [step]),
            io.DynamicCombo.Option("adam", [step]),
        ],
        tooltip="How a gradient becomes a step: momentum sign (MI-FGSM, Dormant), plain sign (PGD) or Adam.",
    )


def _update(choice: dict[str, object]) -> Update:
    step = float(choice["step"])  # type: ignore[arg-type]
    match choice["update"]:
        case "momentum sign":
            return MomentumSign(step, float(choice["decay"]))  # type: ignore[arg-type]
        case "sign":
            return Sign(step)
        case _:
            return Adam(step)


class Protect(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardProtect",
            display_name="Protect",
            category=CATEGORY,
            description=(
                "Changes a photo by at most `budget` 8-bit levels per channel so that the connected losses grow. "
                "Keeps size, aspect and transparency. Protection is never promised: attack the result yourself."
            ),
            search_aliases=["cloak", "immunize", "glaze", "mist", "photoguard", "adversarial", "pgd", "stillguard"],
            inputs=[
                io.Image.Input("image"),
                LossSocket.Input("loss", optional=True, tooltip="A loss node, or several through Combine Losses."),
                io.Float.Input(
                    "budget",
                    default=8.0,
                    min=0.0,
                    max=255.0,
                    step=0.5,
                    tooltip="Largest change of a channel in 8-bit levels, up to 64; 8 is hard to see, 16 is strong.",
                ),
                io.Int.Input("steps", default=100, min=0, max=100000, tooltip="Each step runs every surrogate forward and backward once."),
                _update_input(),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 1,
                    control_after_generate=True,
                    tooltip="Same seed, same graph, same machine: same picture.",
                ),
                io.Int.Input(
                    "working_size",
                    default=512,
                    min=64,
                    max=8192,
                    step=8,
                    tooltip="Longer side at which the models see the photo. The photo itself keeps its size.",
                ),
                io.Combo.Input(
                    "memory", options=["fast", "low memory"], tooltip="Low memory recomputes instead of keeping; the result is the same."
                ),
                EoTSocket.Input("eot", optional=True, tooltip="Makes the protection survive transformations."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where it is 0 the picture is left untouched to the bit; between 0 and 1 it scales the budget.",
                ),
            ],
            outputs=[
                io.Image.Output("protected", display_name="protected"),
                io.Image.Output("perturbation", display_name="perturbation (amplified)"),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, budget: float | None = None, loss: object = "not connected", update: object = None) -> bool | str:
        # ComfyUI passes None for what is linked, nothing for what is not, and insists on handing over dynamic inputs.
        del update
        if loss == "not connected":
            return NO_LOSS
        try:
            RGB(8.0 if budget is None else budget)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        image: Tensor,
        budget: float,
        steps: int,
        update: dict[str, object],
        seed: int,
        working_size: int,
        memory: str,
        loss: Losses | None = None,
        eot: EoT | None = None,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        if not loss:
            raise ValueError(NO_LOSS)
        settings = Settings(RGB(budget), _update(update), eot, working_size, steps, seed, memory == "low memory")
        return io.NodeOutput(*protect_images(image, loss, settings, mask=mask, node_id=cls.hidden.unique_id))
