"""I2VGuard's workflows: protect a photo from the user's own image-to-video model, and attack it with core's nodes at once."""

from __future__ import annotations

from .workflow_node import Link, Node

SEED = 2024
SVD_SIZE = {"width": 1024, "height": 576}
WAN_SIZE = {"width": 832, "height": 480}

NOTE = """## I2VGuard on {model}
Protects a photo from the very model that animates it here, then animates the clean and the protected photo with the same seed. \
Left: the clean photo's video. Right: the protected one's.

{files}

**I2V Surrogate** is where size and length of the surrogate's videos are set: smaller and shorter needs less memory. The model first makes \
a video of the clean photo, which the protection works against. If both videos look alike, the photo is not protected from this model; \
others may be affected less."""

SVD_FILES = "Needs *svd.safetensors* (Stable Video Diffusion) among the checkpoints; VAE and image encoder are in it."
WAN_FILES = (
    "Needs Wan 2.1 image-to-video 480p in fp16 or bf16, *wan_2.1_vae*, *clip_vision_h* and the text encoder *umt5_xxl*. "
    "A model in fp8 is refused: it gives no gradients to trust."
)


def _start(model: str, files: str) -> list[Node]:
    return [
        Node("note", "MarkdownNote", (20, 40), (380, 420), widgets={"text": NOTE.format(model=model, files=files)}),
        Node("load", "LoadImage", (20, 520), (380, 400), widgets={"image": "astronaut.png"}),
    ]


def _protected(surrogate: dict[str, Link], length: int) -> list[Node]:
    fixed = {"seed": SEED, "control_after_generate": "fixed"}
    return [
        Node("surrogate", "StillguardI2VSurrogate", (820, 40), (380, 420), widgets={"length": length}, links=surrogate),
        Node(
            "guard",
            "StillguardI2VGuard",
            (1240, 40),
            (440, 960),
            widgets=fixed,
            links={"image": ("load", 0), "i2v_surrogate": ("surrogate", 0)},
        ),
        Node(
            "save",
            "StillguardSaveProtectedImage",
            (1720, 40),
            (360, 480),
            title="Protected picture",
            links={"images": ("guard", 0), "clean": ("load", 0), "budget": ("guard", 2)},
        ),
    ]


def _sampled(name: str, top: int, sampler: dict[str, object], links: dict[str, Link], vae: Link) -> list[Node]:
    widgets = {"seed": SEED, "control_after_generate": "fixed", **sampler}
    return [
        Node(f"{name}_sampler", "KSampler", (1720, top), (320, 480), title=f"Attack: {name}", widgets=widgets, links=links),
        Node(f"{name}_frames", "VAEDecode", (2080, top), (240, 60), links={"samples": (f"{name}_sampler", 0), "vae": vae}),
    ]


def _compared() -> list[Node]:
    pair = {"image1": ("clean_frames", 0), "image2": ("protected_frames", 0)}
    return [
        Node("pair", "ImageStitch", (2080, 1200), (340, 160), widgets={"direction": "right"}, links=pair),
        Node("video", "CreateVideo", (2080, 1420), (340, 80), widgets={"fps": 8.0}, links={"images": ("pair", 0)}),
        Node(
            "saved",
            "SaveVideo",
            (2460, 580),
            (560, 460),
            title="Clean and protected, animated",
            widgets={"filename_prefix": "stillguard/i2v"},
            links={"video": ("video", 0)},
        ),
    ]


def _svd_attack(name: str, image: Link, top: int) -> list[Node]:
    told = {"clip_vision": ("checkpoint", 1), "init_image": image, "vae": ("checkpoint", 2)}
    settings = {**SVD_SIZE, "video_frames": 14, "motion_bucket_id": 127, "fps": 6, "augmentation_level": 0.0}
    links = {"model": ("guidance", 0), **{key: (f"{name}_told", slot) for slot, key in enumerate(("positive", "negative", "latent_image"))}}
    sampler: dict[str, object] = {"steps": 20, "cfg": 2.5, "sampler_name": "euler", "scheduler": "karras", "denoise": 1.0}
    return [
        Node(f"{name}_told", "SVD_img2vid_Conditioning", (1240, top), (400, 220), title=f"Told: {name}", widgets=settings, links=told),
        *_sampled(name, top, sampler, links, ("checkpoint", 2)),
    ]


ATTACK_I2VGUARD_SVD = [
    *_start("SVD", SVD_FILES),
    Node("checkpoint", "ImageOnlyCheckpointLoader", (440, 40), (340, 100), widgets={"ckpt_name": "svd.safetensors"}),
    Node("guidance", "VideoLinearCFGGuidance", (820, 1080), (320, 60), widgets={"min_cfg": 1.0}, links={"model": ("checkpoint", 0)}),
    *_protected({"model": ("checkpoint", 0), "vae": ("checkpoint", 2), "clip_vision": ("checkpoint", 1)}, length=14),
    *_svd_attack("clean", ("load", 0), 1080),
    *_svd_attack("protected", ("guard", 0), 1640),
    *_compared(),
]


def _wan_attack(name: str, image: Link, top: int) -> list[Node]:
    told: dict[str, Link] = {"positive": ("prompt", 0), "negative": ("avoid", 0), "vae": ("vae", 0), "start_image": image}
    told |= {"clip_vision_output": (f"{name}_seen", 0)}
    links = {"model": ("model", 0), **{key: (f"{name}_told", slot) for slot, key in enumerate(("positive", "negative", "latent_image"))}}
    sampler: dict[str, object] = {"steps": 20, "cfg": 6.0, "sampler_name": "uni_pc", "scheduler": "simple", "denoise": 1.0}
    return [
        Node(
            f"{name}_seen",
            "CLIPVisionEncode",
            (820, top),
            (320, 90),
            widgets={"crop": "center"},
            links={"clip_vision": ("encoder", 0), "image": image},
        ),
        Node(
            f"{name}_told",
            "WanImageToVideo",
            (1240, top),
            (400, 240),
            title=f"Told: {name}",
            widgets={**WAN_SIZE, "length": 33},
            links=told,
        ),
        *_sampled(name, top, sampler, links, ("vae", 0)),
    ]


def _text(key: str, title: str, top: int, text: str) -> Node:
    return Node(key, "CLIPTextEncode", (440, top), (340, 140), title=title, widgets={"text": text}, links={"clip": ("text", 0)})


ATTACK_I2VGUARD_WAN = [
    *_start("Wan 2.1", WAN_FILES),
    Node("model", "UNETLoader", (440, 40), (340, 90), widgets={"unet_name": "wan2.1_i2v_480p_14B_fp16.safetensors"}),
    Node("vae", "VAELoader", (440, 200), (340, 60), widgets={"vae_name": "wan_2.1_vae.safetensors"}),
    Node("encoder", "CLIPVisionLoader", (440, 330), (340, 60), widgets={"clip_name": "clip_vision_h.safetensors"}),
    Node("text", "CLIPLoader", (440, 460), (340, 110), widgets={"clip_name": "umt5_xxl_fp16.safetensors", "type": "wan"}),
    _text("prompt", "Prompt", 640, "a person looks into the camera and smiles"),
    _text("avoid", "To be avoided", 840, "blurry, distorted"),
    *_protected(
        {"model": ("model", 0), "vae": ("vae", 0), "clip_vision": ("encoder", 0), "positive": ("prompt", 0), "negative": ("avoid", 0)},
        length=17,
    ),
    *_wan_attack("clean", ("load", 0), 1080),
    *_wan_attack("protected", ("guard", 0), 1640),
    *_compared(),
]
