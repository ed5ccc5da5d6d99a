"""Image-to-video and image-editing models with random weights, in files that core's own loaders take without any patch.

They prove wiring, not effect. Writing them takes ComfyUI, since the layouts are core's classes: import this where ComfyUI is importable.
`cached` keeps what was written. `python -m bench.video_files` writes what `publish` needs, in a process of its own.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from . import cpu_shim
from .cache import filled
from .comfyui import VERSION, comfyui
from .paths import BENCH

TEXT, SD_TEXT, SVD_WIDTH, WAN_CLIP_WIDTH = 16, 768, 1024, 1280

_LTX_BLOCKS = [["res_x", 1], ["compress_all", 1], ["res_x", 1], ["compress_all", 1], ["compress_all", 1], ["res_x", 1]]
LTX_VAE = {
    "dims": 3,
    "latent_channels": 128,
    "blocks": _LTX_BLOCKS,
    "norm_layer": "pixel_norm",
    "patch_size": 4,
    "latent_log_var": "uniform",
    "encoder_base_channels": 16,
    "decoder_base_channels": 16,
}


def weights(network: nn.Module, seed: int) -> dict[str, Tensor]:
    """Random, of preserved variance; norms are the identity."""
    generator, state = torch.Generator().manual_seed(seed), {}
    for key, value in network.state_dict().items():
        if not value.is_floating_point():
            state[key] = value.clone()
        elif value.ndim > 1:
            state[key] = torch.randn(value.shape, generator=generator) * value[0].numel() ** -0.5
        else:
            state[key] = torch.ones(value.shape) if key.endswith(("weight", "gamma", "scale", "std-of-means")) else torch.zeros(value.shape)
    return state


def _core() -> dict[str, Any]:
    import comfy.ops

    return {"device": "cpu", "dtype": torch.float32, "operations": comfy.ops.disable_weight_init}


def _write(state: dict[str, Tensor], path: Path, config: dict[str, Any] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in state.items()}, path, None if config is None else {"config": json.dumps(config)})
    return path


def wan(folder: Path, *, layers: int = 3, channels: int = 36) -> Path:
    from comfy.ldm.wan.model import WanModel

    kind = "i2v" if channels == 36 else "t2v"
    sides = {"dim": 128, "ffn_dim": 128, "freq_dim": 256, "text_dim": TEXT, "out_dim": 16, "num_heads": 1, "num_layers": layers}
    network = WanModel(model_type=kind, patch_size=(1, 2, 2), in_dim=channels, qk_norm=True, cross_attn_norm=True, **sides, **_core())
    return _write(weights(network, 1), folder / f"tiny_wan_{kind}.safetensors", {"transformer": {"text_dim": TEXT}})


def wan_animate(folder: Path) -> Path:
    from comfy.ldm.wan.model_animate import AnimateWanModel

    # Fewer layers have no face adapter, by which core knows the model.
    sides = {"dim": 128, "ffn_dim": 128, "freq_dim": 256, "text_dim": TEXT, "out_dim": 16, "num_heads": 1, "num_layers": 5}
    network = AnimateWanModel(model_type="animate", patch_size=(1, 2, 2), in_dim=36, qk_norm=True, cross_attn_norm=True, **sides, **_core())
    return _write(weights(network, 5), folder / "tiny_wan_animate.safetensors", {"transformer": {"text_dim": TEXT}})


def wan_vae(folder: Path) -> Path:
    from comfy.ldm.wan.vae import WanVAE

    strides = {"dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": [], "temperal_downsample": [False, True, True]}
    network = WanVAE(dim=4, z_dim=16, image_channels=3, conv_out_channels=3, dropout=0.0, **strides)
    return _write(weights(network, 2), folder / "tiny_wan_vae.safetensors")


def cogvideox(folder: Path, *, layers: int = 2, channels: int = 32) -> Path:
    from comfy.ldm.cogvideo.model import CogVideoXTransformer3DModel

    sides = {"num_attention_heads": 1, "attention_head_dim": 64, "time_embed_dim": 32, "text_embed_dim": TEXT, "num_layers": layers}
    network = CogVideoXTransformer3DModel(
        in_channels=channels, out_channels=16, patch_size=2, use_rotary_positional_embeddings=True, **sides, **_core()
    )
    return _write(weights(network, 4), folder / "tiny_cogvideox.safetensors")


def hunyuan(folder: Path, *, channels: int = 33) -> Path:
    from comfy.ldm.hunyuan_video.model import HunyuanVideo

    network = HunyuanVideo(
        in_channels=channels,
        out_channels=16,
        vec_in_dim=768,
        context_in_dim=TEXT,
        hidden_size=128,
        mlp_ratio=4.0,
        num_heads=1,
        depth=1,
        depth_single_blocks=1,
        axes_dim=[16, 56, 56],
        theta=256,
        patch_size=[1, 2, 2],
        qkv_bias=True,
        guidance_embed=True,
        byt5=False,
        meanflow=False,
        use_cond_type_embedding=False,
        vision_in_dim=None,
        meanflow_sum=False,
        image_model="hunyuan_video",
        **_core(),
    )
    return _write(weights(network, 7), folder / "tiny_hunyuan.safetensors")


def _ltx() -> dict[str, Tensor]:
    from comfy.ldm.lightricks.model import LTXVModel

    sides = {"attention_head_dim": 4, "num_attention_heads": 32, "cross_attention_dim": 128, "caption_channels": TEXT, "num_layers": 2}
    return weights(LTXVModel(in_channels=128, **sides, **_core()), 8)


def _ltx_vae() -> dict[str, Tensor]:
    from comfy.ldm.lightricks.vae.causal_video_autoencoder import VideoVAE

    return weights(VideoVAE(config=LTX_VAE), 9)


def ltx(folder: Path) -> Path:
    return _write(_ltx(), folder / "tiny_ltx.safetensors", {"transformer": {"caption_channels": TEXT}})


def ltx_vae(folder: Path) -> Path:
    return _write(_ltx_vae(), folder / "tiny_ltx_vae.safetensors", {"vae": LTX_VAE})


def ltx_checkpoint(folder: Path) -> Path:
    """Both in one file, as published."""
    state = {f"model.diffusion_model.{key}": value for key, value in _ltx().items()} | {f"vae.{key}": v for key, v in _ltx_vae().items()}
    config = {"transformer": {"caption_channels": TEXT}, "vae": LTX_VAE}
    return _write(state, folder / "tiny_ltx_checkpoint.safetensors", config)


def svd(folder: Path) -> Path:
    """As small as the unpatched loader takes: 135 million parameters, in fp16."""
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from comfy.taesd.taesd import TAESD

    network = UNetModel(
        image_size=32,
        in_channels=8,
        out_channels=4,
        model_channels=320,
        num_res_blocks=[2] * 4,
        channel_mult=[1] * 4,
        num_heads=-1,
        num_head_channels=64,
        use_spatial_transformer=True,
        transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0],
        transformer_depth_output=[0] * 12,
        transformer_depth_middle=-2,
        context_dim=SVD_WIDTH,
        use_linear_in_transformer=True,
        legacy=False,
        num_classes="sequential",
        adm_in_channels=768,
        use_temporal_attention=True,
        use_temporal_resblock=True,
        extra_ff_mix_layer=True,
        use_spatial_context=True,
        merge_strategy="learned_with_images",
        merge_factor=0.0,
        video_kernel_size=[3, 1, 1],
        **_core(),
    )
    state = {f"model.diffusion_model.{key}": value.half() for key, value in weights(network, 6).items()}
    state |= {f"first_stage_model.{key}": value for key, value in weights(TAESD(latent_channels=4), 3).items()}
    return _write(state, folder / "tiny_svd.safetensors")


def stable_diffusion(folder: Path, *, channels: int = 4) -> Path:
    """Stable Diffusion 1.5 of one level, which core knows by its widths; with 8 channels InstructPix2Pix."""
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from comfy.taesd.taesd import TAESD

    network = UNetModel(
        image_size=32,
        in_channels=channels,
        out_channels=4,
        model_channels=320,
        num_res_blocks=[1],
        channel_mult=[1],
        num_heads=8,
        use_spatial_transformer=True,
        transformer_depth=[1],
        transformer_depth_output=[0, 0],
        transformer_depth_middle=-2,
        context_dim=SD_TEXT,
        legacy=False,
        **_core(),
    )
    state = {f"model.diffusion_model.{key}": value.half() for key, value in weights(network, 10).items()}
    state |= {f"first_stage_model.{key}": value for key, value in weights(TAESD(latent_channels=4), 3).items()}
    return _write(state, folder / f"tiny_{'sd15' if channels == 4 else 'instruct_pix2pix'}.safetensors")


def instruct_pix2pix(folder: Path) -> Path:
    return stable_diffusion(folder, channels=8)


def deep_wan(folder: Path) -> Path:
    """With as many blocks as Anti-I2V's rule for layers needs."""
    return wan(folder, layers=8)


