"""A file for core's face detector with weights made by hand: it finds faces where a picture is bright, and none in a dark one.

The real file is not fetched here. This one loads as it does, runs in core's own classes, and sees nothing of a face.
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import torch
from stillguard.engine.animators.talking_head.masks import LIPS, OVAL
from torch import Tensor

from .animator_files import State, write
from .comfyui import comfyui

FILE = "mediapipe_face_fp32.safetensors"
# Side of a found box in pictures: as large as this, the boxes of all bright spots overlap and become one face in their middle.
_BOX = 5.0
# What core widens boxes by, and the side at which the mesh sees them.
_WIDER, _MESH = 1.5, 192
# Of the face's oval and of its lips, in pictures from the middle: place, and half axes.
_SHAPES = {OVAL: (0.0, 0.0, 0.2, 0.27), LIPS: (0.0, 0.13, 0.08, 0.04)}
_DRAWN = ("face_oval", "left_eye", "right_eye", "left_eyebrow", "right_eyebrow", "lips", "irises", "nose")


def face_detector(folder: Path) -> Path:
    """Core's mediapipe_face_fp32.safetensors in `models/detection`."""
    core = _core()
    state: State = {}
    for variant, network in (("short", core.BlazeFace), ("full", core.BlazeFaceFullRange)):
        state |= _nothing(f"detector_{variant}.", network())
    state |= _nothing("mesh.", core.FaceMesh()) | _nothing("blendshapes.", core.FaceBlendshapes())
    _see_light(state)
    state["mesh.head_landmarks.bias"] = _mesh().flatten()
    state |= {f"topology.{part}": torch.tensor([[0, 1]], dtype=torch.int32) for part in _DRAWN}
    state |= {name: torch.zeros(3) for name in ("canonical_vertices", "procrustes_indices", "procrustes_weights")}
    return write(folder / FILE, state)


def _core() -> ModuleType:
    """Core's networks. Their module needs nothing else of core, which is not on the path here."""
    file = comfyui() / "comfy_extras" / "mediapipe" / "face_landmarker.py"
    spec = importlib.util.spec_from_file_location("face_landmarker", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _nothing(prefix: str, network: torch.nn.Module) -> State:
    return {prefix + key: torch.zeros_like(value) for key, value in network.state_dict().items()}


def _see_light(state: State) -> None:
    """The first channel is the light of a spot, which passes all blocks of the near detector as it is; one anchor answers to it."""
    # A pixel in the kernel's middle, since the border around the picture is not dark.
    state["detector_short.stem.weight"][0, :, 2, 2] = 1 / 3
    state["detector_short.stem.bias"][0] = 1.0
    for head in ("cls_16", "cls_8"):
        state[f"detector_short.{head}.bias"][:] = -100.0
    # From black to white the light goes from 0 to 2.
    state["detector_short.cls_8.weight"][0, 0], state["detector_short.cls_8.bias"][0] = 20.0, -10.0
    # Width, height, and an eye on either side, in the detector's pixels.
    state["detector_short.reg_8.bias"][2:8] = torch.tensor([_BOX, _BOX, -0.1, 0.0, 0.1, 0.0]) * 128
    state["detector_full.cls_dw.bias"][:] = -100.0


def _mesh() -> Tensor:
    """Landmarks [478,3] in the mesh's pixels: the oval, the lips in it, and the others between."""
    points = (torch.rand(478, 3, generator=torch.Generator().manual_seed(0)) - 0.5) * 0.2
    for numbers, (x, y, wide, tall) in _SHAPES.items():
        for place, number in enumerate(numbers):
            angle = 2 * math.pi * place / len(numbers)
            points[number, :2] = torch.tensor([x + wide * math.sin(angle), y - tall * math.cos(angle)])
    return _MESH / 2 + points * _MESH / (_BOX * _WIDER)
