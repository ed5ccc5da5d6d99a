"""What each surrogate takes of a GPU's memory at its published size, counted from shapes: no GPU, no weights and no download.

    nox -s benchmarks -- real_sizes [--only WORD]

Networks are core's and the pack's own at published widths, without memory for their weights, in half precision. Their passes are gone
through by the code that a run asks before it starts (nodes/bridge/memory/room.py). Between two sizes needs are interpolated by pixels.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from bench import cpu_shim
from bench.comfyui import comfyui

cpu_shim.install()
sys.path.insert(0, str(comfyui()))

import comfy.cli_args  # noqa: E402

comfy.cli_args.args.cpu = True
# As core chooses by itself on an NVIDIA GPU.
comfy.cli_args.args.use_pytorch_cross_attention = True

import comfy.clip_vision  # noqa: E402
import comfy.ldm.cogvideo.model  # noqa: E402
import comfy.ldm.cogvideo.vae  # noqa: E402
import comfy.ldm.hunyuan_video.model  # noqa: E402
import comfy.ldm.lightricks.model  # noqa: E402
import comfy.ldm.lightricks.vae.causal_video_autoencoder  # noqa: E402
import comfy.ldm.wan.model  # noqa: E402
import comfy.ldm.wan.model_animate  # noqa: E402
import comfy.ldm.wan.vae  # noqa: E402
import comfy.model_detection  # noqa: E402
import comfy.ops  # noqa: E402
import comfy.sd  # noqa: E402
from comfy.ldm.models.autoencoder import AutoencoderKL, AutoencodingEngine  # noqa: E402
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel  # noqa: E402
from comfy.model_patcher import ModelPatcher  # noqa: E402
from dormant_step import FRAMES, FULL, NETS, Scene  # noqa: E402
from stillguard.engine.residency import on_device_together  # noqa: E402
from stillguard.engine.surrogates.denoiser import Tap  # noqa: E402
from stillguard.engine.surrogates.video_setup import VideoSetup  # noqa: E402
from stillguard.nodes.bridge.autograd import autograd_session  # noqa: E402
from stillguard.nodes.bridge.memory import room  # noqa: E402
from stillguard.nodes.bridge.surrogates import animators, clip_vision, denoiser, perceptual  # noqa: E402
from stillguard.nodes.bridge.surrogates import vae as vaes  # noqa: E402
from stillguard.nodes.bridge.surrogates.taps import i2vguards_blocks  # noqa: E402
from stillguard.nodes.bridge.video import model as video_model  # noqa: E402
from stillguard.nodes.bridge.video.conditioner import Conditioner, VideoSize  # noqa: E402
from stillguard.nodes.bridge.video.families import FAMILIES  # noqa: E402
from stillguard.nodes.bridge.video.stand_ins import StandInCLIPVision, StandInVAE  # noqa: E402
from torch import nn  # noqa: E402

HALF, CARDS, LENGTH = torch.bfloat16, (8, 12, 16, 24), 17
_KL = {"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128, "ch_mult": [1, 2, 4, 4]}
_KL |= {"num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}


def kl_vae() -> nn.Module:
    return AutoencoderKL(ddconfig=_KL, embed_dim=4)


def svd_vae() -> nn.Module:
    coder = "comfy.ldm.modules.diffusionmodules.model.Encoder"
    decoder = {**_KL, "video_kernel_size": [3, 1, 1], "alpha": 0.0}
    return AutoencodingEngine(
        regularizer_config={"target": "comfy.ldm.models.autoencoder.DiagonalGaussianRegularizer"},
        encoder_config={"target": coder, "params": _KL},
        decoder_config={"target": "comfy.ldm.modules.temporal_ae.VideoDecoder", "params": decoder},
    )


def wan_vae() -> nn.Module:
    temporal = {"num_res_blocks": 2, "attn_scales": [], "temperal_downsample": [False, True, True]}
    return comfy.ldm.wan.vae.WanVAE(dim=96, z_dim=16, dim_mult=[1, 2, 4, 4], image_channels=3, conv_out_channels=3, dropout=0.0, **temporal)


def hunyuan_vae() -> nn.Module:
    return AutoencoderKL(ddconfig={**_KL, "z_channels": 16, "conv3d": True, "time_compress": 4}, embed_dim=16)


def ltx_vae() -> nn.Module:
    return comfy.ldm.lightricks.vae.causal_video_autoencoder.VideoVAE(version=0)


def cogvideox_vae() -> nn.Module:
    return comfy.ldm.cogvideo.vae.AutoencoderKLCogVideoX(latent_channels=16)


def svd(**core: Any) -> nn.Module:
    """Blattmann et al. 2023, as core's SVD_img2vid has it."""
    sides = {"model_channels": 320, "in_channels": 8, "out_channels": 4, "num_res_blocks": [2] * 4, "channel_mult": [1, 2, 4, 4]}
    heads = {"num_heads": -1, "num_head_channels": 64, "context_dim": 1024, "num_classes": "sequential", "adm_in_channels": 768}
    depth = {"transformer_depth": [1] * 6 + [0] * 2, "transformer_depth_middle": 1, "transformer_depth_output": [1] * 9 + [0] * 3}
    temporal = {"use_temporal_attention": True, "use_temporal_resblock": True, "extra_ff_mix_layer": True, "use_spatial_context": True}
    merge = {"merge_strategy": "learned_with_images", "merge_factor": 0.0, "video_kernel_size": [3, 1, 1]}
    switches = {"use_spatial_transformer": True, "use_linear_in_transformer": True, "legacy": False, "image_size": 32}
    return UNetModel(**sides, **heads, **depth, **temporal, **merge, **switches, **core)


