"""What several test files share. The small surrogates are quick and exact; nothing is claimed about effect with them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Graph = dict[str, dict[str, object]]


def node(class_type: str, **inputs: object) -> dict[str, object]:
    """One node of an API prompt."""
    return {"class_type": class_type, "inputs": inputs}


class RandomEncoder(nn.Module):
    """A seeded two-layer convolutional encoder, stride 8."""

    def __init__(self, seed: int = 0, channels: int = 4) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = nn.Parameter(torch.randn(8, 3, 8, 8, generator=generator) / 8, requires_grad=False)
        self.second = nn.Parameter(torch.randn(channels, 8, 3, 3, generator=generator) / 8, requires_grad=False)

    def encode(self, image: Tensor) -> Tensor:
        return F.conv2d(torch.tanh(F.conv2d(image, self.first, stride=8)), self.second, padding=1)

    def embed(self, image: Tensor) -> Tensor:
        return self.encode(image).mean(dim=(2, 3))


# Inputs of nodes that take long, at values that do not.
QUICK: dict[str, dict[str, object]] = {
    "StillguardProtect": {"steps": 3, "working_size": 64},
    "StillguardDormant": {"steps": 2, "working_size": 64},
    "StillguardAnimatePose": {"steps": 2, "working_size": 64},
    "StillguardAnimateLabVictim": {"steps": 2},
    "StillguardI2VSurrogate": {"length": 5, "prior_steps": 2},
    "StillguardI2VGuard": {"steps": 2, "working_size": 64},
    "SVD_img2vid_Conditioning": {"width": 64, "height": 64, "video_frames": 3},
    "WanImageToVideo": {"width": 64, "height": 64, "length": 5},
    "KSampler": {"steps": 2},
    # Files that are gigabytes or that no small network can have.
    "VAELoader": {"vae_name": "stillguard_lab_vae.safetensors"},
    "ImageOnlyCheckpointLoader": {"ckpt_name": "tiny_svd.safetensors"},
    "UNETLoader": {"unet_name": "tiny_wan_i2v.safetensors"},
}
# Where the model is Wan's.
QUICK_WAN: dict[str, dict[str, object]] = {
    "VAELoader": {"vae_name": "tiny_wan_vae.safetensors"},
    "TestkitTinyCLIPVision": {"hidden": 1280},
}
# Core's loaders accept no encoder of this size: image encoders from ViT-L on, and published text encoders.
STAND_INS = {"CLIPVisionLoader": "TestkitTinyCLIPVision", "CLIPTextEncode": "TestkitTinyConditioning"}


def make_quick(prompt: Graph) -> Graph:
    """The same prompt with few steps, small pictures and small models."""
    kinds = {str(entry["class_type"]) for entry in prompt.values()}
    for entry in prompt.values():
        inputs = entry["inputs"]
        if entry["class_type"] in STAND_INS:
            entry["class_type"] = STAND_INS[str(entry["class_type"])]
            inputs.clear()
        inputs.update(QUICK.get(str(entry["class_type"]), {}))
        if "UNETLoader" in kinds:
            inputs.update(QUICK_WAN.get(str(entry["class_type"]), {}))
    for key, entry in list(prompt.items()):
        if entry["class_type"] == "ImageOnlyCheckpointLoader":
            # Its file holds no image encoder.
            prompt["encoder of SVD"] = node("TestkitTinyCLIPVision", hidden=64, projection=1024)
            for other in prompt.values():
                other["inputs"].update({name: ["encoder of SVD", 0] for name, link in other["inputs"].items() if link == [key, 1]})
    return prompt
