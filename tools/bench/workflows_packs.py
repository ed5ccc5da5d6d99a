"""Attack workflows for third-party packs. Their nodes' ports are those of `ports.py`; poses, audio and driving videos are shared."""

from __future__ import annotations

from .workflow_node import Link, Node
from .workflows_attack import BRANCHES, CLEAN, DRIVERS, MODELS, Branch, decoded, fixed, loader, prompts, sampled, workflow

Size = tuple[int, int]
SECOND, THIRD = BRANCHES + 440, BRANCHES + 880
"""Left edges within a branch, whose nodes are up to 400 wide."""

PACK = "Needs the pack **{pack}** (github.com/{repository}). {files}"
POSED = (
    " Poses are found in the driving video and in the *clean* photo, for all three branches: choose a video of one person who moves, "
    "of at least {frames} frames."
)
SPOKEN = " The same recording of a voice drives all three branches."
DETECTS = (
    " It looks for the face in each picture by itself. If it fails on the protected one, look at the frames before you count that as "
    "protection."
)


def _files(pack: str, repository: str, files: str) -> str:
    return PACK.format(pack=pack, repository=repository, files=files)


def _scaled(key: str, image: Link, position: tuple[int, int], size: Size, title: str | None = None) -> Node:
    """The pack stretches what has another shape, or refuses it."""
    widgets = {"upscale_method": "lanczos", "width": size[0], "height": size[1], "crop": "center"}
    return Node(key, "ImageScale", position, (340, 130), title=title, widgets=widgets, links={"image": image})


def _fitted(name: str, image: Link, top: int, size: Size) -> Node:
    return _scaled(f"{name}_fitted", image, (BRANCHES, top), size, f"Fitted: {name}")


def _driving(title: str, size: Size | None = None) -> list[Node]:
    """The driving video's frames, at `size` where the pack wants it."""
    clip = [
        Node("clip", "LoadVideo", (DRIVERS, 460), (340, 420), title=title, widgets={"file": "pose.mp4"}),
        Node("driver", "GetVideoComponents", (DRIVERS, 940), (340, 80), links={"video": ("clip", 0)}),
    ]
    return clip if size is None else [*clip, _scaled("driver_fitted", ("driver", 0), (DRIVERS, 1080), size)]


def _voice() -> Node:
    return Node("voice", "LoadAudio", (DRIVERS, 460), (340, 150), title="Voice", widgets={"audio": "voice.wav"})


# AnimateDiff with PIA

PIA_SIDE, PIA_FRAMES = 512, 16


def _pia(name: str, image: Link, top: int) -> tuple[list[Node], Link]:
    told: dict[str, Link] = {
        "motion_model": ("motion", 0),
        "image": (f"{name}_fitted", 0),
        "vae": ("checkpoint", 2),
        "pia_input": ("pia", 0),
    }
    links: dict[str, Link] = {
        "model": (f"{name}_model", 0),
        "positive": ("prompt", 0),
        "negative": ("avoid", 0),
        "latent_image": ("empty", 0),
    }
    sampler: dict[str, object] = {"steps": 25, "cfg": 7.5, "sampler_name": "ddim", "scheduler": "normal", "denoise": 1.0}
    return [
        _fitted(name, image, top, (PIA_SIDE, PIA_SIDE)),
        Node(f"{name}_told", "ADE_ApplyAnimateDiffModelWithPIA", (BRANCHES, top + 190), (340, 260), title=f"Told: {name}", links=told),
        Node(
            f"{name}_model",
            "ADE_UseEvolvedSampling",
            (SECOND, top),
            (320, 120),
            links={"model": ("checkpoint", 0), "m_models": (f"{name}_told", 0)},
        ),
        sampled(name, SECOND + 360, top, links, sampler),
        decoded(name, SECOND + 720, top, (f"{name}_sampler", 0), ("checkpoint", 2)),
    ], (f"{name}_frames", 0)


ATTACK_ANIMATEDIFF_PIA = workflow(
    "AnimateDiff with PIA",
    _files(
        "AnimateDiff Evolved",
        "Kosinkadink/ComfyUI-AnimateDiff-Evolved",
        "With it *pia.ckpt* in *models/animatediff_models* and a checkpoint of Stable Diffusion 1.5. The prompt should say what the photo "
        "shows.",
    ),
    [
        loader("checkpoint", "CheckpointLoaderSimple", 40, ckpt_name="v1-5-pruned-emaonly-fp16.safetensors"),
        loader("motion", "ADE_LoadAnimateDiffModel", 220, model_name="pia.ckpt"),
        Node("pia", "ADE_InputPIA_PaperPresets", (MODELS, 380), (340, 150), widgets={"preset": "Animation (Medium Motion)"}),
        Node(
            "empty",
            "EmptyLatentImage",
            (MODELS, 590),
            (340, 110),
            widgets={"width": PIA_SIDE, "height": PIA_SIDE, "batch_size": PIA_FRAMES},
        ),
        *prompts(("checkpoint", 1)),
    ],
    _pia,
    width=1440,
    fps=8.0,
)

