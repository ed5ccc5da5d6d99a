"""What several test files share. The small surrogates are quick and exact; nothing is claimed about effect with them."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from bench.ports import PACKS
from torch import Tensor, nn
from torch.nn import functional as F

Graph = dict[str, dict[str, object]]

WORKFLOWS = sorted((Path(__file__).parents[1] / "workflows").glob("*.json"))
PACK_NODES = {name: pack.repository for pack in PACKS for name in pack.nodes}
"""Third-party nodes that workflows use, and whose they are."""


def packs_of(workflow: Path) -> set[str]:
    """Third-party packs that a workflow needs, by their repositories."""
    return {PACK_NODES[entry["type"]] for entry in json.loads(workflow.read_text(encoding="utf-8"))["nodes"] if entry["type"] in PACK_NODES}


OWN_WORKFLOWS = [workflow for workflow in WORKFLOWS if not packs_of(workflow)]
PACK_WORKFLOWS = [workflow for workflow in WORKFLOWS if packs_of(workflow)]


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
    "StillguardAnimatePose": {"steps": 2, "working_size": 64, "window": 4, "overlap": 1},
    "StillguardAnimateLabVictim": {"steps": 2},
    # It has one size, at which a frame takes seconds.
    "StillguardAnimateFace": {"motion": "one pose", "motion.frames": 1, "mouth_open": 1.0},
    "StillguardSilencer": {"steps": 2, "second_steps": 2, "working_size": 64},
    "StillguardAnimateTalkingHead": {"steps": 1, "guidance": 1.0, "working_size": 64},
    # The shortest that a talking head hears.
    "TrimAudioDuration": {"duration": 0.2},
    "StillguardI2VSurrogate": {"width": 64, "height": 64, "length": 5, "prior_steps": 2},
    "StillguardI2VGuard": {"steps": 2, "working_size": 64},
    "StillguardAntiI2V": {"steps": 2, "working_size": 64},
    "SVD_img2vid_Conditioning": {"width": 64, "height": 64, "video_frames": 3},
    "WanImageToVideo": {"width": 64, "height": 64, "length": 5},
    "WanAnimateToVideo": {"width": 64, "height": 64, "length": 5},
    "LTXVImgToVideo": {"width": 64, "height": 64, "length": 9},
    "HunyuanImageToVideo": {"width": 64, "height": 64, "length": 5},
    "EmptyHunyuanLatentVideo": {"width": 64, "height": 64, "length": 5},
    "ImageScale": {"width": 64, "height": 64},
    "RepeatImageBatch": {"amount": 1},
    "ImageScaleToMaxDimension": {"largest_size": 64},
    "KSampler": {"steps": 2},
    "LTXVScheduler": {"steps": 2},
    "BasicScheduler": {"steps": 2},
}
# Files of gigabytes -> small networks of the same class.
SMALL_FILES = {
    "vae-ft-mse-840000-ema-pruned.safetensors": "stillguard_lab_vae.safetensors",
    "svd.safetensors": "tiny_svd.safetensors",
    "svd_xt.safetensors": "tiny_svd.safetensors",
    "v1-5-pruned-emaonly-fp16.safetensors": "tiny_sd15.safetensors",
    "instruct-pix2pix-00-22000.safetensors": "tiny_instruct_pix2pix.safetensors",
    "ltx-video-2b-v0.9.5.safetensors": "tiny_ltx_checkpoint.safetensors",
    "wan2.1_i2v_480p_14B_fp16.safetensors": "tiny_wan_i2v.safetensors",
    "wan2.2_animate_14B_bf16.safetensors": "tiny_wan_animate.safetensors",
    "hunyuan_video_image_to_video_720p_bf16.safetensors": "tiny_hunyuan.safetensors",
    "cogvideox_5b_i2v_bf16.safetensors": "tiny_cogvideox.safetensors",
    "wan_2.1_vae.safetensors": "tiny_wan_vae.safetensors",
    # The same layout: 16 channels, an eighth of the width, a quarter of the frames.
    "hunyuan_video_vae_bf16.safetensors": "tiny_wan_vae.safetensors",
    "cogvideox_vae.safetensors": "tiny_wan_vae.safetensors",
}
# Core's loaders accept no encoder of this size: image encoders from ViT-L on, published text encoders, speech from wav2vec2-base on.
STAND_INS = {
    "CLIPVisionLoader": "TestkitTinyCLIPVision",
    "AudioEncoderLoader": "TestkitTinyAudioEncoder",
    "CLIPTextEncode": "TestkitTinyConditioning",
    "TextEncodeHunyuanVideo_ImageToVideo": "TestkitTinyConditioning",
}
# SVD's file holds no image encoder.
SVD_ENCODER = {"hidden": 64, "projection": 1024}
WAN_ENCODER, OTHER_ENCODER = {"hidden": 1280, "projection": 32}, {"hidden": 64, "projection": 32}
WIDE_TEXT = ("v1-5-pruned-emaonly-fp16.safetensors", "instruct-pix2pix-00-22000.safetensors")
"""Checkpoints whose text is 768 wide even where the rest is small."""


def _small(value: object) -> object:
    return SMALL_FILES.get(value, value) if isinstance(value, str) else value


def _stand_in(kind: str, values: Collection[object], wide: bool) -> dict[str, object]:
    """Inputs of what stands in for a node of these inputs."""
    if kind == "CLIPVisionLoader":
        return dict(WAN_ENCODER if "clip_vision_h.safetensors" in values else OTHER_ENCODER)
    return {} if kind == "AudioEncoderLoader" else {"width": 768 if wide else 16}


def make_quick(prompt: Graph) -> Graph:
    """The same prompt with few steps, small pictures and small models."""
    wide = any(name in entry["inputs"].values() for entry in prompt.values() for name in WIDE_TEXT)
    for entry in prompt.values():
        kind, inputs = str(entry["class_type"]), entry["inputs"]
        if kind in STAND_INS:
            values = [value for value in inputs.values() if isinstance(value, str)]
            entry.update(class_type=STAND_INS[kind], inputs=_stand_in(kind, values, wide))
        elif kind not in PACK_NODES:  # those load nothing
            inputs.update({name: _small(value) for name, value in inputs.items()} | QUICK.get(kind, {}))
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
    wide = any(name in (entry.get("widgets_values") or ()) for entry in nodes for name in WIDE_TEXT)
    for entry in nodes:
        kind, values = entry["type"], list(entry.get("widgets_values") or ())
        if kind in STAND_INS:
            entry.update(type=STAND_INS[kind], inputs=[], widgets_values=list(_stand_in(kind, values, wide).values()))
        elif values:
            entry["widgets_values"] = [_small(value) for value in values]
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
