"""Attack workflows for what ComfyUI itself can run: image-to-video models, a pose-driven one, and two ways of editing a picture."""

from __future__ import annotations

from .workflow_node import Link, Node
from .workflows_attack import BRANCHES, CLEAN, DRIVERS, MODELS, MOVES, SEED, decoded, loader, prompts, sampled, workflow

TOLD = ("positive", "negative", "latent_image")
SVD_SIZE = {"width": 1024, "height": 576}
WAN_SIZE = {"width": 832, "height": 480}
LTX_SIZE = {"width": 768, "height": 512}
HUNYUAN_SIZE = {"width": 848, "height": 480}
ANIMATE_SIZE = {"width": 640, "height": 640}
FACE = {"x": 174, "y": 56, "width": 112, "height": 112}
"""Of the example photo."""


def _told(name: str) -> dict[str, Link]:
    return {key: (f"{name}_told", output) for output, key in enumerate(TOLD)}


def _seen(name: str, top: int, image: Link) -> Node:
    links = {"clip_vision": ("encoder", 0), "image": image}
    return Node(f"{name}_seen", "CLIPVisionEncode", (BRANCHES, top + 320), (320, 90), widgets={"crop": "center"}, links=links)


def _svd(name: str, image: Link, top: int) -> tuple[list[Node], Link]:
    told = {"clip_vision": ("checkpoint", 1), "init_image": image, "vae": ("checkpoint", 2)}
    settings = {**SVD_SIZE, "video_frames": 14, "motion_bucket_id": 127, "fps": 6, "augmentation_level": 0.0}
    sampler = {"steps": 20, "cfg": 2.5, "sampler_name": "euler", "scheduler": "karras", "denoise": 1.0}
    return [
        Node(f"{name}_told", "SVD_img2vid_Conditioning", (BRANCHES, top), (400, 220), title=f"Told: {name}", widgets=settings, links=told),
        sampled(name, BRANCHES + 440, top, {"model": ("guidance", 0), **_told(name)}, sampler),
        decoded(name, BRANCHES + 800, top, (f"{name}_sampler", 0), ("checkpoint", 2)),
    ], (f"{name}_frames", 0)


ATTACK_SVD = workflow(
    "SVD",
    "Needs *svd.safetensors* (Stable Video Diffusion) among the checkpoints; VAE and image encoder are in it.",
    [
        loader("checkpoint", "ImageOnlyCheckpointLoader", 40, ckpt_name="svd.safetensors"),
        Node("guidance", "VideoLinearCFGGuidance", (DRIVERS, 40), (340, 60), widgets={"min_cfg": 1.0}, links={"model": ("checkpoint", 0)}),
    ],
    _svd,
    width=1080,
    fps=6.0,
    clip_vision=("checkpoint", 1),
)


def wan_branch(name: str, image: Link, top: int) -> tuple[list[Node], Link]:
    told: dict[str, Link] = {"positive": ("prompt", 0), "negative": ("avoid", 0), "vae": ("vae", 0), "start_image": image}
    told |= {"clip_vision_output": (f"{name}_seen", 0)}
    settings = {**WAN_SIZE, "length": 33}
    sampler = {"steps": 20, "cfg": 6.0, "sampler_name": "uni_pc", "scheduler": "simple", "denoise": 1.0}
    return [
        Node(f"{name}_told", "WanImageToVideo", (BRANCHES, top), (400, 240), title=f"Told: {name}", widgets=settings, links=told),
        _seen(name, top, image),
        sampled(name, BRANCHES + 440, top, {"model": ("shifted", 0), **_told(name)}, sampler),
        decoded(name, BRANCHES + 800, top, (f"{name}_sampler", 0), ("vae", 0)),
    ], (f"{name}_frames", 0)


def wan_models(model: str) -> list[Node]:
    return [
        loader("model", "UNETLoader", 40, unet_name=model),
        loader("vae", "VAELoader", 200, vae_name="wan_2.1_vae.safetensors"),
        loader("encoder", "CLIPVisionLoader", 340, clip_name="clip_vision_h.safetensors"),
        loader("text", "CLIPLoader", 480, clip_name="umt5_xxl_fp16.safetensors", type="wan"),
        Node("shifted", "ModelSamplingSD3", (MODELS, 660), (340, 60), widgets={"shift": 8.0}, links={"model": ("model", 0)}),
        *prompts(("text", 0)),
    ]


WAN_FILES = "Needs {model}, *wan_2.1_vae*, *clip_vision_h* and the text encoder *umt5_xxl*."

