"""Ports of the third-party nodes that the attack workflows use: names, types, defaults, ranges and order, as their packs declare them.

Read in the packs' sources; `snapshot` says how new they were. Ports alone: no pack's code is here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Socket = str
Widget = list[Any]
"""[type, options], or [choices, options] for a combo, as in V1's INPUT_TYPES."""

Inputs = dict[str, Socket | Widget]


def whole(default: int, low: int | None = None, high: int | None = None, step: int | None = None) -> Widget:
    return ["INT", _options(default, low, high, step)]


def real(default: float, low: float, high: float, step: float | None = None) -> Widget:
    return ["FLOAT", _options(default, low, high, step)]


def flag(default: bool) -> Widget:
    return ["BOOLEAN", {"default": default}]


def text(default: str = "") -> Widget:
    return ["STRING", {"default": default, "multiline": True}]


def choice(*options: Any, default: object = None) -> Widget:
    return [list(options), {} if default is None else {"default": default}]


def files(published: str, *before: str) -> Widget:
    """A list of files that depends on the machine: here the published name alone, after the entries that the pack puts before it."""
    return [[*before, published], {}]


def _options(default: float, low: float | None, high: float | None, step: float | None) -> dict[str, float]:
    given = {"default": default, "min": low, "max": high, "step": step}
    return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class Ports:
    """Of one node."""

    required: Inputs
    outputs: dict[str, Socket]
    optional: Inputs = field(default_factory=dict)
    shows: bool = False
    """Whether it is an output node."""


@dataclass(frozen=True)
class PackPorts:
    """repository: owner/name on GitHub. snapshot: year and month of the newest source that could be read."""

    repository: str
    snapshot: str
    nodes: dict[str, Ports]


SEED = whole(0, 0, 0xFFFFFFFFFFFFFFFF)
SEED_32 = whole(0, 0, 2**31 - 1)
SHARE = real(0.0, 0.0, 1.0, 0.001)
SHARE_OF_ALL = real(1.0, 0.0, 1.0, 0.001)
PRECISION = choice("fp32", "fp16", "bf16", default="fp16")
POSES = Ports(
    required={
        "ref_image": "IMAGE",
        "pose_images": "IMAGE",
        "include_body": flag(True),
        "include_hand": flag(True),
        "include_face": flag(True),
    },
    outputs={"poses_with_ref": "IMAGE", "pose_images": "IMAGE"},
)

_PIA_KINDS = ("Animation", "Loop", "Style Transfer")

ANIMATEDIFF = PackPorts(
    "Kosinkadink/ComfyUI-AnimateDiff-Evolved",
    "2026-03",
    {
        "ADE_LoadAnimateDiffModel": Ports(
            required={"model_name": files("pia.ckpt")},
            optional={"ad_settings": "AD_SETTINGS"},
            outputs={"MOTION_MODEL": "MOTION_MODEL_ADE"},
        ),
        "ADE_InputPIA_PaperPresets": Ports(
            required={
                "preset": choice(*(f"{kind} ({size} Motion)" for kind in _PIA_KINDS for size in ("Small", "Medium", "Large"))),
                "batch_index": whole(0, -(2**53 - 1), 2**53 - 1, 1),
            },
            optional={"mult_multival": "MULTIVAL", "print_values": flag(False)},
            outputs={"PIA_INPUT": "PIA_INPUT"},
        ),
        "ADE_ApplyAnimateDiffModelWithPIA": Ports(
            required={
                "motion_model": "MOTION_MODEL_ADE",
                "image": "IMAGE",
                "vae": "VAE",
                "start_percent": SHARE,
                "end_percent": SHARE_OF_ALL,
            },
            optional={
                "pia_input": "PIA_INPUT",
                "motion_lora": "MOTION_LORA",
                "scale_multival": "MULTIVAL",
                "effect_multival": "MULTIVAL",
                "ad_keyframes": "AD_KEYFRAMES",
                "prev_m_models": "M_MODELS",
                "per_block": "PER_BLOCK",
            },
            outputs={"M_MODELS": "M_MODELS"},
        ),
        "ADE_UseEvolvedSampling": Ports(
            required={
                "model": "MODEL",
                "beta_schedule": choice(
                    "autoselect",
                    "use existing",
                    "sqrt_linear (AnimateDiff)",
                    "linear (AnimateDiff-SDXL)",
                    "linear (HotshotXL/default)",
                    "avg(sqrt_linear,linear)",
                    "lcm avg(sqrt_linear,linear)",
                    "lcm",
                    "lcm[100_ots]",
                    "lcm >> sqrt_linear",
                    "sqrt",
                    "cosine",
                    "squaredcos_cap_v2",
                    default="autoselect",
                ),
            },
            optional={"m_models": "M_MODELS", "context_options": "CONTEXT_OPTIONS", "sample_settings": "SAMPLE_SETTINGS"},
            outputs={"MODEL": "MODEL"},
        ),
    },
)

