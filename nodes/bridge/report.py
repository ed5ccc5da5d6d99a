"""What a report tells of the graph that made it: settings and seeds without the user's file names, and versions."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

import comfy.model_management
import torch
from comfy_execution.graph_utils import is_link
from comfyui_version import __version__ as comfyui_version

from ...engine.report.document import NodeSettings

ROOT = Path(__file__).parents[2]
NAME_LEFT_OUT, PATH_LEFT_OUT, SECRET = "(file name left out)", "(path left out)", "(left out)"

_MODEL = re.compile(r"\.(safetensors|sft|ckpt|pt|pth|th|bin|onnx|gguf|pkl|engine)$", re.IGNORECASE)
# A path from the root of a disk or a home folder, and all that follows it in its line, since names may hold blanks.
_ABSOLUTE = re.compile(r"(?:(?<=^)|(?<=[\s\"'=(,;:]))(?:file:|~[\\/]|/[^\s/]+/|[A-Za-z]:[\\/]|\\\\)[^\n]*", re.MULTILINE)
_FILE = re.compile(r"^[^\n]*\.[A-Za-z]\w{1,4}( \[\w+\])?$|^data:|^blake3:")
_SECRET = re.compile(r"api_?key|token|password|secret", re.IGNORECASE)
_FILE_INPUTS = {"image", "images", "video", "audio", "mask", "file", "filename", "filename_prefix", "path", "directory", "folder", "url"}


def versions() -> dict[str, str]:
    """What ran."""
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    device = comfy.model_management.get_torch_device()
    names = {"Stillguard": ours, "ComfyUI": comfyui_version, "PyTorch": torch.__version__}
    return {**names, "on": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type}


def node_settings(prompt: Mapping[str, Any], node_id: str) -> tuple[NodeSettings, ...]:
    """Settings of all nodes that the node `node_id` stands on, those first that come first; nodes with none are left out.

    Names of model files are told, names of other files and paths from a disk's root are not.
    """
    told = []
    for key in _upstream(prompt, node_id):
        node = prompt[key]
        given = {name: value for name, value in node["inputs"].items() if not is_link(value)}
        if given and key != node_id:
            title = str(node.get("_meta", {}).get("title") or node["class_type"])
            told.append(NodeSettings(key, node["class_type"], without_paths(title), {n: _told(n, value) for n, value in given.items()}))
    return tuple(told)


def without_paths(value: Any) -> Any:
    """A value of a prompt, or a whole one, without any path from a disk's root and without passwords."""
    if isinstance(value, Mapping):
        return {name: SECRET if _secret(name, entry) else without_paths(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [without_paths(entry) for entry in value]
    return _ABSOLUTE.sub(PATH_LEFT_OUT, value) if isinstance(value, str) else value


def _told(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return without_paths(value)
    if _secret(name, value):
        return SECRET
    if _MODEL.search(value):
        return PureWindowsPath(value).name if _ABSOLUTE.search(value) else value
    own = name.rpartition(".")[2] in _FILE_INPUTS or _FILE.search(value)
    return NAME_LEFT_OUT if own else without_paths(value)


def _secret(name: object, value: Any) -> bool:
    return isinstance(value, str) and bool(_SECRET.search(str(name)))


def _upstream(prompt: Mapping[str, Any], node_id: str) -> Iterator[str]:
    """Depth first, each node after those that it stands on, the node itself last."""
    seen: set[str] = set()
    waiting = [(node_id, False)]
    while waiting:
        key, done = waiting.pop()
        if done:
            yield key
        elif key not in seen and key in prompt:
            seen.add(key)
            links = [value[0] for value in prompt[key]["inputs"].values() if is_link(value)]
            waiting += [(key, True), *((before, False) for before in reversed(links))]