def deep_cogvideox(folder: Path) -> Path:
    return cogvideox(folder, layers=8)


# What the test server has, by ComfyUI's folders.
SERVED = {
    "checkpoints": ("svd", "stable_diffusion", "instruct_pix2pix", "ltx_checkpoint"),
    "diffusion_models": ("deep_wan", "wan_animate", "hunyuan", "deep_cogvideox"),
    "vae": ("wan_vae",),
}


def cached(name: str) -> Path:
    """What the function of that name writes."""
    return next(filled(_folder(name), globals()[name]).iterdir())


def publish(models: Path) -> None:
    """Copy the files of SERVED to their folders below `models`."""
    if not all(_folder(name).is_dir() for names in SERVED.values() for name in names):
        subprocess.run([sys.executable, "-m", "bench.video_files"], check=True, cwd=Path(__file__).parents[1])
    for kind, names in SERVED.items():
        (models / kind).mkdir(parents=True, exist_ok=True)
        for file in map(cached, names):
            shutil.copy(file, models / kind)


def _folder(name: str) -> Path:
    """Where `cached` keeps it: another one when this file, ComfyUI or torch is another."""
    made_by = hashlib.sha256(Path(__file__).read_bytes() + f"{VERSION} {torch.__version__}".encode()).hexdigest()
    return BENCH / "video_files" / made_by[:12] / name


def main() -> None:
    sys.path.insert(0, str(comfyui()))
    cpu_shim.install()
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    for names in SERVED.values():
        for name in names:
            cached(name)


if __name__ == "__main__":
    main()