MIMICMOTION = PackPorts(
    "kijai/ComfyUI-MimicMotionWrapper",
    "2025-01",
    {
        "DownloadAndLoadMimicMotionModel": Ports(
            required={
                "model": choice("MimicMotionMergedUnet_1-0-fp16.safetensors", "MimicMotionMergedUnet_1-1-fp16.safetensors"),
                "precision": PRECISION,
            },
            outputs={"mimic_pipeline": "MIMICPIPE"},
        ),
        "MimicMotionGetPoses": POSES,
        "MimicMotionSampler": Ports(
            required={
                "mimic_pipeline": "MIMICPIPE",
                "ref_image": "IMAGE",
                "pose_images": "IMAGE",
                "steps": whole(25, 1, 200, 1),
                "cfg_min": real(2.0, 0.0, 20.0, 0.01),
                "cfg_max": real(2.0, 0.0, 20.0, 0.01),
                "seed": SEED,
                "fps": whole(15, 2, 100, 1),
                "noise_aug_strength": real(0.0, 0.0, 10.0, 0.01),
                "context_size": whole(16, 1, 128, 1),
                "context_overlap": whole(6, 1, 128, 1),
                "keep_model_loaded": flag(True),
            },
            optional={
                "optional_scheduler": "DIFFUSERS_SCHEDULER",
                "pose_strength": real(1.0, 0.0, 10.0, 0.01),
                "pose_start_percent": real(0.0, 0.0, 1.0, 0.01),
                "pose_end_percent": real(1.0, 0.0, 1.0, 0.01),
                "image_embed_strength": real(1.0, 0.0, 10.0, 0.01),
            },
            outputs={"samples": "LATENT"},
        ),
        "MimicMotionDecode": Ports(
            required={"mimic_pipeline": "MIMICPIPE", "samples": "LATENT", "decode_chunk_size": whole(4, 1, 200, 1)},
            outputs={"images": "IMAGE"},
        ),
    },
)

CONTROLNEXT = PackPorts(
    "kijai/ComfyUI-ControlNeXt-SVD",
    "2024-08",
    {
        "DownloadAndLoadControlNeXt": Ports(required={"precision": PRECISION}, outputs={"controlnext_pipeline": "CONTROLNEXT_PIPE"}),
        "ControlNextGetPoses": POSES,
        "ControlNextSampler": Ports(
            required={
                "controlnext_pipeline": "CONTROLNEXT_PIPE",
                "ref_image": "IMAGE",
                "pose_images": "IMAGE",
                "steps": whole(25, 1, 200, 1),
                "motion_bucket_id": whole(127, 0, 1000, 1),
                "cfg_min": real(3.0, 0.0, 20.0, 0.01),
                "cfg_max": real(3.0, 0.0, 20.0, 0.01),
                "seed": SEED,
                "fps": whole(7, 2, 100, 1),
                "controlnext_cond_scale": real(1.0, 0.0, 10.0, 0.01),
                "noise_aug_strength": real(0.02, 0.0, 10.0, 0.01),
                "context_size": whole(24, 1, 128, 1),
                "context_overlap": whole(6, 1, 128, 1),
                "keep_model_loaded": flag(True),
            },
            optional={"optional_scheduler": "DIFFUSERS_SCHEDULER"},
            outputs={"samples": "LATENT"},
        ),
        "ControlNextDecode": Ports(
            required={"controlnext_pipeline": "CONTROLNEXT_PIPE", "samples": "LATENT", "decode_chunk_size": whole(4, 1, 200, 1)},
            outputs={"images": "IMAGE"},
        ),
    },
)

