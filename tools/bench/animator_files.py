"""Animators with random weights, in the public checkpoints' formats: small ones, and full-size ones from a list of keys.

They load as the real files do and prove nothing about effect.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

WIDTHS = (32, 64, 64, 64)
State = dict[str, Tensor]


def random_state(shapes: dict[str, tuple[int, ...]], seed: int, dtype: torch.dtype = torch.float32) -> State:
    """Weights that neither damp nor amplify; norms are the identity."""
    generator = torch.Generator().manual_seed(seed)

    def tensor(key: str, shape: tuple[int, ...]) -> Tensor:
        if key.endswith(("pos_encoder.pe", "pos_embed.pe")):
            return sinusoid(*shape[1:])[None]
        if len(shape) > 1:
            # Cheaper than normal numbers, which for a billion weights take minutes; of the same variance.
            fan_in = max(1, torch.Size(shape[1:]).numel())
            return torch.rand(shape, generator=generator).sub(0.5).mul((12 / fan_in) ** 0.5)
        return torch.ones(shape) if key.endswith("weight") else torch.zeros(shape)

    return {key: tensor(key, shape).to(dtype) for key, shape in shapes.items()}


def sinusoid(length: int, channels: int) -> Tensor:
    position = torch.arange(length)[:, None] * torch.exp(torch.arange(0, channels, 2) * (-torch.log(torch.tensor(10000.0)) / channels))
    return torch.stack([position.sin(), position.cos()], dim=2).flatten(1)


def shapes_of(make: Callable[[], nn.Module]) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in make().state_dict().items()}


def unet_shapes(*, layers: int = 1, context: int = 32, widths: tuple[int, ...] = WIDTHS) -> dict[str, tuple[int, ...]]:
    """diffusers' Stable Diffusion 1.5 UNet at other widths, of which there are as many as levels."""
    from diffusers import UNet2DConditionModel

    return shapes_of(lambda: UNet2DConditionModel(**_layout(layers, context, widths)))


def _layout(layers: int, context: int, widths: tuple[int, ...], kind: str = "2D") -> dict[str, Any]:
    """Arguments of diffusers' UNets. kind: "2D" or "Motion"."""
    return {
        "block_out_channels": widths,
        "layers_per_block": layers,
        "cross_attention_dim": context,
        "down_block_types": (f"CrossAttnDownBlock{kind}",) * (len(widths) - 1) + (f"DownBlock{kind}",),
        "up_block_types": (f"UpBlock{kind}",) + (f"CrossAttnUpBlock{kind}",) * (len(widths) - 1),
    }


def is_output(key: str) -> bool:
    return key.startswith(("conv_norm_out.", "conv_out."))


def animate_anyone(folder: Path, *, seed: int = 0, context: int = 32, widths: tuple[int, ...] = WIDTHS) -> dict[str, Path]:
    """reference_unet, denoising_unet, motion_module and pose_guider, as MooreThreads publish them but safetensors."""
    from diffusers import UNetMotionModel
    from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
    from stillguard.engine.animators.motion_unet import upstream_names

    spatial = unet_shapes(context=context, widths=widths)
    video = shapes_of(lambda: UNetMotionModel(**_layout(1, context, widths, "Motion"), motion_num_attention_heads=8))
    guider = shapes_of(lambda: ControlNetConditioningEmbedding(widths[0], 3, (16, 32, 96, 256)))
    parts = {
        "reference_unet": {key: shape for key, shape in spatial.items() if not is_output(key)},
        "denoising_unet": spatial,
        "motion_module": {name: shape for key, shape in video.items() if ".motion_modules." in key for name in upstream_names(key)},
        "pose_guider": guider,
    }
    return {name: write(folder / f"{name}.safetensors", random_state(shapes, seed + i)) for i, (name, shapes) in enumerate(parts.items())}


def face_animator(folder: Path, *, seed: int = 0) -> Path:
    """All five networks of the face animator in one file, at the only size that there is."""
    from stillguard.engine.animators.face.animator import FaceAnimator

    return write(folder / "tha3_separable_float.safetensors", random_state(shapes_of(FaceAnimator), seed))


