"""Nodes that only the tests need: networks that no loader accepts at this size, broken inputs, and a look into the process."""

from __future__ import annotations

import copy
import gc
from pathlib import Path

import comfy.clip_vision
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import folder_paths
import torch
from comfy.audio_encoders.audio_encoders import AudioEncoderModel
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy_api.latest import ComfyExtension, io
from comfy_execution.graph_utils import GraphBuilder
from safetensors.torch import save_file

WEB_DIRECTORY = "./web"

TINY_CLIP = {
    "model_type": "clip_vision_model",
    "image_size": 224,
    "patch_size": 32,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_channels": 3,
    "projection_dim": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}


def tiny_clip_vision(hidden: int = 64, projection: int = 32) -> comfy.clip_vision.ClipVisionModel:
    """Core's own class with random weights of preserved variance."""
    sides = {"hidden_size": hidden, "projection_dim": projection, "num_attention_heads": hidden // 16}
    model = comfy.clip_vision.ClipVisionModel({**TINY_CLIP, **sides})
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, value in model.get_sd().items():
        if not value.is_floating_point():
            state[key] = torch.arange(value.shape[-1]).expand(value.shape)
        elif value.ndim > 1:
            state[key] = torch.randn(value.shape, generator=generator) * value[0].numel() ** -0.5
        else:
            state[key] = torch.ones(value.shape) if key.endswith("weight") else torch.zeros(value.shape)
    model.load_sd(state)
    return model


class TinyCLIPVision(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        widths = [io.Int.Input("hidden", default=64, optional=True), io.Int.Input("projection", default=32, optional=True)]
        return io.Schema(node_id="TestkitTinyCLIPVision", category="testkit", inputs=widths, outputs=[io.ClipVision.Output()])

    @classmethod
    def execute(cls, hidden: int = 64, projection: int = 32) -> io.NodeOutput:
        return io.NodeOutput(tiny_clip_vision(hidden, projection))


class TinyConditioning(io.ComfyNode):
    """In place of a prompt's: no text encoder that core loads is as narrow as the tests' models."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        width = io.Int.Input("width", default=16, optional=True)
        return io.Schema(node_id="TestkitTinyConditioning", category="testkit", inputs=[width], outputs=[io.Conditioning.Output()])

    @classmethod
    def execute(cls, width: int = 16) -> io.NodeOutput:
        text = torch.randn(1, 7, width, generator=torch.Generator().manual_seed(0))
        return io.NodeOutput([[text, {"pooled_output": torch.zeros(1, 768), "attention_mask": torch.ones(1, 7, dtype=torch.long)}]])


class NoTextEncoder(io.ComfyNode):
    """In place of a text encoder that nothing reads."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="TestkitNoTextEncoder", category="testkit", inputs=[], outputs=[io.Clip.Output()])

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(None)


TINY_UNET = {
    "use_checkpoint": False,
    "image_size": 32,
    "use_spatial_transformer": True,
    "legacy": False,
    "adm_in_channels": None,
    "use_temporal_attention": False,
    "out_channels": 4,
    "model_channels": 32,
    "channel_mult": [1, 1, 1, 1],
    "num_res_blocks": [1, 1, 1, 1],
    "transformer_depth": [0, 0, 0, 1],
    "transformer_depth_output": [0, 0, 0, 0, 0, 0, 1, 1],
    "transformer_depth_middle": 1,
    "context_dim": 16,
    "dtype": torch.float32,
}

# Classes, and how many channels their first layer takes.
KINDS = {
    "sd15": (comfy.supported_models.SD15, 4),
    "sd15 inpainting": (comfy.supported_models.SD15, 9),
    "x4": (comfy.supported_models.SD_X4Upscaler, 7),
}


def tiny_image_model(kind: str, shape: dict[str, object] = TINY_UNET) -> comfy.model_patcher.ModelPatcher:
    """Core's own class of a model of KINDS, narrower than any that its loaders accept."""
    config_of, channels = KINDS[kind]
    config = config_of({**shape, "in_channels": channels})
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", device="cpu")
    model.diffusion_model.load_state_dict(random_state(model.diffusion_model, seed=1))
    devices = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
    return comfy.model_patcher.ModelPatcher(model, *devices)


def fourfold_vae() -> comfy.sd.VAE:
    """The x4 upscaler's architecture: latents are a quarter of the picture."""
    ddconfig = {"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128, "num_res_blocks": 2}
    network = AutoencoderKL(ddconfig={**ddconfig, "ch_mult": [1, 2, 4], "attn_resolutions": [], "dropout": 0.0}, embed_dim=4)
    return comfy.sd.VAE(sd=random_state(network, seed=2))


def eightfold_vae() -> comfy.sd.VAE:
    """Stable Diffusion's architecture, as narrow as its norms allow."""
    ddconfig = {"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 32, "num_res_blocks": 1}
    shape = {"ddconfig": {**ddconfig, "ch_mult": [1, 1, 1, 1], "attn_resolutions": [], "dropout": 0.0}, "embed_dim": 4}
    return comfy.sd.VAE(sd=random_state(AutoencoderKL(**shape), seed=3), config={"params": shape})


def tiny_audio_encoder(layers: int = 2, width: int = 16) -> AudioEncoderModel:
    """Core's own class of wav2vec2-base, narrower than any that its loader accepts."""
    shape = {"embed_dim": width, "num_heads": 2, "num_layers": layers, "conv_norm": False, "conv_bias": False}
    encoder = AudioEncoderModel({"model_type": "wav2vec2", **shape, "do_normalize": False, "do_stable_layer_norm": False})
    encoder.load_sd(random_state(encoder.model, seed=4))
    return encoder


class TinyAudioEncoder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [io.Int.Input("layers", default=2, optional=True), io.Int.Input("width", default=16, optional=True)]
        return io.Schema(node_id="TestkitTinyAudioEncoder", category="testkit", inputs=inputs, outputs=[io.AudioEncoder.Output()])

    @classmethod
    def execute(cls, layers: int = 2, width: int = 16) -> io.NodeOutput:
        return io.NodeOutput(tiny_audio_encoder(layers, width))


def random_state(network: torch.nn.Module, *, seed: int) -> dict[str, torch.Tensor]:
    """Weights that neither damp nor amplify; norms are the identity."""
    generator, state = torch.Generator().manual_seed(seed), {}
    for key, value in network.state_dict().items():
        if value.ndim > 1:
            state[key] = (torch.rand(value.shape, generator=generator) - 0.5) * (12 / value[0].numel()) ** 0.5
        else:
            state[key] = torch.ones(value.shape) if key.endswith("weight") else torch.zeros(value.shape)
    return state


class TinyImageModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        kind = io.Combo.Input("kind", options=list(KINDS))
        return io.Schema(node_id="TestkitTinyImageModel", category="testkit", inputs=[kind], outputs=[io.Model.Output()])

    @classmethod
    def execute(cls, kind: str) -> io.NodeOutput:
        return io.NodeOutput(tiny_image_model(kind))


class FourfoldVAE(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="TestkitFourfoldVAE", category="testkit", inputs=[], outputs=[io.Vae.Output()])

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(fourfold_vae())


class SpoilPixels(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="TestkitSpoilPixels", category="testkit", inputs=[io.Image.Input("image")], outputs=[io.Image.Output()])

    @classmethod
    def execute(cls, image: torch.Tensor) -> io.NodeOutput:
        image = image.clone()
        image[:, 0, 0] = float("nan")
        return io.NodeOutput(image)


class ExhaustingVAE(io.ComfyNode):
    """A VAE whose encoder runs out of memory, as a real one does."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="TestkitExhaustingVAE", category="testkit", inputs=[io.Vae.Input("vae")], outputs=[io.Vae.Output()])

    @classmethod
    def execute(cls, vae: object) -> io.NodeOutput:
        greedy = copy.copy(vae)
        greedy.process_input = cls.exhaust
        return io.NodeOutput(greedy)

    @staticmethod
    def exhaust(pixels: torch.Tensor) -> torch.Tensor:
        raise comfy.model_management.OOM_EXCEPTION("CUDA out of memory (a test).")


class Inspect(io.ComfyNode):
    """What the process holds on to after the image was made."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestkitInspect",
            category="testkit",
            is_output_node=True,
            inputs=[io.Image.Input("image")],
            outputs=[],
            not_idempotent=True,
        )

    @classmethod
    def execute(cls, image: torch.Tensor) -> io.NodeOutput:
        gc.collect()
        tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
        facts = {
            "graphs": sum(tensor.grad_fn is not None for tensor in tensors),
            "requires_grad": image.requires_grad,
            "in_training": comfy.model_management.in_training,
            "inference_mode": torch.is_inference_mode_enabled(),
        }
        return io.NodeOutput(ui={"facts": (facts,)})


class KeepFrames(io.ComfyNode):
    """Writes frames as they are, before any rounding, to NAME.safetensors in the output folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [io.Image.Input("frames"), io.String.Input("name")]
        return io.Schema(node_id="TestkitKeepFrames", category="testkit", is_output_node=True, inputs=inputs, outputs=[])

    @classmethod
    def execute(cls, frames: torch.Tensor, name: str) -> io.NodeOutput:
        save_file({"frames": frames.float().cpu().contiguous()}, Path(folder_paths.get_output_directory()) / f"{name}.safetensors")
        return io.NodeOutput()


class ReportInALoop(io.ComfyNode):
    """Compares and reports in nodes that it makes while it runs, as loops of other packs do: the two frames, and their noise."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [io.Image.Input("frames"), io.Int.Input("seed")]
        return io.Schema(
            node_id="TestkitReportInALoop",
            category="testkit",
            is_output_node=True,
            inputs=inputs,
            outputs=[io.String.Output()],
            enable_expand=True,
        )

    @classmethod
    def execute(cls, frames: torch.Tensor, seed: int) -> io.NodeOutput:
        graph = GraphBuilder()
        noise = graph.node("StillguardRandomNoise", image=frames, budget=8.0, seed=seed)
        compared = {"victim": "looped", "surrogate": False, "measures": "pixels only", "lpips_backbone": "none", "length": "equal"}
        compare = graph.node("StillguardCompareVideos", clean=frames, protected=noise.out(0), paper_conventions=False, **compared)
        told = {"lpips_backbone": "none", "title": "Looped", "notes": "", "filename_prefix": "test/looped", "include_workflow": False}
        report = graph.node("StillguardProtectionReport", **{"comparisons.comparison0": compare.out(0)}, **told)
        return io.NodeOutput(report.out(0), expand=graph.finalize())


class Testkit(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        from .denoising import DenoisingLoss

        return [
            TinyCLIPVision,
            TinyConditioning,
            TinyAudioEncoder,
            NoTextEncoder,
            TinyImageModel,
            FourfoldVAE,
            SpoilPixels,
            ExhaustingVAE,
            Inspect,
            KeepFrames,
            ReportInALoop,
            DenoisingLoss,
        ]


async def comfy_entrypoint() -> Testkit:
    return Testkit()