_COG_MODELS = (
    "THUDM/CogVideoX-2b",
    "THUDM/CogVideoX-5b",
    "THUDM/CogVideoX-5b-I2V",
    "kijai/CogVideoX-5b-1.5-T2V",
    "kijai/CogVideoX-5b-1.5-I2V",
    "bertjiazheng/KoolCogVideoX-5b",
    "kijai/CogVideoX-Fun-2b",
    "kijai/CogVideoX-Fun-5b",
    "kijai/CogVideoX-5b-Tora",
    "alibaba-pai/CogVideoX-Fun-V1.1-2b-InP",
    "alibaba-pai/CogVideoX-Fun-V1.1-5b-InP",
    "alibaba-pai/CogVideoX-Fun-V1.1-2b-Pose",
    "alibaba-pai/CogVideoX-Fun-V1.1-5b-Pose",
    "alibaba-pai/CogVideoX-Fun-V1.1-5b-Control",
    "alibaba-pai/CogVideoX-Fun-V1.5-5b-InP",
    "feizhengcong/CogvideoX-Interpolation",
    "NimVideo/cogvideox-2b-img2vid",
)
_SAGE = tuple(
    f"{fused}sageattn{kind}"
    for fused in ("", "fused_")
    for kind in ("_qk_int8_pv_fp8_cuda", "_qk_int8_pv_fp16_cuda", "_qk_int8_pv_fp16_triton")
)

COGVIDEOX = PackPorts(
    "kijai/ComfyUI-CogVideoXWrapper",
    "2025-08",
    {
        "DownloadAndLoadCogVideoModel": Ports(
            required={"model": choice(*_COG_MODELS)},
            optional={
                "precision": choice("fp16", "fp32", "bf16", default="bf16"),
                "quantization": choice(
                    "disabled",
                    "fp8_e4m3fn",
                    "fp8_e4m3fn_fastmode",
                    "torchao_fp8dq",
                    "torchao_fp8dqrow",
                    "torchao_int8dq",
                    "torchao_fp6",
                    default="disabled",
                ),
                "enable_sequential_cpu_offload": flag(False),
                "block_edit": "TRANSFORMERBLOCKS",
                "lora": "COGLORA",
                "compile_args": "COMPILEARGS",
                "attention_mode": choice("sdpa", "fused_sdpa", "sageattn", "fused_sageattn", *_SAGE, "comfy", default="sdpa"),
                "load_device": choice("main_device", "offload_device", default="main_device"),
            },
            outputs={"model": "COGVIDEOMODEL", "vae": "VAE"},
        ),
        "CogVideoTextEncode": Ports(
            required={"clip": "CLIP", "prompt": text()},
            optional={"strength": real(1.0, 0.0, 10.0, 0.01), "force_offload": flag(True)},
            outputs={"conditioning": "CONDITIONING", "clip": "CLIP"},
        ),
        "CogVideoImageEncode": Ports(
            required={"vae": "VAE", "start_image": "IMAGE"},
            optional={
                "end_image": "IMAGE",
                "enable_tiling": flag(False),
                "noise_aug_strength": real(0.0, 0.0, 1.0, 0.001),
                "strength": real(1.0, 0.0, 10.0, 0.01),
                "start_percent": real(0.0, 0.0, 1.0, 0.01),
                "end_percent": real(1.0, 0.0, 1.0, 0.01),
            },
            outputs={"samples": "LATENT"},
        ),
        "CogVideoSampler": Ports(
            required={
                "model": "COGVIDEOMODEL",
                "positive": "CONDITIONING",
                "negative": "CONDITIONING",
                "num_frames": whole(49, 1, 1024, 1),
                "steps": whole(50, 1),
                "cfg": real(6.0, 0.0, 30.0, 0.01),
                "seed": SEED,
                "scheduler": choice(
                    "DPM++",
                    "Euler",
                    "Euler A",
                    "PNDM",
                    "DDIM",
                    "CogVideoXDDIM",
                    "CogVideoXDPMScheduler",
                    "SASolverScheduler",
                    "UniPCMultistepScheduler",
                    "HeunDiscreteScheduler",
                    "DEISMultistepScheduler",
                    "LCMScheduler",
                    default="CogVideoXDDIM",
                ),
            },
            optional={
                "samples": "LATENT",
                "image_cond_latents": "LATENT",
                "denoise_strength": real(1.0, 0.0, 1.0, 0.01),
                "context_options": "COGCONTEXT",
                "controlnet": "COGVIDECONTROLNET",
                "tora_trajectory": "TORAFEATURES",
                "fastercache": "FASTERCACHEARGS",
                "feta_args": "FETAARGS",
                "teacache_args": "TEACACHEARGS",
            },
            outputs={"samples": "LATENT"},
        ),
        "CogVideoDecode": Ports(
            required={
                "vae": "VAE",
                "samples": "LATENT",
                "enable_vae_tiling": flag(True),
                "tile_sample_min_height": whole(240, 16, 2048, 8),
                "tile_sample_min_width": whole(360, 16, 2048, 8),
                "tile_overlap_factor_height": real(0.2, 0.0, 1.0, 0.001),
                "tile_overlap_factor_width": real(0.2, 0.0, 1.0, 0.001),
                "auto_tile_size": flag(True),
            },
            outputs={"images": "IMAGE"},
        ),
    },
)