# Hallo's sizes, which `talking_shapes` makes its published file of.
HALLO: dict[str, Any] = {
    "layers": 2,
    "context": 768,
    "widths": (320, 640, 1280, 1280),
    "audio": (5 * 12 * 768, 32, 768),
    "inner": 512,
    "face": (512, 4),
    "locator": (16, 32, 64, 128),
}


def talking_head(folder: Path, *, seed: int = 0, **sizes: Any) -> Path:
    """Hallo's net.pth, as it is published but safetensors. sizes: of `talking_shapes`."""
    return write(folder / "net.safetensors", random_state(talking_shapes(**sizes), seed))


def talking_shapes(
    *,
    layers: int = 1,
    context: int = 32,
    widths: tuple[int, ...] = WIDTHS,
    audio: tuple[int, int, int] = (5 * 2 * 8, 6, 24),
    inner: int = 12,
    face: tuple[int, int] = (16, 4),
    locator: tuple[int, ...] = (8, 8, 16, 16),
) -> dict[str, tuple[int, ...]]:
    """Of every tensor in Hallo's net.pth.

    audio: numbers in a window of speech features, tokens made of it, their width; inner: the width between. face: numbers in its embedding,
    tokens. locator: widths of the network that says where the face is.
    """
    (heard, tokens, depth), (seen, count) = audio, face
    parts = _talking_unets(layers, context, widths, depth)
    parts["face_locator"] = _locator(widths[0], locator)
    parts["imageproj"] = {"proj.weight": (count * context, seen), "proj.bias": (count * context,), **_norm("norm", context)}
    linear = {"proj1": (inner, heard), "proj2": (inner, inner), "proj3": (tokens * depth, inner)}
    parts["audioproj"] = _norm("norm", depth)
    for name, (out, read) in linear.items():
        parts["audioproj"] |= {f"{name}.weight": (out, read), f"{name}.bias": (out,)}
    return {f"{part}.{key}": shape for part, own in parts.items() for key, shape in own.items()}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _locator(width: int, inner: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding

    return shapes_of(lambda: ControlNetConditioningEmbedding(width, 3, inner))


def _talking_unets(layers: int, context: int, widths: tuple[int, ...], depth: int) -> dict[str, dict[str, tuple[int, ...]]]:
    """Hallo's reference_unet and denoising_unet."""
    from diffusers import UNetMotionModel
    from stillguard.engine.animators.motion_unet import upstream_names
    from stillguard.engine.animators.talking_head.audio import AudioModule

    spatial = unet_shapes(layers=layers, context=context, widths=widths)
    video = shapes_of(lambda: UNetMotionModel(**_layout(layers, context, widths, "Motion"), motion_num_attention_heads=8))
    denoiser = dict(spatial) | {name: shape for key, shape in video.items() if ".motion_modules." in key for name in upstream_names(key)}
    for key, (width, *_) in spatial.items():
        if key.endswith(".proj_in.weight"):
            block, _, index = key.removesuffix(".proj_in.weight").partition(".attentions.")
            read = _block_input(block, int(index), widths)
            module = shapes_of(lambda: AudioModule(width, read, depth, heads=8, groups=32))  # noqa: B023  # called at once
            denoiser |= {f"{block}.audio_modules.{index}.{name}": shape for name, shape in module.items()}
    return {"reference_unet": {key: shape for key, shape in spatial.items() if not is_output(key)}, "denoising_unet": denoiser}


def _block_input(block: str, index: int, widths: tuple[int, ...]) -> int:
    """The width of an audio block: of what Hallo's UNet gives the block it stands in, on the way down in the first layer only."""
    side, _, level = block.partition(".")
    if side == "mid_block":
        return widths[-1]
    if side == "up_blocks":
        return widths[max(0, len(widths) - 2 - int(level))]
    return widths[max(0, int(level) - (index == 0))]


def publish(folder: Path, *, context: int = 32) -> None:
    """Small networks under the names and in the containers of the public files."""
    for name, file in animate_anyone(folder, context=context).items():
        torch.save(load_file(file), folder / f"{name}.pth")
        file.unlink()
    magic_animate(folder, context=context).rename(folder / "magicanimate_appearance_encoder.safetensors")
    magic_pose(folder, context=context)


def magic_animate(folder: Path, *, seed: int = 10, context: int = 32) -> Path:
    """MagicAnimate's appearance_encoder, which lacks what follows the last feature."""
    last = "up_blocks.3.attentions.1."
    kept = (f"{last}norm.", f"{last}proj_in.", f"{last}transformer_blocks.0.norm1.")
    shapes = {key: shape for key, shape in unet_shapes(context=context).items() if not is_output(key)}
    shapes = {key: shape for key, shape in shapes.items() if not key.startswith(last) or key.startswith(kept)}
    return write(folder / "appearance_encoder.safetensors", random_state(shapes, seed))


def magic_pose(folder: Path, *, seed: int = 20, context: int = 32) -> Path:
    """MagicPose's model_state: a PyTorch file of a whole CompVis model, of which one branch counts."""
    shapes = {ldm_name(key): shape for key, shape in unet_shapes(context=context).items()}
    branch = {f"appearance_control_model.{key}": shape for key, shape in shapes.items() if not key.startswith("out.")}
    branch["appearance_control_model.input_hint_block.0.weight"] = (16, 3, 3, 3)
    rest = {"model.diffusion_model.input_blocks.0.0.bias": (32,), "first_stage_model.encoder.conv_in.bias": (8,), "betas": (1000,)}
    file = folder / "model_state-110000.th"
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": random_state({**branch, **rest}, seed), "global_step": 110000}, file)
    return file


def stable_diffusion(folder: Path, *, seed: int = 30, context: int = 32) -> Path:
    """A checkpoint in CompVis names, as most are published."""
    shapes = {f"model.diffusion_model.{ldm_name(key)}": shape for key, shape in unet_shapes(context=context).items()}
    return write(folder / "sd15.safetensors", random_state({**shapes, "first_stage_model.encoder.conv_in.bias": (8,)}, seed))


_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def ldm_name(key: str, layers: int = 1) -> str:
    """The CompVis name of a tensor of diffusers' UNet."""
    for ours, theirs in _TOP.items():
        if key.startswith(f"{ours}."):
            return key.replace(ours, theirs, 1)
    side, *rest = key.split(".")
    if side == "mid_block":
        index = {"attentions.0": 1, "resnets.0": 0, "resnets.1": 2}[".".join(rest[:2])]
        return f"middle_block.{index}." + _inside(rest[0], rest[2:])
    level, kind, number, inner = int(rest[0]), rest[1], int(rest[2]), rest[3:]
    if side == "down_blocks":
        block = 1 + level * (layers + 1) + (layers if kind == "downsamplers" else number)
        place = {"resnets": "0", "attentions": "1", "downsamplers": "0.op"}[kind]
        return f"input_blocks.{block}.{place}." + _inside(kind, inner)
    block = level * (layers + 1) + (layers if kind == "upsamplers" else number)
    # Only the first level has no attention between the residual block and the upsampler.
    place = {"resnets": "0", "attentions": "1", "upsamplers": "1.conv" if level == 0 else "2.conv"}[kind]
    return f"output_blocks.{block}.{place}." + _inside(kind, inner)


def _inside(kind: str, names: list[str]) -> str:
    if kind == "resnets":
        return ".".join([_RESNET[names[0]], *names[1:]])
    return ".".join(names[1:] if kind in ("downsamplers", "upsamplers") else names)


def from_manifest(manifest: Path, file: Path, *, seed: int = 0, dtype: torch.dtype = torch.float16) -> Path:
    """A full-size file with exactly the keys and shapes of a published one."""
    keys = json.loads(manifest.read_text(encoding="utf-8"))["keys"]
    return write(file, random_state({key: tuple(shape) for key, (shape, _) in keys.items()}, seed, dtype))


def write(file: Path, state: State) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, file)
    return file
