"""What an attacker can animate a picture with in ComfyUI, as data: which nodes and files it takes, and which workflow tests it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Driver = Literal["the picture alone", "a prompt", "a pose video", "a driving video", "audio"]


@dataclass(frozen=True)
class Pack:
    """A third-party node pack. repository: owner/name on GitHub."""

    name: str
    repository: str


@dataclass(frozen=True)
class ModelFile:
    """A file that the victim loads.

    folder: below ComfyUI's models folder; one that ComfyUI knows by name may also lie elsewhere (extra_model_paths.yaml).
    pattern: as in a shell, of the file's published names; capitals do not matter. A user's file may be named otherwise.
    """

    folder: str
    pattern: str


@dataclass(frozen=True)
class Victim:
    """One way of animating or editing a picture.

    requires: ids of the nodes that make it this victim, beside core's loaders and samplers.
    pictures: inputs through which the picture enters, as (node id, input).
    driver: what moves the picture, the same in all branches.
    workflow: the file in workflows/ that attacks with it, without suffix; None: there is none yet.
    pack: None where ComfyUI or Stillguard itself brings the nodes.
    remark: what a user should know beforehand.
    """

    name: str
    requires: tuple[str, ...]
    pictures: tuple[tuple[str, str], ...]
    driver: Driver
    workflow: str | None
    models: tuple[ModelFile, ...] = ()
    pack: Pack | None = None
    remark: str = ""


_ANIMATEDIFF = Pack("AnimateDiff Evolved", "Kosinkadink/ComfyUI-AnimateDiff-Evolved")
_MIMICMOTION = Pack("MimicMotionWrapper", "kijai/ComfyUI-MimicMotionWrapper")
_CONTROLNEXT = Pack("ControlNeXt-SVD", "kijai/ComfyUI-ControlNeXt-SVD")
_COGVIDEOX = Pack("CogVideoXWrapper", "kijai/ComfyUI-CogVideoXWrapper")
_WANVIDEO = Pack("WanVideoWrapper", "kijai/ComfyUI-WanVideoWrapper")
_LIVEPORTRAIT = Pack("LivePortraitKJ", "kijai/ComfyUI-LivePortraitKJ")
_ADVANCED_LIVEPORTRAIT = Pack("AdvancedLivePortrait", "PowerHouseMan/ComfyUI-AdvancedLivePortrait")
_SONIC = Pack("Sonic", "smthemex/ComfyUI_Sonic")
_ECHOMIMIC = Pack("EchoMimic", "smthemex/ComfyUI_EchoMimic")
_LATENTSYNC = Pack("LatentSyncWrapper", "ShmuelRonen/ComfyUI-LatentSyncWrapper")

_WAN_PARTS = (
    ModelFile("vae", "*wan*vae*"),
    ModelFile("text_encoders", "*umt5*xxl*"),
    ModelFile("clip_vision", "*clip_vision_h*"),
)
_SVD_XT_PARTS = "diffusers/stable-video-diffusion-img2vid-xt-1-1"
_DOWNLOADS = "The pack downloads its own weights when its loader runs."
_OWN_DETECTOR = "Its face detector looks at each picture, so where the face is cannot be taken from the clean one in all branches."


def _untested(name: str, node: str, picture: str, driver: Driver, model: str, folder: str = "diffusion_models") -> Victim:
    """What core can run and no workflow attacks with yet. Of its files only the model is looked for."""
    return Victim(name, (node,), ((node, picture),), driver, None, (ModelFile(folder, model),))


LAB = (
    Victim(
        "Laboratory's animator",
        requires=("StillguardAnimatePose",),
        pictures=(("StillguardAnimatePose", "image"),),
        driver="a pose video",
        workflow="attack_lab",
        remark="Small; it shows the mechanism and is no stand-in for a model that people use.",
    ),
    Victim(
        "Laboratory's transformer and UNet",
        requires=("StillguardAnimateLabVictim",),
        pictures=(("StillguardAnimateLabVictim", "image"),),
        driver="a pose video",
        workflow="attack_lab",
        remark="Small, and unknown to every loss.",
    ),
    Victim(
        "AnimateAnyone",
        requires=("StillguardAnimatePose",),
        pictures=(("StillguardAnimatePose", "image"),),
        driver="a pose video",
        workflow="attack_dormant",
        models=tuple(ModelFile("stillguard", f"{part}.*") for part in ("reference_unet", "denoising_unet", "motion_module", "pose_guider")),
    ),
)

CORE = (
    Victim(
        "SVD",
        requires=("ImageOnlyCheckpointLoader", "SVD_img2vid_Conditioning", "VideoLinearCFGGuidance"),
        pictures=(("SVD_img2vid_Conditioning", "init_image"),),
        driver="the picture alone",
        workflow="attack_svd",
        models=(ModelFile("checkpoints", "*svd*"),),
        remark="1024x576, 14 frames; SVD-XT 25.",
    ),
    Victim(
        "Wan 2.1 image-to-video",
        requires=("WanImageToVideo",),
        pictures=(("WanImageToVideo", "start_image"), ("CLIPVisionEncode", "image")),
        driver="a prompt",
        workflow="attack_wan",
        models=(ModelFile("diffusion_models", "*wan*i2v*"), *_WAN_PARTS),
        remark="832x480, up to 81 frames.",
    ),
    Victim(
        "Wan 2.2 Animate",
        requires=("WanAnimateToVideo",),
        pictures=(("WanAnimateToVideo", "reference_image"), ("CLIPVisionEncode", "image")),
        driver="a pose video",
        workflow="attack_wan_animate",
        models=(ModelFile("diffusion_models", "*wan*animate*"), *_WAN_PARTS),
    ),
    Victim(
        "LTX-Video",
        requires=("LTXVImgToVideo", "LTXVPreprocess"),
        pictures=(("LTXVPreprocess", "image"),),
        driver="a prompt",
        workflow="attack_ltx",
        models=(ModelFile("checkpoints", "*ltx*"), ModelFile("text_encoders", "*t5*xxl*")),
        remark="768x512, 97 frames; it compresses the picture first, as LTX's makers advise.",
    ),
    Victim(
        "HunyuanVideo image-to-video",
        requires=("HunyuanImageToVideo", "TextEncodeHunyuanVideo_ImageToVideo"),
        pictures=(("HunyuanImageToVideo", "start_image"), ("CLIPVisionEncode", "image")),
        driver="a prompt",
        workflow="attack_hunyuan",
        models=(
            ModelFile("diffusion_models", "*hunyuan*image_to_video*"),
            ModelFile("vae", "*hunyuan*vae*"),
            ModelFile("text_encoders", "*llava*llama3*"),
            ModelFile("clip_vision", "*llava*llama3*"),
        ),
    ),
    Victim(
        "SDEdit",
        requires=("VAEEncode", "KSampler"),
        pictures=(("VAEEncode", "pixels"),),
        driver="a prompt",
        workflow="attack_sdedit",
        models=(ModelFile("checkpoints", "*v1-5*"),),
        remark="Any Stable Diffusion checkpoint will do; it edits one picture and makes no video.",
    ),
    Victim(
        "InstructPix2Pix",
        requires=("InstructPixToPixConditioning",),
        pictures=(("InstructPixToPixConditioning", "pixels"),),
        driver="a prompt",
        workflow="attack_instruct_pix2pix",
        models=(ModelFile("checkpoints", "*instruct*pix2pix*"),),
        remark="It edits one picture and makes no video.",
    ),
    _untested("Wan 2.2 5B", "Wan22ImageToVideoLatent", "start_image", "a prompt", "*wan2.2*5b*"),
    _untested("Wan VACE", "WanVaceToVideo", "reference_image", "a prompt", "*wan*vace*"),
    _untested("SCAIL", "WanSCAILToVideo", "reference_image", "a pose video", "*scail*"),
    _untested("Wan 2.2 S2V", "WanSoundImageToVideo", "ref_image", "audio", "*wan*s2v*"),
    _untested("HuMo", "WanHuMoImageToVideo", "ref_image", "audio", "*humo*"),
    _untested("InfiniteTalk", "WanInfiniteTalkToVideo", "start_image", "audio", "*infinitetalk*", "model_patches"),
    _untested("HunyuanVideo 1.5", "HunyuanVideo15ImageToVideo", "start_image", "a prompt", "*hunyuanvideo1.5*i2v*"),
    _untested("Kandinsky 5", "Kandinsky5ImageToVideo", "start_image", "a prompt", "*kandinsky5*i2v*"),
    _untested("Cosmos Predict2", "CosmosPredict2ImageToVideoLatent", "start_image", "a prompt", "*cosmos*predict2*"),
)

PACKS = (
    Victim(
        "AnimateDiff with PIA",
        requires=(
            "ADE_LoadAnimateDiffModel",
            "ADE_InputPIA_PaperPresets",
            "ADE_ApplyAnimateDiffModelWithPIA",
            "ADE_UseEvolvedSampling",
        ),
        pictures=(("ADE_ApplyAnimateDiffModelWithPIA", "image"),),
        driver="a prompt",
        workflow="attack_animatediff_pia",
        models=(ModelFile("animatediff_models", "*pia*"), ModelFile("checkpoints", "*v1-5*")),
        pack=_ANIMATEDIFF,
        remark="512x512, 16 frames; any checkpoint of Stable Diffusion 1.5 will do.",
    ),
    Victim(
        "MimicMotion",
        requires=("DownloadAndLoadMimicMotionModel", "MimicMotionGetPoses", "MimicMotionSampler", "MimicMotionDecode"),
        pictures=(("MimicMotionSampler", "ref_image"),),
        driver="a pose video",
        workflow="attack_mimicmotion",
        models=(ModelFile("mimicmotion", "MimicMotionMergedUnet*"), ModelFile(_SVD_XT_PARTS, "model_index.json")),
        pack=_MIMICMOTION,
        remark="The video must have at least as many frames as the sampler's context_size. " + _DOWNLOADS,
    ),
    Victim(
        "ControlNeXt-SVD",
        requires=("DownloadAndLoadControlNeXt", "ControlNextGetPoses", "ControlNextSampler", "ControlNextDecode"),
        pictures=(("ControlNextSampler", "ref_image"),),
        driver="a pose video",
        workflow="attack_controlnext_svd",
        models=(ModelFile("diffusers/controlnext", "controlnext-svd_v2-unet*"), ModelFile(_SVD_XT_PARTS, "model_index.json")),
        pack=_CONTROLNEXT,
        remark=_DOWNLOADS,
    ),
    Victim(
        "CogVideoX image-to-video",
        requires=("DownloadAndLoadCogVideoModel", "CogVideoTextEncode", "CogVideoImageEncode", "CogVideoSampler", "CogVideoDecode"),
        pictures=(("CogVideoImageEncode", "start_image"),),
        driver="a prompt",
        workflow="attack_cogvideox",
        models=(ModelFile("CogVideo/CogVideoX-5b-I2V/transformer", "config.json"), ModelFile("text_encoders", "*t5*xxl*")),
        pack=_COGVIDEOX,
        remark="720x480, 49 frames. " + _DOWNLOADS,
    ),
    Victim(
        "Wan image-to-video (WanVideoWrapper)",
        requires=(
            "WanVideoModelLoader",
            "WanVideoVAELoader",
            "LoadWanVideoT5TextEncoder",
            "WanVideoTextEncode",
            "WanVideoClipVisionEncode",
            "WanVideoImageToVideoEncode",
            "WanVideoSampler",
            "WanVideoDecode",
        ),
        pictures=(("WanVideoClipVisionEncode", "image_1"), ("WanVideoImageToVideoEncode", "start_image")),
        driver="a prompt",
        workflow="attack_wanvideo_i2v",
        models=(ModelFile("diffusion_models", "*wan*i2v*"), *_WAN_PARTS),
        pack=_WANVIDEO,
        remark="Its text encoder must not be scaled fp8.",
    ),
    Victim(
        "UniAnimate-DiT",
        requires=(
            "WanVideoModelLoader",
            "WanVideoLoraSelect",
            "WanVideoVAELoader",
            "LoadWanVideoT5TextEncoder",
            "WanVideoTextEncode",
            "WanVideoClipVisionEncode",
            "WanVideoImageToVideoEncode",
            "WanVideoUniAnimateDWPoseDetector",
            "WanVideoUniAnimatePoseInput",
            "WanVideoSampler",
            "WanVideoDecode",
        ),
        pictures=(("WanVideoClipVisionEncode", "image_1"), ("WanVideoImageToVideoEncode", "start_image")),
        driver="a pose video",
        workflow="attack_unianimate_dit",
        models=(ModelFile("diffusion_models", "*wan*i2v*14b*"), ModelFile("loras", "*unianimate*"), *_WAN_PARTS),
        pack=_WANVIDEO,
        remark="Its LoRA is for Wan 2.1 image-to-video 14B.",
    ),
    Victim(
        "LivePortrait (KJ)",
        requires=(
            "DownloadAndLoadLivePortraitModels",
            "LivePortraitLoadFaceAlignmentCropper",
            "LivePortraitCropper",
            "LivePortraitProcess",
        ),
        pictures=(("LivePortraitCropper", "source_image"), ("LivePortraitProcess", "source_image")),
        driver="a driving video",
        workflow="attack_liveportrait",
        models=(ModelFile("liveportrait", "*.safetensors"),),
        pack=_LIVEPORTRAIT,
        remark="Its requirements hold numpy below 2: it can break other packs. " + _OWN_DETECTOR,
    ),
    Victim(
        "LivePortrait (Advanced)",
        requires=("AdvancedLivePortrait",),
        pictures=(("AdvancedLivePortrait", "src_images"),),
        driver="a driving video",
        workflow="attack_advanced_liveportrait",
        models=(ModelFile("liveportrait", "*.safetensors"),),
        pack=_ADVANCED_LIVEPORTRAIT,
        remark=_OWN_DETECTOR + " " + _DOWNLOADS,
    ),
    Victim(
        "Sonic",
        requires=("SONICTLoader", "SONIC_PreData", "SONICSampler"),
        pictures=(("SONIC_PreData", "image"),),
        driver="audio",
        workflow="attack_sonic",
        models=(
            ModelFile("sonic", "unet*"),
            ModelFile("sonic", "audio2token*"),
            ModelFile("sonic", "audio2bucket*"),
            ModelFile("sonic", "yoloface*"),
            ModelFile("sonic/whisper-tiny", "model.safetensors"),
            ModelFile("checkpoints", "*svd*xt*"),
        ),
        pack=_SONIC,
        remark=_OWN_DETECTOR,
    ),
    Victim(
        "EchoMimic",
        requires=("Echo_LoadModel", "Echo_Predata", "Echo_Sampler"),
        pictures=(("Echo_Predata", "image"),),
        driver="audio",
        workflow="attack_echomimic",
        models=(
            ModelFile("echo_mimic/transformer", "diffusion_pytorch_model*"),
            ModelFile("echo_mimic/echomimicv3-flash-pro", "diffusion_pytorch_model*"),
            ModelFile("echo_mimic/chinese-wav2vec2-base", "model.safetensors"),
            *_WAN_PARTS,
        ),
        pack=_ECHOMIMIC,
        remark="Version 3 flash; versions 1 and 2 are chosen in its loader and need other files and packages.",
    ),
    Victim(
        "LatentSync",
        requires=("LatentSyncNode",),
        pictures=(("LatentSyncNode", "images"),),
        driver="audio",
        workflow="attack_latentsync",
        pack=_LATENTSYNC,
        remark="It repaints the mouth in a video, here in the still picture. Its weights lie in the pack's own folder: not looked for.",
    ),
)

VICTIMS = (*LAB, *CORE, *PACKS)