WANVIDEO = PackPorts(
    "kijai/ComfyUI-WanVideoWrapper",
    "2026-05",
    {
        "WanVideoModelLoader": Ports(
            required={
                "model": files("wan2.1_i2v_480p_14B_fp16.safetensors"),
                "base_precision": choice("fp32", "bf16", "fp16", "fp16_fast", default="bf16"),
                "quantization": choice(
                    "disabled",
                    *(f"fp8_{kind}{scaled}{fast}" for kind in ("e4m3fn", "e5m2") for scaled in ("", "_scaled") for fast in ("", "_fast")),
                    default="disabled",
                ),
                "load_device": choice("main_device", "offload_device", default="offload_device"),
            },
            optional={
                "attention_mode": choice(
                    "sdpa",
                    "flash_attn_2",
                    "flash_attn_3",
                    "sageattn",
                    "sageattn_3",
                    "radial_sage_attention",
                    "sageattn_compiled",
                    "sageattn_ultravico",
                    "comfy",
                    default="sdpa",
                ),
                "compile_args": "WANCOMPILEARGS",
                "block_swap_args": "BLOCKSWAPARGS",
                "lora": "WANVIDLORA",
                "vram_management_args": "VRAM_MANAGEMENTARGS",
                "extra_model": "VACEPATH",
                "fantasytalking_model": "FANTASYTALKINGMODEL",
                "multitalk_model": "MULTITALKMODEL",
                "fantasyportrait_model": "FANTASYPORTRAITMODEL",
                "rms_norm_function": choice("default", "pytorch", default="default"),
            },
            outputs={"model": "WANVIDEOMODEL"},
        ),
        "WanVideoLoraSelect": Ports(
            required={
                "lora": files("UniAnimate-Wan2.1-14B-Lora-12000-fp16.safetensors"),
                "strength": real(1.0, -1000.0, 1000.0, 0.0001),
            },
            optional={"prev_lora": "WANVIDLORA", "blocks": "SELECTEDBLOCKS", "low_mem_load": flag(False), "merge_loras": flag(True)},
            outputs={"lora": "WANVIDLORA"},
        ),
        "WanVideoVAELoader": Ports(
            required={"model_name": files("Wan2_1_VAE_bf16.safetensors")},
            optional={
                "precision": choice("fp16", "fp32", "bf16", default="bf16"),
                "compile_args": "WANCOMPILEARGS",
                "use_cpu_cache": flag(False),
                "verbose": flag(False),
            },
            outputs={"vae": "WANVAE"},
        ),
        "LoadWanVideoT5TextEncoder": Ports(
            required={"model_name": files("umt5-xxl-enc-bf16.safetensors"), "precision": choice("fp32", "bf16", default="bf16")},
            optional={
                "load_device": choice("main_device", "offload_device", default="offload_device"),
                "quantization": choice("disabled", "fp8_e4m3fn", default="disabled"),
            },
            outputs={"wan_t5_model": "WANTEXTENCODER"},
        ),
        "WanVideoTextEncode": Ports(
            required={"positive_prompt": text(), "negative_prompt": text()},
            optional={
                "t5": "WANTEXTENCODER",
                "force_offload": flag(True),
                "model_to_offload": "WANVIDEOMODEL",
                "use_disk_cache": flag(False),
                "device": choice("gpu", "cpu", default="gpu"),
            },
            outputs={"text_embeds": "WANVIDEOTEXTEMBEDS"},
        ),
        "WanVideoClipVisionEncode": Ports(
            required={
                "clip_vision": "CLIP_VISION",
                "image_1": "IMAGE",
                "strength_1": real(1.0, 0.0, 10.0, 0.001),
                "strength_2": real(1.0, 0.0, 10.0, 0.001),
                "crop": choice("center", "disabled", default="center"),
                "combine_embeds": choice("average", "sum", "concat", "batch", default="average"),
                "force_offload": flag(True),
            },
            optional={"image_2": "IMAGE", "negative_image": "IMAGE", "tiles": whole(0, 0, 16, 2), "ratio": real(0.5, 0.0, 1.0, 0.01)},
            outputs={"image_embeds": "WANVIDIMAGE_CLIPEMBEDS"},
        ),
        "WanVideoImageToVideoEncode": Ports(
            required={
                "width": whole(832, 64, 8096, 8),
                "height": whole(480, 64, 8096, 8),
                "num_frames": whole(81, 1, 10000, 4),
                "noise_aug_strength": real(0.0, 0.0, 10.0, 0.001),
                "start_latent_strength": real(1.0, 0.0, 10.0, 0.001),
                "end_latent_strength": real(1.0, 0.0, 10.0, 0.001),
                "force_offload": flag(True),
            },
            optional={
                "vae": "WANVAE",
                "clip_embeds": "WANVIDIMAGE_CLIPEMBEDS",
                "start_image": "IMAGE",
                "end_image": "IMAGE",
                "control_embeds": "WANVIDIMAGE_EMBEDS",
                "fun_or_fl2v_model": flag(True),
                "temporal_mask": "MASK",
                "extra_latents": "LATENT",
                "tiled_vae": flag(False),
                "add_cond_latents": "ADD_COND_LATENTS",
                "augment_empty_frames": real(0.0, 0.0, 10.0, 0.01),
                "empty_frame_pad_image": "IMAGE",
            },
            outputs={"image_embeds": "WANVIDIMAGE_EMBEDS"},
        ),
        "WanVideoUniAnimateDWPoseDetector": Ports(
            required={
                "pose_images": "IMAGE",
                "score_threshold": real(0.3, 0.0, 1.0, 0.01),
                "stick_width": whole(4, 1, 100, 1),
                "draw_body": flag(True),
                "body_keypoint_size": whole(4, 0, 100, 1),
                "draw_feet": flag(True),
                "draw_hands": flag(True),
                "hand_keypoint_size": whole(4, 0, 100, 1),
                "colorspace": choice("RGB", "BGR"),
                "handle_not_detected": choice("empty", "repeat", default="empty"),
                "draw_head": flag(True),
            },
            optional={"reference_pose_image": "IMAGE"},
            outputs={"poses": "IMAGE", "reference_pose": "IMAGE"},
        ),
        "WanVideoUniAnimatePoseInput": Ports(
            required={
                "pose_images": "IMAGE",
                "strength": real(1.0, 0.0, 1.0, 0.01),
                "start_percent": real(0.0, 0.0, 1.0, 0.01),
                "end_percent": real(1.0, 0.0, 1.0, 0.01),
            },
            optional={"reference_pose_image": "IMAGE"},
            outputs={"unianimate_poses": "UNIANIMATE_POSE"},
        ),
        "WanVideoSampler": Ports(
            required={
                "model": "WANVIDEOMODEL",
                "image_embeds": "WANVIDIMAGE_EMBEDS",
                "steps": whole(30, 1),
                "cfg": real(6.0, 0.0, 30.0, 0.01),
                "shift": real(5.0, 0.0, 1000.0, 0.01),
                "seed": SEED,
                "force_offload": flag(True),
                "scheduler": choice(
                    "unipc",
                    "unipc/beta",
                    "dpm++",
                    "dpm++/beta",
                    "dpm++_sde",
                    "dpm++_sde/beta",
                    "euler",
                    "euler/beta",
                    "longcat_distill_euler",
                    "deis",
                    "lcm",
                    "lcm/beta",
                    "res_multistep",
                    "er_sde",
                    "flowmatch_causvid",
                    "flowmatch_distill",
                    "flowmatch_pusa",
                    "multitalk",
                    "sa_ode_stable",
                    "rcm",
                    "vibt_unipc",
                    default="unipc",
                ),
                "riflex_freq_index": whole(0, 0, 1000, 1),
            },
            optional={
                "text_embeds": "WANVIDEOTEXTEMBEDS",
                "samples": "LATENT",
                "denoise_strength": real(1.0, 0.0, 1.0, 0.01),
                "feta_args": "FETAARGS",
                "context_options": "WANVIDCONTEXT",
                "cache_args": "CACHEARGS",
                "flowedit_args": "FLOWEDITARGS",
                "batched_cfg": flag(False),
                "slg_args": "SLGARGS",
                "rope_function": choice("default", "comfy", "comfy_chunked", default="comfy"),
                "loop_args": "LOOPARGS",
                "experimental_args": "EXPERIMENTALARGS",
                "sigmas": "SIGMAS",
                "unianimate_poses": "UNIANIMATE_POSE",
                "fantasytalking_embeds": "FANTASYTALKING_EMBEDS",
                "uni3c_embeds": "UNI3C_EMBEDS",
                "multitalk_embeds": "MULTITALK_EMBEDS",
                "freeinit_args": "FREEINITARGS",
                "start_step": whole(0, 0, 10000, 1),
                "end_step": whole(-1, -1, 10000, 1),
                "add_noise_to_samples": flag(False),
            },
            outputs={"samples": "LATENT", "denoised_samples": "LATENT"},
        ),
        "WanVideoDecode": Ports(
            required={
                "vae": "WANVAE",
                "samples": "LATENT",
                "enable_vae_tiling": flag(False),
                "tile_x": whole(272, 40, 2048, 8),
                "tile_y": whole(272, 40, 2048, 8),
                "tile_stride_x": whole(144, 32, 2040, 8),
                "tile_stride_y": whole(128, 32, 2040, 8),
            },
            optional={"normalization": choice("default", "minmax", "none")},
            outputs={"images": "IMAGE"},
        ),
    },
)