# MimicMotion and ControlNeXt-SVD

TALL: Size = (576, 1024)


def _poses(kind: str) -> list[Node]:
    links: dict[str, Link] = {"ref_image": ("clean_posed", 0), "pose_images": ("driver_fitted", 0)}
    return [
        *_driving("Driving video", TALL),
        _scaled("clean_posed", CLEAN, (DRIVERS, 1270), TALL, "Clean photo, for its pose"),
        Node("poses", kind, (DRIVERS, 1460), (340, 130), links=links),
    ]


def _animator(pack: str, pipeline: str, settings: dict[str, object]) -> Branch:
    """Both packs have nodes of the same form."""

    def branch(name: str, image: Link, top: int) -> tuple[list[Node], Link]:
        links: dict[str, Link] = {pipeline: ("pipeline", 0), "ref_image": (f"{name}_fitted", 0), "pose_images": ("poses", 0)}
        decoding: dict[str, Link] = {pipeline: ("pipeline", 0), "samples": (f"{name}_sampler", 0)}
        return [
            _fitted(name, image, top, TALL),
            Node(f"{name}_sampler", f"{pack}Sampler", (SECOND, top), (400, 480), f"Attack: {name}", fixed(**settings), links),
            Node(f"{name}_frames", f"{pack}Decode", (THIRD, top), (300, 90), links=decoding),
        ], (f"{name}_frames", 0)

    return branch


ATTACK_MIMICMOTION = workflow(
    "MimicMotion",
    _files("MimicMotionWrapper", "kijai/ComfyUI-MimicMotionWrapper", "It downloads its weights when it runs.") + POSED.format(frames=16),
    [
        Node(
            "pipeline",
            "DownloadAndLoadMimicMotionModel",
            (MODELS, 40),
            (340, 90),
            widgets={"model": "MimicMotionMergedUnet_1-0-fp16.safetensors"},
        ),
        *_poses("MimicMotionGetPoses"),
    ],
    _animator("MimicMotion", "mimic_pipeline", {"steps": 25, "context_size": 16, "context_overlap": 6}),
    width=1220,
    fps=15.0,
)

ATTACK_CONTROLNEXT = workflow(
    "ControlNeXt-SVD",
    _files("ControlNeXt-SVD", "kijai/ComfyUI-ControlNeXt-SVD", "It downloads its weights when it runs.") + POSED.format(frames=24),
    [Node("pipeline", "DownloadAndLoadControlNeXt", (MODELS, 40), (340, 60)), *_poses("ControlNextGetPoses")],
    _animator("ControlNext", "controlnext_pipeline", {"steps": 25, "context_size": 24, "context_overlap": 6}),
    width=1220,
    fps=7.0,
)

# CogVideoX

COG_SIZE: Size = (720, 480)


def _cog(name: str, image: Link, top: int) -> tuple[list[Node], Link]:
    links: dict[str, Link] = {"model": ("model", 0), "positive": ("prompt", 0), "negative": ("avoid", 0)}
    links |= {"image_cond_latents": (f"{name}_told", 0)}
    settings: dict[str, object] = {"num_frames": 49, "steps": 25, "cfg": 6.0, "scheduler": "CogVideoXDDIM"}
    return [
        _fitted(name, image, top, COG_SIZE),
        Node(
            f"{name}_told",
            "CogVideoImageEncode",
            (BRANCHES, top + 190),
            (340, 200),
            title=f"Told: {name}",
            links={"vae": ("model", 1), "start_image": (f"{name}_fitted", 0)},
        ),
        Node(f"{name}_sampler", "CogVideoSampler", (SECOND, top), (400, 420), f"Attack: {name}", fixed(**settings), links),
        Node(f"{name}_frames", "CogVideoDecode", (THIRD, top), (340, 200), links={"vae": ("model", 1), "samples": (f"{name}_sampler", 0)}),
    ], (f"{name}_frames", 0)


def _cog_prompt(key: str, title: str, top: int, prompt: str) -> Node:
    return Node(key, "CogVideoTextEncode", (DRIVERS, top), (340, 160), title, {"prompt": prompt}, {"clip": ("text", 0)})


