"""Small diffusion models of pictures, of core's own classes, which differ in what their blocks give and where text stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from video_models import randn

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from stillguard.nodes.bridge.surrogates.denoiser import Conditioning

TEXT, POOLED = 16, 24
_FLUX = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": POOLED,
    "context_in_dim": TEXT,
    "hidden_size": 32,
    "mlp_ratio": 2.0,
    "num_heads": 2,
    "depth": 2,
    "depth_single_blocks": 2,
    "axes_dim": [4, 6, 6],
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
    "guidance_embed": True,
    "txt_ids_dims": [],
}
_SDXL = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [0, 1],
    "transformer_depth_output": [0, 0, 1, 1],
    "transformer_depth_middle": 1,
    "context_dim": TEXT,
    "adm_in_channels": POOLED + 6 * 256,
    "num_classes": "sequential",
    "num_head_channels": 16,
    "use_linear_in_transformer": True,
    "use_spatial_transformer": True,
    "use_temporal_attention": False,
    "use_checkpoint": False,
    "legacy": False,
}
_SD3 = {
    "in_channels": 16,
    "input_size": None,
    "depth": 2,
    "mlp_ratio": 1.0,
    "adm_in_channels": POOLED,
    "num_patches": 256,
    "pos_embed_max_size": 16,
    "pos_embed_scaling_factor": None,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": TEXT, "out_features": 128}},
}
_QWEN = {
    "image_model": "qwen_image",
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": TEXT,
    "axes_dims_rope": [4, 6, 6],
}
_AURA = {
    "cond_seq_dim": TEXT,
    "dim": 32,
    "n_layers": 3,
    "n_double_layers": 2,
    "n_heads": 2,
    "global_conddim": 32,
    "max_seq": 256,
}
_LUMINA = {
    "image_model": "lumina2",
    "in_channels": 16,
    "dim": 32,
    "n_layers": 2,
    "n_refiner_layers": 1,
    "n_heads": 2,
    "n_kv_heads": 2,
    "multiple_of": 16,
    "cap_feat_dim": TEXT,
    "axes_dims": [4, 6, 6],
    "axes_lens": [64, 64, 64],
    "qk_norm": True,
}
_ZIMAGE = {**_LUMINA, "dim": 256, "n_heads": 16, "n_kv_heads": 16, "pad_tokens_multiple": 32, "z_image_modulation": True}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "SDXL": ("SDXL", _SDXL),
    "Flux": ("Flux", _FLUX),
    "SD3": ("SD3", _SD3),
    "Qwen": ("QwenImage", _QWEN),
    "AuraFlow": ("AuraFlow", _AURA),
    "Lumina": ("Lumina2", _LUMINA),
    "Z-Image": ("ZImage", _ZIMAGE),
}


def image_model(kind: str, dtype: torch.dtype = torch.float32, **changes: object) -> ModelPatcher:
    """Narrower than any that core's loaders accept. changes: of its shape."""
    import comfy.model_management
    import comfy.supported_models
    from comfy.model_patcher import ModelPatcher
    from testkit import random_state

    name, shape = KINDS[kind]
    config = getattr(comfy.supported_models, name)({**shape, **changes})
    config.set_inference_dtype(dtype, None)
    with torch.inference_mode():
        model = config.get_model({}, "", device="cpu")
        model.diffusion_model.load_state_dict(random_state(model.diffusion_model, seed=1))
    return ModelPatcher(model, comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device())


def image_prompt(seed: int = 0) -> Conditioning:
    options = {"pooled_output": randn(1, POOLED, seed=seed + 10), "attention_mask": torch.ones(1, 7, dtype=torch.long)}
    return [[randn(1, 7, TEXT, seed=seed), options]]


def image_latents(model: ModelPatcher, side: int, seed: int = 0) -> torch.Tensor:
    layout = model.model.latent_format
    return randn(1, layout.latent_channels, *((1,) if layout.latent_dimensions == 3 else ()), side, side, seed=seed)