LIVEPORTRAIT = PackPorts(
    "kijai/ComfyUI-LivePortraitKJ",
    "2024-08",
    {
        "DownloadAndLoadLivePortraitModels": Ports(
            required={},
            optional={"precision": choice("fp16", "fp32", "auto", default="auto"), "mode": choice("human", "animal")},
            outputs={"live_portrait_pipe": "LIVEPORTRAITPIPE"},
        ),
        "LivePortraitLoadFaceAlignmentCropper": Ports(
            required={
                "face_detector": choice("blazeface", "blazeface_back_camera", "sfd", default="blazeface_back_camera"),
                "landmarkrunner_device": choice("CPU", "CUDA", "ROCM", "CoreML", "torch_gpu", default="torch_gpu"),
                "face_detector_device": choice("cuda", "cpu", "mps", default="cuda"),
                "face_detector_dtype": choice("fp16", "bf16", "fp32", default="fp16"),
                "keep_model_loaded": flag(True),
            },
            outputs={"cropper": "LPCROPPER"},
        ),
        "LivePortraitCropper": Ports(
            required={
                "pipeline": "LIVEPORTRAITPIPE",
                "cropper": "LPCROPPER",
                "source_image": "IMAGE",
                "dsize": whole(512, 64, 2048),
                "scale": real(2.3, 1.0, 4.0, 0.01),
                "vx_ratio": real(0.0, -1.0, 1.0, 0.001),
                "vy_ratio": real(-0.125, -1.0, 1.0, 0.001),
                "face_index": whole(0, 0, 100),
                "face_index_order": choice(
                    "large-small",
                    "left-right",
                    "right-left",
                    "top-bottom",
                    "bottom-top",
                    "small-large",
                    "distance-from-retarget-face",
                ),
                "rotate": flag(True),
            },
            outputs={"cropped_image": "IMAGE", "crop_info": "CROPINFO"},
        ),
        "LivePortraitProcess": Ports(
            required={
                "pipeline": "LIVEPORTRAITPIPE",
                "crop_info": "CROPINFO",
                "source_image": "IMAGE",
                "driving_images": "IMAGE",
                "lip_zero": flag(False),
                "lip_zero_threshold": real(0.03, 0.001, 4.0, 0.001),
                "stitching": flag(True),
                "delta_multiplier": real(1.0, -100.0, 100.0, 0.001),
                "mismatch_method": choice("constant", "cycle", "mirror", "cut", default="constant"),
                "relative_motion_mode": choice("relative", "source_video_smoothed", "relative_rotation_only", "single_frame", "off"),
                "driving_smooth_observation_variance": real(3e-6, 1e-11, 1e-2, 1e-11),
            },
            optional={
                "opt_retargeting_info": "RETARGETINGINFO",
                "expression_friendly": flag(False),
                "expression_friendly_multiplier": real(1.0, 0.01, 100.0, 0.001),
            },
            outputs={"cropped_image": "IMAGE", "output": "LP_OUT"},
        ),
    },
)

