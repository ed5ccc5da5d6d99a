"""Inputs and outputs that nodes of several folders have."""

from __future__ import annotations

from comfy_api.latest import io

from ..engine.draws import SEEDS
from ..engine.surrogates.denoiser import HIGH, WHOLE
from .sockets import EoTSocket, I2VSurrogateSocket, ReferenceNetSocket, SpaceSocket, TalkingHeadSocket

VICTIMS_VAE = "The VAE that the attacker's model uses, or one like it."
FAST, LOW_MEMORY = "fast", "low memory"


def weight_input(default: float, name: str = "weight") -> io.Float.Input:
    tooltip = "How much this loss counts beside the others; 0 leaves it out at no cost."
    return io.Float.Input(name, default=default, min=0.0, max=10000.0, step=0.01, tooltip=tooltip)


def steps_input(default: int = 100) -> io.Int.Input:
    tooltip = "Each step runs every surrogate forward and backward once."
    return io.Int.Input("steps", default=default, min=0, max=100000, tooltip=tooltip)


def seed_input() -> io.Int.Input:
    tooltip = "Same seed, same graph, same machine: same picture, up to the rounding of GPU kernels."
    return io.Int.Input("seed", default=0, min=0, max=SEEDS - 1, control_after_generate=True, tooltip=tooltip)


def working_size_input() -> io.Int.Input:
    tooltip = "Longer side at which the models see the photo. The photo itself keeps its size."
    return io.Int.Input("working_size", default=512, min=64, max=8192, step=8, tooltip=tooltip)


def memory_input(tooltip: str | None = None, *, advanced: bool = False) -> io.Combo.Input:
    usual = "Low memory recomputes instead of keeping, and large networks take turns on the GPU: slower, same result up to rounding."
    return io.Combo.Input("memory", options=[FAST, LOW_MEMORY], tooltip=tooltip or usual, advanced=advanced)


def eot_input(tooltip: str) -> io.Custom.Input:
    return EoTSocket.Input("eot", optional=True, tooltip=tooltip)


def space_input() -> io.Custom.Input:
    tooltip = "What is optimised, from Dual Space or Latent Space; pixels if not connected. Without a budget, what changed is measured."
    return SpaceSocket.Input("space", optional=True, tooltip=tooltip)


def protected_outputs() -> list[io.Output]:
    """Of every node that protects."""
    return [
        io.Image.Output("protected", display_name="protected"),
        io.Image.Output("perturbation", display_name="perturbation (amplified)"),
        io.Float.Output("budget", display_name="budget"),
    ]


def mask_input() -> io.Mask.Input:
    tooltip = "0: untouched to the bit; between, it scales the budget. Load Image's mask marks transparency: invert it."
    return io.Mask.Input("mask", optional=True, tooltip=tooltip)


def precision_input() -> io.Combo.Input:
    tooltip = "Auto takes fp16 on a GPU that is fast with it, and fp32 elsewhere. On the CPU bf16 halves the memory, and is slow."
    return io.Combo.Input("precision", options=["auto", "fp32", "bf16", "fp16"], advanced=True, tooltip=tooltip)


def reference_nets_input() -> io.Autogrow.Input:
    net = ReferenceNetSocket.Input("reference_net", tooltip="From Load ReferenceNet; several make an ensemble.")
    template = io.Autogrow.TemplatePrefix(net, prefix="reference_net", min=0, max=8)
    return io.Autogrow.Input("reference_nets", template=template, tooltip="The networks that animators read the photo with.")


def vae_input() -> io.Vae.Input:
    return io.Vae.Input("vae", tooltip="The VAE of Stable Diffusion 1.5, best vae-ft-mse-840000, whose latents these networks read.")


def clip_vision_input(*, optional: bool) -> io.ClipVision.Input:
    tooltip = "The image encoder of sd-image-variations (ViT-L/14), which AnimateAnyone's networks read the photo with."
    return io.ClipVision.Input("clip_vision", optional=optional, tooltip=tooltip)


def clip_input() -> io.Clip.Input:
    tooltip = (
        "The text encoder of SD 1.5, for the empty prompt that MagicAnimate, MagicPose and SD 1.5 nets read. Without it they read zeros."
    )
    return io.Clip.Input("clip", optional=True, tooltip=tooltip)


def surrogate_input() -> io.Custom.Input:
    return I2VSurrogateSocket.Input("i2v_surrogate", tooltip="From I2V Surrogate.")


def scaled_input() -> io.Boolean.Input:
    tooltip = "Divide by the loss's first value, so that weights mean the same for every model. The paper only says: of similar magnitude."
    return io.Boolean.Input("scaled", default=True, advanced=True, tooltip=tooltip)


def timesteps_input(default: str = WHOLE, *, optional: bool = False) -> io.Combo.Input:
    """optional: where a node had none before."""
    tooltip = "Noise levels that are drawn from. High noise: the first fifth of sampling, where what the video becomes is decided."
    return io.Combo.Input("timesteps", options=[WHOLE, HIGH], default=default, tooltip=tooltip, optional=optional, advanced=True)


def layers_input(tooltip: str) -> io.String.Input:
    return io.String.Input("layers", default="auto", tooltip=tooltip, advanced=True)


def target_input() -> io.Image.Input:
    return io.Image.Input("target", optional=True, tooltip="What the model is led to see; black, as in the paper, if not connected.")


def reach_input() -> io.Float.Input:
    tooltip = "How far frames are pushed from the clean video, as a multiple of the model's own error; 0 only pulls towards the target."
    return io.Float.Input("reach", default=2.0, min=0.0, max=100.0, step=0.1, advanced=True, tooltip=tooltip)


def attacked_image_input() -> io.Image.Input:
    return io.Image.Input("image", tooltip="The picture to attack: the protected one, and for comparison the clean one.")


def attack_seed_input() -> io.Int.Input:
    return io.Int.Input(
        "seed", default=0, min=0, max=SEEDS - 1, control_after_generate=True, tooltip="Use one seed for clean and protected."
    )


def talking_inputs(image: str) -> list[io.Input]:
    """What a talking head is shown and told, see FaceSockets. image: tooltip of the picture."""
    return [
        TalkingHeadSocket.Input("talking_head", tooltip="From Load Talking Head."),
        vae_input(),
        io.AudioEncoder.Input("audio_encoder", tooltip="wav2vec2-base-960h, from core's Load Audio Encoder."),
        io.Audio.Input("audio", tooltip="Speech without music: a file of Load Audio."),
        io.Image.Input("image", tooltip=image),
        io.Custom("FACE_DETECTION_MODEL").Input(
            "face_detection_model",
            optional=True,
            tooltip="From Load Face Detection Model (MediaPipe): finds the largest face and its lips, where no masks are connected.",
        ),
        io.Mask.Input("face_mask", optional=True, tooltip="White on the face; in place of the detector, together with lips_mask."),
        io.Mask.Input("lips_mask", optional=True, tooltip="White on the lips."),
        io.Mask.Input("background_mask", optional=True, tooltip="White around the face; what face_mask leaves, if not connected."),
        io.Custom("INSIGHTFACE").Input(
            "insightface",
            optional=True,
            tooltip="Antelopev2, which tells the talking head whose face it is. Without it that is zeros, and the picture alone counts.",
        ),
    ]
