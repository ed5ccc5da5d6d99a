"""The workflow file that a user saves -> the prompt that the server executes, as the page's own Run button converts it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

from .client import Prompt
from .paths import BENCH, BenchError


def to_prompt(workflow: dict[str, Any], object_info: dict[str, Any]) -> Prompt:
    """Convert a UI workflow; `object_info` is the server's answer of that name. Widget values, links, bypass and subgraphs are resolved."""
    home = str(BENCH / "home")
    # comfy-cli makes a settings folder below the home folder as soon as it is imported.
    with patch.dict(os.environ, HOME=home, USERPROFILE=home):
        from comfy_cli.workflow_to_api import convert_ui_to_api
    prompt: Prompt = convert_ui_to_api(workflow, object_info)
    for entry in workflow["nodes"]:
        if entry["type"] == "ImageCropV2" and str(entry["id"]) in prompt:
            # comfy-cli takes the crop's widget, which holds a box, for a socket.
            prompt[str(entry["id"])]["inputs"]["crop_region"] = entry["widgets_values"][0]
    unknown = sorted({node["class_type"] for node in prompt.values()} - object_info.keys())
    if unknown:
        packs = {entry["properties"].get("aux_id") for entry in workflow["nodes"] if entry["type"] in unknown} - {None}
        advice = f"install {', '.join(sorted(packs))}" if packs else "install or rename these nodes"
        raise BenchError(f"The workflow uses {', '.join(unknown)}, which this server does not have; {advice}.")
    return prompt


def load_prompt(path: Path, object_info: dict[str, Any]) -> Prompt:
    """`to_prompt` of a file."""
    if not path.is_file():
        raise BenchError(f"The workflow {path} does not exist; restore it from the repository.")
    return to_prompt(json.loads(path.read_text(encoding="utf-8")), object_info)


def titles(prompt: Prompt) -> dict[str, str]:
    """Node id -> title, or the class name where a node has none."""
    return {node_id: str(node.get("_meta", {}).get("title") or node["class_type"]) for node_id, node in prompt.items()}