ATTACK_COGVIDEOX = workflow(
    "CogVideoX 5B image-to-video",
    _files(
        "CogVideoXWrapper",
        "kijai/ComfyUI-CogVideoXWrapper",
        "It downloads its model when it runs; the text encoder *t5xxl* is loaded by ComfyUI.",
    ),
    [
        Node("model", "DownloadAndLoadCogVideoModel", (MODELS, 40), (340, 200), widgets={"model": "THUDM/CogVideoX-5b-I2V"}),
        loader("text", "CLIPLoader", 300, clip_name="t5xxl_fp16.safetensors", type="sd3"),
        _cog_prompt("prompt", "Prompt", 40, "a person looks into the camera and smiles"),
        _cog_prompt("avoid", "To be avoided", 260, "blurry, distorted"),
    ],
    _cog,
    width=1260,
    fps=8.0,
)

# Wan through WanVideoWrapper: image-to-video, and UniAnimate-DiT

WAN_SIZE: Size = (832, 480)
WAN_FILES = (
    "With it Wan 2.1 image-to-video 14B in *models/diffusion_models*, *Wan2_1_VAE*, the text encoder *umt5-xxl* (not scaled fp8) "
    "and *clip_vision_h*."
)


def _wan(*, frames: int, posed: bool) -> Branch:
    def branch(name: str, image: Link, top: int) -> tuple[list[Node], Link]:
        picture = (f"{name}_fitted", 0)
        told: dict[str, Link] = {"vae": ("vae", 0), "clip_embeds": (f"{name}_seen", 0), "start_image": picture}
        settings = {"width": WAN_SIZE[0], "height": WAN_SIZE[1], "num_frames": frames, "fun_or_fl2v_model": False}
        links: dict[str, Link] = {"model": ("model", 0), "image_embeds": (f"{name}_told", 0), "text_embeds": ("prompt", 0)}
        if posed:
            links |= {"unianimate_poses": ("posing", 0)}
        return [
            _fitted(name, image, top, WAN_SIZE),
            Node(
                f"{name}_seen",
                "WanVideoClipVisionEncode",
                (BRANCHES, top + 190),
                (340, 260),
                links={"clip_vision": ("encoder", 0), "image_1": picture},
            ),
            Node(f"{name}_told", "WanVideoImageToVideoEncode", (SECOND, top), (400, 400), f"Told: {name}", settings, told),
            Node(f"{name}_sampler", "WanVideoSampler", (THIRD, top), (400, 540), f"Attack: {name}", fixed(steps=30), links),
            Node(
                f"{name}_frames",
                "WanVideoDecode",
                (THIRD + 440, top),
                (340, 200),
                links={"vae": ("vae", 0), "samples": (f"{name}_sampler", 0)},
            ),
        ], (f"{name}_frames", 0)

    return branch


def _wan_models(prompt: str, lora: dict[str, Link]) -> list[Node]:
    text = {"positive_prompt": prompt, "negative_prompt": "blurry, distorted"}
    files = {"model": "wan2.1_i2v_480p_14B_fp16.safetensors"}
    return [
        Node("model", "WanVideoModelLoader", (MODELS, 40), (340, 300), widgets=files, links=lora),
        Node("vae", "WanVideoVAELoader", (MODELS, 400), (340, 130), widgets={"model_name": "Wan2_1_VAE_bf16.safetensors"}),
        Node("text", "LoadWanVideoT5TextEncoder", (MODELS, 590), (340, 130), widgets={"model_name": "umt5-xxl-enc-bf16.safetensors"}),
        loader("encoder", "CLIPVisionLoader", 780, clip_name="clip_vision_h.safetensors"),
        Node("prompt", "WanVideoTextEncode", (DRIVERS, 40), (340, 360), title="Prompt", widgets=text, links={"t5": ("text", 0)}),
    ]


ATTACK_WANVIDEO_I2V = workflow(
    "Wan 2.1 (WanVideoWrapper)",
    _files("WanVideoWrapper", "kijai/ComfyUI-WanVideoWrapper", WAN_FILES),
    _wan_models("a person looks into the camera and smiles", {}),
    _wan(frames=33, posed=False),
    width=1700,
    height=740,
    fps=16.0,
    clip_vision=("encoder", 0),
)

