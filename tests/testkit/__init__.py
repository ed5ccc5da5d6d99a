"""Nodes that only the tests need: networks that no loader accepts at this size, broken inputs, and a look into the process."""

from __future__ import annotations

import copy
import gc

import comfy.clip_vision
import comfy.model_management
import torch
from comfy_api.latest import ComfyExtension, io

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
        return io.Schema(node_id="TestkitTinyConditioning", category="testkit", inputs=[], outputs=[io.Conditioning.Output()])

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput([[torch.randn(1, 7, 16, generator=torch.Generator().manual_seed(0)), {}]])


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


class Testkit(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [TinyCLIPVision, TinyConditioning, SpoilPixels, ExhaustingVAE, Inspect]


async def comfy_entrypoint() -> Testkit:
    return Testkit()