ADVANCED_LIVEPORTRAIT = PackPorts(
    "PowerHouseMan/ComfyUI-AdvancedLivePortrait",
    "2024-08",
    {
        "AdvancedLivePortrait": Ports(
            required={
                "retargeting_eyes": real(0, 0, 1, 0.01),
                "retargeting_mouth": real(0, 0, 1, 0.01),
                "crop_factor": real(1.7, 1.5, 2.5, 0.1),
                "turn_on": flag(True),
                "tracking_src_vid": flag(False),
                "animate_without_vid": flag(False),
                "command": text(),
            },
            optional={"src_images": "IMAGE", "motion_link": "EDITOR_LINK", "driving_images": "IMAGE"},
            outputs={"images": "IMAGE"},
            shows=True,
        ),
    },
)

SONIC = PackPorts(
    "smthemex/ComfyUI_Sonic",
    "2025-09",
    {
        "SONICTLoader": Ports(
            required={
                "model": "MODEL",
                "sonic_unet": files("unet.pth", "none"),
                "ip_audio_scale": real(1.0, 0.5, 2.0, 0.1),
                "use_interframe": flag(True),
                "dtype": choice("fp16", "fp32", "bf16"),
            },
            outputs={"model": "MODEL_SONIC", "weight_dtype": "DTYPE"},
        ),
        "SONIC_PreData": Ports(
            required={
                "clip_vision": "CLIP_VISION",
                "vae": "VAE",
                "audio": "AUDIO",
                "image": "IMAGE",
                "weight_dtype": "DTYPE",
                "min_resolution": whole(512, 128, 2048, 64),
                "duration": real(10.0, 1.0, 100000000000.0, 0.1),
                "expand_ratio": real(0.5, 0.1, 1.0, 0.1),
            },
            outputs={"data_dict": "SONIC_PREDATA"},
        ),
        "SONICSampler": Ports(
            required={
                "model": "MODEL_SONIC",
                "data_dict": "SONIC_PREDATA",
                "seed": SEED_32,
                "inference_steps": whole(25, 1, 1024, 1),
                "dynamic_scale": real(1.0, 0.5, 2.0, 0.1),
                "fps": real(25.0, 5.0, 120.0, 0.5),
            },
            outputs={"image": "IMAGE", "fps": "FLOAT"},
        ),
    },
)