ATTACK_UNIANIMATE_DIT = workflow(
    "UniAnimate-DiT",
    _files("WanVideoWrapper", "kijai/ComfyUI-WanVideoWrapper", WAN_FILES + " And UniAnimate's LoRA in *models/loras*.")
    + POSED.format(frames=33),
    [
        *_wan_models("a person moves", {"lora": ("lora", 0)}),
        Node(
            "lora",
            "WanVideoLoraSelect",
            (MODELS, 920),
            (340, 160),
            widgets={"lora": "UniAnimate-Wan2.1-14B-Lora-12000-fp16.safetensors"},
        ),
        *_driving("Driving video", WAN_SIZE),
        _scaled("clean_posed", CLEAN, (DRIVERS, 1270), WAN_SIZE, "Clean photo, for its pose"),
        Node(
            "detector",
            "WanVideoUniAnimateDWPoseDetector",
            (DRIVERS, 1460),
            (340, 340),
            links={"pose_images": ("driver_fitted", 0), "reference_pose_image": ("clean_posed", 0)},
        ),
        Node(
            "posing",
            "WanVideoUniAnimatePoseInput",
            (DRIVERS, 1860),
            (340, 150),
            links={"pose_images": ("detector", 0), "reference_pose_image": ("detector", 1)},
        ),
    ],
    _wan(frames=33, posed=True),
    width=1700,
    height=740,
    fps=16.0,
    clip_vision=("encoder", 0),
)

# LivePortrait, in two packs


def _live(name: str, image: Link, top: int) -> tuple[list[Node], Link]:
    # The crop holds the face's features as well as its place, so that it cannot be the clean photo's.
    cropping: dict[str, Link] = {"pipeline": ("pipeline", 0), "cropper": ("cropper", 0), "source_image": image}
    links: dict[str, Link] = {"pipeline": ("pipeline", 0), "crop_info": (f"{name}_crop", 1), "source_image": image}
    links |= {"driving_images": ("driver", 0)}
    return [
        Node(f"{name}_crop", "LivePortraitCropper", (BRANCHES, top), (400, 280), title=f"Face: {name}", links=cropping),
        Node(f"{name}_frames", "LivePortraitProcess", (SECOND, top), (400, 380), title=f"Attack: {name}", links=links),
    ], (f"{name}_frames", 0)


ATTACK_LIVEPORTRAIT = workflow(
    "LivePortrait",
    _files(
        "LivePortraitKJ",
        "kijai/ComfyUI-LivePortraitKJ",
        "It downloads its weights when it runs. Its requirements hold numpy below 2, which other packs may not bear: better in a ComfyUI "
        "of its own. *Driving video* is a face that moves.",
    )
    + DETECTS,
    [
        Node("pipeline", "DownloadAndLoadLivePortraitModels", (MODELS, 40), (340, 90)),
        Node("cropper", "LivePortraitLoadFaceAlignmentCropper", (MODELS, 190), (340, 160)),
        *_driving("Driving video"),
    ],
    _live,
    width=880,
    fps=25.0,
)


def _advanced(name: str, image: Link, top: int) -> tuple[list[Node], Link]:
    links: dict[str, Link] = {"src_images": image, "driving_images": ("driver", 0)}
    return [Node(f"{name}_frames", "AdvancedLivePortrait", (BRANCHES, top), (400, 360), title=f"Attack: {name}", links=links)], (
        f"{name}_frames",
        0,
    )


ATTACK_ADVANCED_LIVEPORTRAIT = workflow(
    "LivePortrait (AdvancedLivePortrait)",
    _files(
        "AdvancedLivePortrait",
        "PowerHouseMan/ComfyUI-AdvancedLivePortrait",
        "It downloads its weights when it runs. *Driving video* is a face that moves.",
    )
    + DETECTS,
    _driving("Driving video"),
    _advanced,
    width=440,
    fps=25.0,
)

# Talking heads


def _sonic(name: str, image: Link, top: int) -> tuple[list[Node], Link]:
    told: dict[str, Link] = {"clip_vision": ("checkpoint", 1), "vae": ("checkpoint", 2), "audio": ("voice", 0), "image": image}
    told |= {"weight_dtype": ("sonic", 1)}
    settings: dict[str, object] = {"inference_steps": 25, "fps": 25.0}
    links: dict[str, Link] = {"model": ("sonic", 0), "data_dict": (f"{name}_told", 0)}
    return [
        Node(f"{name}_told", "SONIC_PreData", (BRANCHES, top), (400, 240), f"Told: {name}", {"duration": 2.0}, told),
        Node(f"{name}_frames", "SONICSampler", (SECOND, top), (400, 220), f"Attack: {name}", fixed(**settings), links),
    ], (f"{name}_frames", 0)


