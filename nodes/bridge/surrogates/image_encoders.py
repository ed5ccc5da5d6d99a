"""Image encoders of any size as core's CLIP_VISION; core's own loader knows four sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import comfy.clip_vision
from safetensors import safe_open

from ....engine.weights.reading import SAFETENSORS, WeightsError, read_weights

_NUMBERS = ("image_size", "patch_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "projection_dim")


def image_encoder_from(path: Path) -> comfy.clip_vision.ClipVisionModel:
    """A CLIP image encoder in transformers' tensor names, whose configuration stands in the file's metadata as `config` (JSON).

    Raises WeightsError, one sentence, for a file without it, or with other tensors than it says.
    """
    model = comfy.clip_vision.ClipVisionModel(_config(path))
    state = read_weights(path)
    missing, unexpected = model.load_sd(state)
    missing = [name for name in missing if not name.endswith("position_ids")]
    if missing or unexpected:
        raise WeightsError(f"{path.name} does not hold what its own configuration says ({[*missing, *unexpected][0]}): download it again.")
    return model


def _config(path: Path) -> dict[str, Any]:
    if path.suffix.lower() not in SAFETENSORS:
        raise WeightsError(
            f"{path.name} is no safetensors file, and only these hold a configuration: load published encoders with Load CLIP Vision."
        )
    read_weights(path)  # says what is wrong with a damaged file
    with safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get("config")
    try:
        config = json.loads(text or "")
        numbers = {name: int(config[name]) for name in _NUMBERS}
        if config["model_type"] != "clip_vision_model":
            raise KeyError
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{path.name} has no configuration of a CLIP image encoder in its metadata: load published encoders with Load CLIP Vision."
        ) from error
    return {
        **numbers,
        "model_type": "clip_vision_model",
        "num_channels": 3,
        "hidden_act": str(config["hidden_act"]),
        "layer_norm_eps": 1e-5,
    }
