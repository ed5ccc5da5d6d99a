"""Image encoders of any size as core's CLIP_VISION; core's own loader knows four sizes."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import comfy.clip_vision
from comfy_execution.utils import get_executing_context
from safetensors import safe_open

from ....engine.surrogates.open_clip_encoder import is_open_clip, open_clip_encoder
from ....engine.weights.filling import State
from ....engine.weights.reading import SAFETENSORS, WeightsError, read_weights
from ..progress import show_text

log = logging.getLogger("stillguard")

_NUMBERS = ("image_size", "patch_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "projection_dim")


def image_encoder_from(path: Path) -> comfy.clip_vision.ClipVisionModel:
    """A CLIP image encoder: of a whole CLIP in open_clip's tensor names, or in transformers' with its configuration in the file.

    That is JSON in the metadata field `config` of a safetensors file. What an open_clip file does not tell, and what was assumed instead,
    is said below the node. Raises WeightsError, one sentence, for other files, and for tensors that do not fit the configuration.
    """
    state = read_weights(path)
    if not is_open_clip(state):
        return _filled(state, _config(path), path.name)
    encoder = open_clip_encoder(state, path)
    if encoder.notes:
        _tell(f"Of {path.name}, {'; '.join(encoder.notes)}.")
    return _filled(comfy.clip_vision.convert_to_transformers(encoder.state, "visual."), encoder.config, path.name)


def _filled(state: State, config: dict[str, Any], name: str) -> comfy.clip_vision.ClipVisionModel:
    whole = {**config, "model_type": "clip_vision_model", "num_channels": 3, "layer_norm_eps": 1e-5}
    model = comfy.clip_vision.ClipVisionModel(whole)
    try:
        missing, unexpected = model.load_sd(state)
    except RuntimeError as error:
        raise WeightsError(f"{name} holds tensors of other shapes than its configuration says: download it again.") from error
    missing = [key for key in missing if not key.endswith("position_ids")]
    if missing or unexpected:
        raise WeightsError(f"{name} does not hold what its own configuration says ({[*missing, *unexpected][0]}): download it again.")
    return model


def _config(path: Path) -> dict[str, Any]:
    text = None
    if path.suffix.lower() in SAFETENSORS:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get("config")
    try:
        config = json.loads(text or "")
        wanted: dict[str, Any] = {**{name: int(config[name]) for name in _NUMBERS}, "hidden_act": str(config["hidden_act"])}
        if config["model_type"] != "clip_vision_model":
            raise KeyError
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{path.name} holds neither a CLIP of open_clip's nor a configuration of an image encoder: "
            "load other published encoders with Load CLIP Vision."
        ) from error
    return wanted


def _tell(text: str) -> None:
    """To the log, and below the node that runs, whose id this asks of core: an input for it would change what workflows hold."""
    log.warning("%s", text)
    running = get_executing_context()
    show_text(text, node_id=None if running is None else running.node_id)