ATTACK_SONIC = workflow(
    "Sonic",
    _files(
        "Sonic",
        "smthemex/ComfyUI_Sonic",
        "With it SVD-XT among the checkpoints, and in *models/sonic* its own files *unet.pth*, *audio2token.pth*, *audio2bucket.pth*, "
        "*yoloface_v5m.pt* and the folders *whisper-tiny* and *RIFE*.",
    )
    + SPOKEN
    + DETECTS,
    [
        loader("checkpoint", "ImageOnlyCheckpointLoader", 40, ckpt_name="svd_xt.safetensors"),
        Node("sonic", "SONICTLoader", (MODELS, 220), (340, 170), widgets={"sonic_unet": "unet.pth"}, links={"model": ("checkpoint", 0)}),
        _voice(),
    ],
    _sonic,
    width=880,
    fps=25.0,
    clip_vision=("checkpoint", 1),
)


def _echo(name: str, image: Link, top: int) -> tuple[list[Node], Link]:
    told: dict[str, Link] = {
        "info": ("model", 1),
        "image": image,
        "audio": ("voice", 0),
        "clip": ("text", 0),
        "clip_vision": ("encoder", 0),
    }
    asked = {"prompt": "a person is speaking", "negative_prompt": "blurry, distorted", "width": 768, "height": 768, "length": 49}
    links: dict[str, Link] = {"model": ("model", 0), "emb": (f"{name}_told", 0)}
    return [
        Node(f"{name}_told", "Echo_Predata", (BRANCHES, top), (400, 540), f"Told: {name}", asked, told),
        Node(f"{name}_frames", "Echo_Sampler", (SECOND, top), (400, 300), f"Attack: {name}", fixed(cfg=6.0, steps=8), links),
    ], (f"{name}_frames", 0)


ATTACK_ECHOMIMIC = workflow(
    "EchoMimic (version 3 flash)",
    _files(
        "EchoMimic",
        "smthemex/ComfyUI_EchoMimic",
        "With it *Wan2.1_VAE*, *umt5_xxl* and *clip_vision_h*, and in *models/echo_mimic* the folders *transformer*, "
        "*echomimicv3-flash-pro* and *chinese-wav2vec2-base*. For versions 1 and 2 choose them in *Echo_LoadModel*; they need other files "
        "and packages.",
    )
    + SPOKEN,
    [
        Node("model", "Echo_LoadModel", (MODELS, 40), (340, 270), widgets={"vae": "Wan2.1_VAE.pth", "lora": "None", "version": "V3_flash"}),
        loader("text", "CLIPLoader", 370, clip_name="umt5_xxl_fp8_e4m3fn_scaled.safetensors", type="wan"),
        loader("encoder", "CLIPVisionLoader", 550, clip_name="clip_vision_h.safetensors"),
        _voice(),
    ],
    _echo,
    width=880,
    fps=25.0,
    clip_vision=("encoder", 0),
)


def _sync(name: str, image: Link, top: int) -> tuple[list[Node], Link]:
    return [
        Node(f"{name}_still", "RepeatImageBatch", (BRANCHES, top), (340, 60), f"Still: {name}", {"amount": 50}, {"image": image}),
        Node(
            f"{name}_frames",
            "LatentSyncNode",
            (SECOND, top),
            (400, 180),
            f"Attack: {name}",
            fixed(inference_steps=20),
            {"images": (f"{name}_still", 0), "audio": ("voice", 0)},
        ),
    ], (f"{name}_frames", 0)


ATTACK_LATENTSYNC = workflow(
    "LatentSync",
    _files(
        "LatentSyncWrapper",
        "ShmuelRonen/ComfyUI-LatentSyncWrapper",
        "With it its weights in the folder *checkpoints* of the pack. It repaints the mouth in a video, here in the still photo, 50 frames "
        "long: all else stays as it is, so look at the mouth.",
    )
    + SPOKEN
    + DETECTS,
    [_voice()],
    _sync,
    width=880,
    fps=25.0,
)

WORKFLOWS = {
    "attack_animatediff_pia": ATTACK_ANIMATEDIFF_PIA,
    "attack_mimicmotion": ATTACK_MIMICMOTION,
    "attack_controlnext_svd": ATTACK_CONTROLNEXT,
    "attack_cogvideox": ATTACK_COGVIDEOX,
    "attack_wanvideo_i2v": ATTACK_WANVIDEO_I2V,
    "attack_unianimate_dit": ATTACK_UNIANIMATE_DIT,
    "attack_liveportrait": ATTACK_LIVEPORTRAIT,
    "attack_advanced_liveportrait": ATTACK_ADVANCED_LIVEPORTRAIT,
    "attack_sonic": ATTACK_SONIC,
    "attack_echomimic": ATTACK_ECHOMIMIC,
    "attack_latentsync": ATTACK_LATENTSYNC,
}