def wan(dim: int, ffn_dim: int, heads: int, layers: int, kind: str = "i2v") -> Callable[..., nn.Module]:
    """Wan 2.1's and 2.2's widths; the smaller one as Wan 2.1 Fun InP has it."""
    make = comfy.ldm.wan.model_animate.AnimateWanModel if kind == "animate" else comfy.ldm.wan.model.WanModel
    sides = {"dim": dim, "ffn_dim": ffn_dim, "num_heads": heads, "num_layers": layers, "in_dim": 36, "out_dim": 16, "text_dim": 4096}
    return lambda **core: make(model_type=kind, **sides, **core)


def cogvideox(**core: Any) -> nn.Module:
    """CogVideoX 5B I2V."""
    sides = {"num_attention_heads": 48, "num_layers": 42, "in_channels": 32, "out_channels": 16}
    return comfy.ldm.cogvideo.model.CogVideoXTransformer3DModel(
        **sides, use_rotary_positional_embeddings=True, use_learned_positional_embeddings=True, **core
    )


def ltx(**core: Any) -> nn.Module:
    """LTX-Video 2B."""
    return comfy.ldm.lightricks.model.LTXVModel(in_channels=128, cross_attention_dim=2048, num_layers=28, caption_channels=4096, **core)


def hunyuan(channels: int) -> Callable[..., nn.Module]:
    sides = {"hidden_size": 3072, "num_heads": 24, "depth": 20, "depth_single_blocks": 40, "context_in_dim": 4096, "vec_in_dim": 768}
    rope = {"mlp_ratio": 4.0, "axes_dim": [16, 56, 56], "theta": 256, "patch_size": [1, 2, 2], "qkv_bias": True, "out_channels": 16}
    absent = {"byt5": False, "meanflow": False, "use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False}
    more = {"guidance_embed": True, "image_model": "hunyuan_video"}
    return lambda **core: comfy.ldm.hunyuan_video.model.HunyuanVideo(in_channels=channels, **sides, **rope, **absent, **more, **core)


@dataclass(frozen=True)
class Video:
    """A model as published, and the size of picture that it was published for."""

    family: str
    make: Callable[..., nn.Module]
    vae: Callable[[], nn.Module]
    clip: str | None
    height: int
    width: int


VIDEOS = {
    "SVD": Video("SVD", svd, svd_vae, "h", 576, 1024),
    "Wan 1.3B": Video("Wan", wan(1536, 8960, 12, 30), wan_vae, "h", 480, 832),
    "Wan 14B": Video("Wan", wan(5120, 13824, 40, 40), wan_vae, "h", 480, 832),
    "Wan Animate 14B": Video("Wan Animate", wan(5120, 13824, 40, 40, "animate"), wan_vae, "h", 480, 832),
    "CogVideoX 5B": Video("CogVideoX", cogvideox, cogvideox_vae, None, 480, 720),
    "LTX-Video 2B": Video("LTX", ltx, ltx_vae, None, 512, 768),
    "HunyuanVideo 13B (concat)": Video("Hunyuan (concat)", hunyuan(33), hunyuan_vae, None, 544, 960),
    "HunyuanVideo 13B (replace)": Video("Hunyuan (replace)", hunyuan(16), hunyuan_vae, None, 544, 960),
}


def shapes(make: Callable[[], nn.Module]) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return make().state_dict()


def vae_socket(make: Callable[[], nn.Module], dtype: torch.dtype = HALF) -> comfy.sd.VAE:
    with torch.device("meta"):
        return comfy.sd.VAE(sd=shapes(make), dtype=dtype)


def vae_view(make: Callable[[], nn.Module]) -> vaes.DifferentiableVAE:
    return vaes.DifferentiableVAE(vae_socket(make))


def clip_view(size: str) -> clip_vision.DifferentiableCLIPVision:
    name = {"h": "clip_vision_config_h.json", "l": "clip_vision_config_vitl.json"}[size]
    config = json.loads((Path(comfy.clip_vision.__file__).parent / name).read_text(encoding="utf-8"))
    with mock.patch.object(comfy.model_management, "text_encoder_dtype", return_value=torch.float16):
        return clip_vision.DifferentiableCLIPVision(comfy.clip_vision.ClipVisionModel(config))


def size_of(network: nn.Module) -> float:
    return float(sum(tensor.nbytes for tensor in network.state_dict().values()))


def video_room(video: Video, length: int) -> room.Room:
    """Of I2VGuard's terms on this model, its VAE and its image encoder."""
    family = next(family for family in FAMILIES if family.name == video.family)
    network = video.make(device="meta", dtype=HALF, operations=comfy.ops.disable_weight_init)
    config = comfy.model_detection.model_config_from_unet(network.state_dict(), "")
    config.set_inference_dtype(HALF, None)
    patcher = ModelPatcher(config.get_model({}, "", device="meta"), torch.device("cpu"), torch.device("cpu"))
    vae, clip = vae_view(video.vae), None if video.clip is None else clip_view(video.clip)
    told = {"pooled_output": torch.zeros(1, 768), "attention_mask": torch.ones(1, 226, dtype=torch.long)}
    text = [[torch.zeros(1, 226, 4096), told]] if family.text else []
    size = VideoSize(0, 0, length)
    seen = None if clip is None else StandInCLIPVision(clip)
    conditioner = Conditioner(family, StandInVAE(vae), seen, text, text, size)
    model = denoiser.DifferentiableDenoiser(patcher)
    setup = VideoSetup(video_model.DifferentiableVideoModel(model, conditioner, sampling=video_model.Sampling(), video=None))
    setup.listen([Tap("attention", block) for block in i2vguards_blocks(model.network)])
    setup.use_estimate()
    encoders = [vae, *([] if clip is None else [clip])]
    turning = [size_of(model.network), sum(size_of(encoder.patcher.model) for encoder in encoders)]
    passes = [vaes.vae_pass(vae), video_model.video_pass(setup, encoders)]
    return room.Room(passes, lambda low_memory: on_device_together(turning) if low_memory else sum(turning))


def dormant_room() -> room.Room:
    """Of every term of Dormant: three ReferenceNets, five frames of the animator, VAE, image encoder, LPIPS."""
    scene = Scene(FULL, 64, "meta", HALF)
    vae, clip = vae_view(kl_vae), clip_view("l")
    nets = [scene.nets[name] for name in NETS]
    passes = [
        vaes.vae_pass(vae),
        clip_vision.clip_vision_pass(clip),
        perceptual.perceptual_pass(scene.lpips),
        *map(animators.reference_pass, nets),
    ]
    resident = sum(size_of(network) for network in (vae.patcher.model, clip.patcher.model, scene.lpips, scene.animator.guider))
    turning = [size_of(network.unet) for network in (*nets, scene.animator)]
    return room.Room(
        [*passes, animators.animator_pass(scene.animator, frames=FRAMES)],
        lambda low_memory: resident + (on_device_together(turning) if low_memory else sum(turning)),
    )


def single_rooms() -> Iterator[tuple[str, room.Room]]:
    """Each of Dormant's surrogates, and the VAEs that a VAE Latent loss may read."""
    scene = Scene(FULL, 64, "meta", HALF)
    makers = {"SD 1.5's VAE": kl_vae, "SVD's VAE": svd_vae, "Wan's VAE": wan_vae, "CogVideoX's VAE": cogvideox_vae}
    for name, make in {**makers, "LTX-Video's VAE": ltx_vae, "HunyuanVideo's VAE": hunyuan_vae}.items():
        vae = vae_view(make)
        yield name, alone(vaes.vae_pass(vae))
    for name, size in (("CLIP ViT-L/14", "l"), ("CLIP ViT-H/14", "h")):
        yield name, alone(clip_vision.clip_vision_pass(clip_view(size)))
    yield "LPIPS (VGG16)", alone(perceptual.perceptual_pass(scene.lpips))
    yield "ReferenceNet", alone(animators.reference_pass(scene.nets["anyone"]))
    yield f"AnimateAnyone, {FRAMES} frames", alone(animators.animator_pass(scene.animator, frames=FRAMES))


def alone(one: room.Pass) -> room.Room:
    weights = sum(map(size_of, one.networks))
    return room.Room([one], lambda low_memory: weights)


def largest(rooms: room.Room, height: int, width: int, card: float, *, low_memory: bool, longest: int) -> str:
    """The largest size of this aspect that fits, as text."""
    whole, half = (rooms.need(height // part, width // part, low_memory=low_memory) for part in (1, 2))
    slope = (whole.most - half.most) / (height * width * 3 / 4)
    if slope == 0:
        return "any"
    free = room.USABLE * card * 2**30 - whole.weights - (whole.most - slope * height * width)
    side = 0 if free <= 0 else min(longest, int(max(height, width) * math.sqrt(free / (slope * height * width)))) // 64 * 64
    if side < 128:
        return "-"
    return f"{side}" if height == width else f"{side}x{round(min(height, width) * side / max(height, width) / 32) * 32}"


def print_row(name: str, rooms: room.Room, height: int, width: int, longest: int) -> None:
    fast, low = (rooms.need(height, width, low_memory=low_memory) for low_memory in (False, True))
    cells = [f"{width}x{height}", *(f"{value / 1e9:.1f}" for value in (fast.weights, fast.most, low.weights, low.most))]
    for card in CARDS:
        cells.append(", ".join(largest(rooms, height, width, card, low_memory=low, longest=longest) for low in (False, True)))
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


@contextlib.contextmanager
def on_meta() -> Iterator[None]:
    """While it lasts, views take a socket's own network, which has no weights to copy, in half precision though this is no GPU."""

    def same(patcher: ModelPatcher, *, change_name: object = None, change: Callable[[ModelPatcher], None]) -> ModelPatcher:
        change(patcher)
        return patcher

    with contextlib.ExitStack() as stack:
        stack.enter_context(autograd_session())
        for module in (vaes, clip_vision, denoiser):
            stack.enter_context(mock.patch.object(module, "independent_copy", same))
        stack.enter_context(mock.patch.object(vaes, "copied_dtype", lambda own, device: own))
        stack.enter_context(mock.patch.object(denoiser, "cast_denoiser"))
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="rows whose name holds this")
    only = parser.parse_args().only
    logging.disable(logging.INFO)
    print(f"| surrogate | size | weights, fast | graphs, fast | weights, low | graphs, low | {' | '.join(f'{c} GB' for c in CARDS)} |")
    print("|---" * (6 + len(CARDS)) + "|")
    with on_meta():
        for name, rooms in single_rooms():
            if only in name:
                print_row(name, rooms, 512, 512, 2048)
        if only in "Dormant, all terms":
            print_row("Dormant, all terms", dormant_room(), 512, 512, 2048)
        for name, video in VIDEOS.items():
            if only in name:
                print_row(f"{name}, {LENGTH} frames", video_room(video, LENGTH), video.height, video.width, 1280)


if __name__ == "__main__":
    main()
