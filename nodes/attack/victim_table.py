"""What an attacker can animate a picture with in ComfyUI, as data: which nodes and files it takes, and which workflow tests it."""

from __future__ import annotations

from .victim import WAN_PARTS, Driver, ModelFile, Victim
from .victim_packs import PACKS


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
        "Face animator",
        requires=("StillguardAnimateFace",),
        pictures=(("StillguardAnimateFace", "image"),),
        driver="a motion",
        workflow="attack_face",
        models=(ModelFile("stillguard", "tha3_separable_float.*"),),
        remark="Real, and moves one framed portrait; the workflow protects the photo from this very animator.",
    ),
    Victim(
        "Talking head",
        requires=("StillguardAnimateTalkingHead", "AudioEncoderLoader"),
        pictures=(("StillguardAnimateTalkingHead", "image"),),
        driver="audio",
        workflow="attack_silencer",
        models=(ModelFile("stillguard", "net.*"), ModelFile("audio_encoders", "*wav2vec2*base*")),
        remark="Hallo: a portrait speaks, 25 frames a second; the workflow can protect the photo from this very model.",
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
        models=(ModelFile("diffusion_models", "*wan*i2v*"), *WAN_PARTS),
        remark="832x480, up to 81 frames.",
    ),
    Victim(
        "Wan 2.1 image-to-video, against Anti-I2V",
        requires=("WanImageToVideo", "StillguardAntiI2V"),
        pictures=(("WanImageToVideo", "start_image"), ("CLIPVisionEncode", "image")),
        driver="a prompt",
        workflow="attack_anti_i2v_wan",
        models=(ModelFile("diffusion_models", "*wan*i2v*"), *WAN_PARTS),
        remark="The workflow can protect the photo from this very model.",
    ),
    Victim(
        "CogVideoX image-to-video, ComfyUI's own nodes",
        requires=("InstructPixToPixConditioning", "EmptyHunyuanLatentVideo"),
        pictures=(("InstructPixToPixConditioning", "pixels"),),
        driver="a prompt",
        workflow="attack_anti_i2v_cogvideox",
        models=(
            ModelFile("diffusion_models", "*cogvideox*i2v*"),
            ModelFile("vae", "*cogvideox*"),
            ModelFile("text_encoders", "*t5*xxl*"),
        ),
        remark="720x480, 49 frames; the workflow can protect the photo from this very model.",
    ),
    Victim(
        "Wan 2.2 Animate",
        requires=("WanAnimateToVideo",),
        pictures=(("WanAnimateToVideo", "reference_image"), ("CLIPVisionEncode", "image")),
        driver="a pose video",
        workflow="attack_wan_animate",
        models=(ModelFile("diffusion_models", "*wan*animate*"), *WAN_PARTS),
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

VICTIMS = (*LAB, *CORE, *PACKS)
