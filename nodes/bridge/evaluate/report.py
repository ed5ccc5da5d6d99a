"""What a report tells of the graph that made it: settings and seeds without the user's file names, and versions."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import comfy.model_management
import torch
from comfy_execution.graph import DynamicPrompt
from comfy_execution.graph_utils import is_link
from comfyui_version import __version__ as comfyui_version

from ....engine.report.document import NodeSettings
from ..privacy import publishable

ROOT = Path(__file__).parents[3]


def versions() -> dict[str, str]:
    """What ran."""
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    device = comfy.model_management.get_torch_device()
    names = {"Stillguard": ours, "ComfyUI": comfyui_version, "PyTorch": torch.__version__}
    return {**names, "on": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type}


def whole_graph(prompt: DynamicPrompt) -> dict[str, Any]:
    """All nodes, those too that others made while they ran (loops). Of these a copy of a node of the user's has its title."""
    graph = {}
    for key in prompt.all_node_ids():
        node, shown = prompt.get_node(key), prompt.get_node(prompt.get_display_node_id(key))
        meta = shown.get("_meta", {}) if shown["class_type"] == node["class_type"] else {}
        graph[key] = {"_meta": meta, **node}
    return graph


def node_settings(prompt: Mapping[str, Any], node_id: str) -> tuple[NodeSettings, ...]:
    """Settings of all nodes that the node `node_id` stands on, those first that come first; nodes with none are left out.

    Names of model files are told, names of other files and paths from a disk's root are not.
    """
    settings = []
    for key in _upstream(prompt, node_id):
        node = prompt[key]
        given = {name: value for name, value in node["inputs"].items() if not is_link(value)}
        if given and key != node_id:
            title = str(node.get("_meta", {}).get("title") or node["class_type"])
            settings.append(
                NodeSettings(key, node["class_type"], publishable("", title), {n: publishable(n, value) for n, value in given.items()})
            )
    return tuple(settings)


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
