"""What several test files share. The small surrogates are quick and exact; nothing is claimed about effect with them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

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
# The checkpoint's file holds no image encoder.
SVD_ENCODER = {"hidden": 64, "projection": 1024}
# Where the model is Wan's.
QUICK_WAN: dict[str, dict[str, object]] = {
    "VAELoader": {"vae_name": "tiny_wan_vae.safetensors"},
    "TestkitTinyCLIPVision": {"hidden": 1280},
}
# Core's loaders accept no encoder of this size: image encoders from ViT-L on, and published text encoders.
STAND_INS = {"CLIPVisionLoader": "TestkitTinyCLIPVision", "CLIPTextEncode": "TestkitTinyConditioning"}


def quick_inputs(kinds: Collection[str]) -> dict[str, dict[str, object]]:
    """QUICK for a workflow of these nodes."""
    wan = QUICK_WAN if "UNETLoader" in kinds else {}
    return {kind: {**QUICK.get(kind, {}), **wan.get(kind, {})} for kind in (*QUICK, *wan)}


def make_quick(prompt: Graph) -> Graph:
    """The same prompt with few steps, small pictures and small models."""
    quick = quick_inputs({str(entry["class_type"]) for entry in prompt.values()})
    for entry in prompt.values():
        inputs = entry["inputs"]
        if entry["class_type"] in STAND_INS:
            entry["class_type"] = STAND_INS[str(entry["class_type"])]
            inputs.clear()
        inputs.update(quick.get(str(entry["class_type"]), {}))
    for key, entry in list(prompt.items()):
        if entry["class_type"] == "ImageOnlyCheckpointLoader":
            prompt["encoder of SVD"] = node("TestkitTinyCLIPVision", **SVD_ENCODER)
            for other in prompt.values():
                other["inputs"].update({name: ["encoder of SVD", 0] for name, link in other["inputs"].items() if link == [key, 1]})
    return prompt


def with_stand_ins(document: dict[str, Any]) -> dict[str, Any]:
    """As make_quick does with nodes, for a workflow as the page saves it."""
    nodes = document["nodes"]
    replaced = {entry["id"] for entry in nodes if entry["type"] in STAND_INS}
    for entry in nodes:
        if entry["id"] in replaced:
            entry.update(type=STAND_INS[entry["type"]], inputs=[], widgets_values=[])
    # A link is [id, from node, its output, to node, its input, type].
    document["links"] = [link for link in document["links"] if link[3] not in replaced]
    for loader in [entry for entry in nodes if entry["type"] == "ImageOnlyCheckpointLoader"]:
        given, outputs = max(entry["id"] for entry in nodes) + 1, loader["outputs"][1]
        moved = [link for link in document["links"] if link[1:3] == [loader["id"], 1]]
        for link in moved:
            link[1:3] = [given, 0]
        encoder = {**loader, "id": given, "type": "TestkitTinyCLIPVision", "widgets_values": list(SVD_ENCODER.values())}
        nodes.append({**encoder, "inputs": [], "outputs": [{**outputs, "links": [link[0] for link in moved], "slot_index": 0}]})
        loader["outputs"][1] = {**outputs, "links": []}
    return document