ATTACK_WAN = workflow(
    "Wan 2.1",
    WAN_FILES.format(model="Wan 2.1 image-to-video 480p"),
    wan_models("wan2.1_i2v_480p_14B_fp16.safetensors"),
    wan_branch,
    width=1080,
    fps=16.0,
    clip_vision=("encoder", 0),
)


def _wan_animate(name: str, image: Link, top: int) -> tuple[list[Node], Link]:
    told: dict[str, Link] = {"positive": ("prompt", 0), "negative": ("avoid", 0), "vae": ("vae", 0), "reference_image": image}
    told |= {"clip_vision_output": (f"{name}_seen", 0), "pose_video": ("poses", 0), "face_video": ("faces", 0)}
    settings = {**ANIMATE_SIZE, "length": 33}
    sampler = {"steps": 20, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    trimmed = {"samples": (f"{name}_sampler", 0), "trim_amount": (f"{name}_told", 3)}
    return [
        Node(f"{name}_told", "WanAnimateToVideo", (BRANCHES, top), (400, 300), title=f"Told: {name}", widgets=settings, links=told),
        Node(
            f"{name}_seen",
            "CLIPVisionEncode",
            (BRANCHES, top + 420),
            (400, 90),
            widgets={"crop": "center"},
            links={"clip_vision": ("encoder", 0), "image": image},
        ),
        sampled(name, BRANCHES + 440, top, {"model": ("shifted", 0), **_told(name)}, sampler),
        Node(f"{name}_trimmed", "TrimVideoLatent", (BRANCHES + 800, top), (240, 80), links=trimmed),
        decoded(name, BRANCHES + 800, top + 140, (f"{name}_trimmed", 0), ("vae", 0)),
    ], (f"{name}_frames", 0)


ATTACK_WAN_ANIMATE = workflow(
    "Wan Animate",
    WAN_FILES.format(model="Wan 2.2 Animate")
    + " *Poses* is a clip of drawn skeletons; make one of your own video with ComfyUI's SDPose nodes. The face is cut from the "
    "clean photo, in all branches: set *Face of the photo* where it is. A video of a moving face works as well.",
    [
        *wan_models("wan2.2_animate_14B_bf16.safetensors"),
        Node("clip", "LoadVideo", (DRIVERS, 460), (340, 330), title="Poses", widgets={"file": "pose.mp4"}),
        Node("poses", "GetVideoComponents", (DRIVERS, 860), (340, 80), links={"video": ("clip", 0)}),
        Node(
            "face",
            "ImageCropV2",
            (DRIVERS, 1000),
            (340, 380),
            title="Face of the photo",
            widgets={"crop_region": FACE},
            links={"image": CLEAN},
        ),
        Node("faces", "RepeatImageBatch", (DRIVERS, 1440), (340, 60), widgets={"amount": 33}, links={"image": ("face", 0)}),
    ],
    _wan_animate,
    width=1080,
    fps=16.0,
    clip_vision=("encoder", 0),
)


def _ltx(name: str, image: Link, top: int) -> tuple[list[Node], Link]:
    told: dict[str, Link] = {"positive": ("rate", 0), "negative": ("rate", 1), "vae": ("checkpoint", 2), "image": (f"{name}_coded", 0)}
    links = {"model": ("checkpoint", 0), "sampler": ("solver", 0), "sigmas": ("sigmas", 0), **_told(name)}
    sampler = {"add_noise": True, "noise_seed": SEED, "control_after_generate": "fixed", "cfg": 3.0}
    return [
        Node(f"{name}_coded", "LTXVPreprocess", (BRANCHES, top), (400, 60), widgets={"img_compression": 40}, links={"image": image}),
        Node(
            f"{name}_told",
            "LTXVImgToVideo",
            (BRANCHES, top + 120),
            (400, 240),
            title=f"Told: {name}",
            widgets={**LTX_SIZE, "length": 97},
            links=told,
        ),
        Node(f"{name}_sampler", "SamplerCustom", (BRANCHES + 440, top), (320, 480), title=f"Attack: {name}", widgets=sampler, links=links),
        decoded(name, BRANCHES + 800, top, (f"{name}_sampler", 0), ("checkpoint", 2)),
    ], (f"{name}_frames", 0)


ATTACK_LTX = workflow(
    "LTX-Video",
    "Needs *ltx-video-2b-v0.9.5* among the checkpoints and the text encoder *t5xxl*. LTXV Preprocess compresses the "
    "picture as a video does, since the model was made for such pictures.",
    [
        loader("checkpoint", "CheckpointLoaderSimple", 40, ckpt_name="ltx-video-2b-v0.9.5.safetensors"),
        loader("text", "CLIPLoader", 220, clip_name="t5xxl_fp16.safetensors", type="ltxv"),
        *prompts(("text", 0)),
        Node(
            "rate",
            "LTXVConditioning",
            (DRIVERS, 440),
            (340, 80),
            widgets={"frame_rate": 25.0},
            links={"positive": ("prompt", 0), "negative": ("avoid", 0)},
        ),
        Node("solver", "KSamplerSelect", (DRIVERS, 580), (340, 60), widgets={"sampler_name": "euler"}),
        Node("sigmas", "LTXVScheduler", (DRIVERS, 700), (340, 160), widgets={"steps": 30}),
    ],
    _ltx,
    width=1080,
    fps=25.0,
)


def _hunyuan(name: str, image: Link, top: int) -> tuple[list[Node], Link]:
    read: dict[str, Link] = {"clip": ("text", 0), "clip_vision_output": (f"{name}_seen", 0)}
    told: dict[str, Link] = {"positive": (f"{name}_guided", 0), "vae": ("vae", 0), "start_image": image}
    links: dict[str, Link] = {"model": ("shifted", 0), "positive": (f"{name}_told", 0), "latent_image": (f"{name}_told", 1)}
    links |= {"negative": (f"{name}_nothing", 0)}
    sampler = {"steps": 20, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    return [
        Node(
            f"{name}_seen",
            "CLIPVisionEncode",
            (BRANCHES, top),
            (400, 90),
            widgets={"crop": "none"},
            links={"clip_vision": ("encoder", 0), "image": image},
        ),
        Node(
            f"{name}_read",
            "TextEncodeHunyuanVideo_ImageToVideo",
            (BRANCHES, top + 150),
            (400, 200),
            title=f"Read: {name}",
            widgets={"prompt": MOVES},
            links=read,
        ),
        Node(
            f"{name}_guided",
            "FluxGuidance",
            (BRANCHES, top + 410),
            (400, 60),
            widgets={"guidance": 6.0},
            links={"conditioning": (f"{name}_read", 0)},
        ),
        Node(f"{name}_nothing", "ConditioningZeroOut", (BRANCHES + 440, top + 410), (320, 40), links={"conditioning": (f"{name}_read", 0)}),
        Node(
            f"{name}_told",
            "HunyuanImageToVideo",
            (BRANCHES + 440, top),
            (320, 240),
            title=f"Told: {name}",
            widgets={**HUNYUAN_SIZE, "length": 53},
            links=told,
        ),
        sampled(name, BRANCHES + 800, top, links, sampler),
        decoded(name, BRANCHES + 1160, top, (f"{name}_sampler", 0), ("vae", 0)),
    ], (f"{name}_frames", 0)


ATTACK_HUNYUAN = workflow(
    "HunyuanVideo",
    "Needs HunyuanVideo image-to-video 720p (the first version, which joins the picture to the latents), *hunyuan_video_vae*, "
    "and *clip_l*, *llava_llama3* and *llava_llama3_vision*.",
    [
        loader("model", "UNETLoader", 40, unet_name="hunyuan_video_image_to_video_720p_bf16.safetensors"),
        loader("vae", "VAELoader", 200, vae_name="hunyuan_video_vae_bf16.safetensors"),
        loader("encoder", "CLIPVisionLoader", 340, clip_name="llava_llama3_vision.safetensors"),
        loader(
            "text",
            "DualCLIPLoader",
            480,
            clip_name1="clip_l.safetensors",
            clip_name2="llava_llama3_fp8_scaled.safetensors",
            type="hunyuan_video",
        ),
        Node("shifted", "ModelSamplingSD3", (DRIVERS, 40), (340, 60), widgets={"shift": 7.0}, links={"model": ("model", 0)}),
    ],
    _hunyuan,
    width=1440,
    fps=24.0,
)


def _scaled(name: str, top: int, image: Link) -> Node:
    widgets = {"upscale_method": "area", "largest_size": 512}
    return Node(f"{name}_scaled", "ImageScaleToMaxDimension", (BRANCHES, top), (320, 90), widgets=widgets, links={"image": image})


def _sdedit(name: str, image: Link, top: int) -> tuple[list[Node], Link]:
    links: dict[str, Link] = {"model": ("checkpoint", 0), "positive": ("prompt", 0), "negative": ("avoid", 0)}
    links |= {"latent_image": (f"{name}_latent", 0)}
    sampler = {"steps": 50, "cfg": 7.5, "sampler_name": "ddim", "scheduler": "normal", "denoise": 0.6}
    return [
        _scaled(name, top, image),
        Node(
            f"{name}_latent",
            "VAEEncode",
            (BRANCHES, top + 150),
            (320, 60),
            links={"pixels": (f"{name}_scaled", 0), "vae": ("checkpoint", 2)},
        ),
        sampled(name, BRANCHES + 360, top, links, sampler),
        decoded(name, BRANCHES + 720, top, (f"{name}_sampler", 0), ("checkpoint", 2)),
    ], (f"{name}_frames", 0)


ATTACK_SDEDIT = workflow(
    "SDEdit (Stable Diffusion 1.5)",
    "Needs a checkpoint of Stable Diffusion 1.5; others work too. `denoise` in the three samplers says how much of the picture is redrawn: "
    "keep it equal. The pictures are scaled to 512 pixels, the size that this model was trained at.",
    [
        loader("checkpoint", "CheckpointLoaderSimple", 40, ckpt_name="v1-5-pruned-emaonly-fp16.safetensors"),
        *prompts(("checkpoint", 1), "a photo of a person with a red hat"),
    ],
    _sdedit,
    width=1000,
)


def _instructed(name: str, image: Link, top: int) -> tuple[list[Node], Link]:
    told: dict[str, Link] = {"positive": ("prompt", 0), "negative": ("avoid", 0), "vae": ("checkpoint", 2), "pixels": (f"{name}_scaled", 0)}
    # As the method's equation 3: without instruction and picture, with the picture, with both.
    guided: dict[str, Link] = {
        "model": ("checkpoint", 0),
        "cond1": (f"{name}_told", 0),
        "cond2": (f"{name}_told", 1),
        "negative": ("avoid", 0),
    }
    guidance = {"cfg_conds": 7.5, "cfg_cond2_negative": 1.5}
    links: dict[str, Link] = {"noise": ("start", 0), "guider": (f"{name}_guided", 0), "sampler": ("solver", 0), "sigmas": ("sigmas", 0)}
    links |= {"latent_image": (f"{name}_told", 2)}
    return [
        _scaled(name, top, image),
        Node(f"{name}_told", "InstructPixToPixConditioning", (BRANCHES, top + 150), (320, 120), title=f"Told: {name}", links=told),
        Node(f"{name}_guided", "DualCFGGuider", (BRANCHES, top + 330), (320, 180), widgets=guidance, links=guided),
        Node(f"{name}_sampler", "SamplerCustomAdvanced", (BRANCHES + 360, top), (320, 180), title=f"Attack: {name}", links=links),
        decoded(name, BRANCHES + 720, top, (f"{name}_sampler", 0), ("checkpoint", 2)),
    ], (f"{name}_frames", 0)


ATTACK_INSTRUCT_PIX2PIX = workflow(
    "InstructPix2Pix",
    "Needs *instruct-pix2pix-00-22000* among the checkpoints. The pictures are scaled to 512 pixels, the size that this model was "
    "trained at. Leave *Nothing* empty: the method needs it.",
    [
        loader("checkpoint", "CheckpointLoaderSimple", 40, ckpt_name="instruct-pix2pix-00-22000.safetensors"),
        *prompts(("checkpoint", 1), "put a red hat on the person", "", "Nothing"),
        Node("start", "RandomNoise", (DRIVERS, 440), (340, 90), widgets={"noise_seed": SEED, "control_after_generate": "fixed"}),
        Node("solver", "KSamplerSelect", (DRIVERS, 590), (340, 60), widgets={"sampler_name": "euler_ancestral"}),
        Node(
            "sigmas",
            "BasicScheduler",
            (DRIVERS, 710),
            (340, 120),
            widgets={"scheduler": "normal", "steps": 50, "denoise": 1.0},
            links={"model": ("checkpoint", 0)},
        ),
    ],
    _instructed,
    width=1000,
)

WORKFLOWS = {
    "attack_svd": ATTACK_SVD,
    "attack_wan": ATTACK_WAN,
    "attack_wan_animate": ATTACK_WAN_ANIMATE,
    "attack_ltx": ATTACK_LTX,
    "attack_hunyuan": ATTACK_HUNYUAN,
    "attack_sdedit": ATTACK_SDEDIT,
    "attack_instruct_pix2pix": ATTACK_INSTRUCT_PIX2PIX,
}