ECHOMIMIC = PackPorts(
    "smthemex/ComfyUI_EchoMimic",
    "2026-02",
    {
        "Echo_LoadModel": Ports(
            required={
                "vae": files("Wan2.1_VAE.pth"),
                "lora": files("lightx2v_I2V_14B_480p_cfg_step_distill_rank64_bf16.safetensors", "None"),
                "denoising": flag(True),
                "infer_mode": choice("audio_drived", "audio_drived_acc", "pose_normal_dwpose", "pose_normal_sapiens", "pose_acc"),
                "lowvram": flag(True),
                "teacache_offload": flag(True),
                "block_offload": flag(True),
                "use_mmgp": choice(
                    "None", "LowRAM_LowVRAM", "VerylowRAM_LowVRAM", "LowRAM_HighVRAM", "HighRAM_LowVRAM", "HighRAM_HighVRAM"
                ),
                "version": choice("V3_flash", "V3", "V2", "V1"),
            },
            outputs={"model": "MODEL_PIPE_E", "info": "MODEL_INFO_E"},
        ),
        "Echo_Predata": Ports(
            required={
                "info": "MODEL_INFO_E",
                "image": "IMAGE",
                "audio": "AUDIO",
                # Long examples in the pack.
                "prompt": text(),
                "negative_prompt": text(),
                "pose_dir": choice("pose_01", "pose_02", "pose_03", "pose_04", "pose_fight", "pose_good", "pose_salute", "pose_ultraman"),
                "width": whole(512, 128, 1024, 64),
                "height": whole(512, 128, 1024, 64),
                "fps": real(25.0, 5.0, 120.0),
                "facemask_ratio": real(0.1, 0.0, 1.0, 0.1),
                "facecrop_ratio": real(0.8, 0.0, 1.0, 0.1),
                "length": whole(100, 12, 5000, 1),
                "partial_video_length": choice(33, 65, 97, 113, 129, 193),
                "draw_mouse": flag(False),
                "motion_sync_": flag(False),
            },
            optional={"clip": "CLIP", "clip_vision": "CLIP_VISION", "video_images": "IMAGE"},
            outputs={"emb": "MODEL_EMB_E"},
        ),
        "Echo_Sampler": Ports(
            required={
                "model": "MODEL_PIPE_E",
                "emb": "MODEL_EMB_E",
                "seed": SEED_32,
                "cfg": real(3.5, 0.0, 10.0, 0.1),
                "steps": whole(25, 1, 100),
                "sample_rate": whole(16000, 8000, 48000, 1000),
                "context_frames": whole(12, 0, 50),
                "context_overlap": whole(3, 0, 10),
                "save_video": flag(False),
            },
            outputs={"image": "IMAGE", "frame_rate": "FLOAT"},
        ),
    },
)

LATENTSYNC = PackPorts(
    "ShmuelRonen/ComfyUI-LatentSyncWrapper",
    "2025-09",
    {
        "LatentSyncNode": Ports(
            required={
                "images": "IMAGE",
                "audio": "AUDIO",
                "seed": whole(1247),
                "lips_expression": real(1.5, 1.0, 3.0, 0.1),
                "inference_steps": whole(20, 1, 999, 1),
            },
            outputs={"images": "IMAGE", "audio": "AUDIO"},
        ),
    },
)

PACKS = (
    ANIMATEDIFF,
    MIMICMOTION,
    CONTROLNEXT,
    COGVIDEOX,
    WANVIDEO,
    LIVEPORTRAIT,
    ADVANCED_LIVEPORTRAIT,
    SONIC,
    ECHOMIMIC,
    LATENTSYNC,
)
