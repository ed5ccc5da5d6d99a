"""Victims of third-party node packs, for victim_table.py."""

from __future__ import annotations

from .victim import WAN_PARTS, ModelFile, Pack, Victim

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

_SVD_XT_PARTS = "diffusers/stable-video-diffusion-img2vid-xt-1-1"
_DOWNLOADS = "The pack downloads its own weights when its loader runs."
_OWN_DETECTOR = "Its face detector looks at each picture, so where the face is cannot be taken from the clean one in all branches."

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
        models=(ModelFile("diffusion_models", "*wan*i2v*"), *WAN_PARTS),
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
        models=(ModelFile("diffusion_models", "*wan*i2v*14b*"), ModelFile("loras", "*unianimate*"), *WAN_PARTS),
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
            *WAN_PARTS,
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
