"""Image encoders of open_clip's CLIPs (Ilharco et al. 2021): their layout, read from a file's names and shapes.

Shapes tell neither the attention heads nor the activation, the mean and the deviation of pixels. open_clip's own configurations do: that
beside the file, as Hugging Face has it, then those in the package for files under their published names and for networks of this size.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..packages import needed
from ..weights.filling import State
from ..weights.reading import WeightsError

PREFIX = "visual."
BESIDE = "open_clip_config.json"
HEAD_WIDTH = 64
"""Channels of an attention head where open_clip's configuration names none."""

_ENDS = (
    "class_embedding",
    "positional_embedding",
    "proj",
    "conv1.weight",
    *(f"ln_{end}.{kind}" for end in ("pre", "post") for kind in ("weight", "bias")),
)
_BLOCK = ("attn.in_proj_", "attn.out_proj.", "ln_1.", "ln_2.", "mlp.c_fc.", "mlp.c_proj.")
# What only the state of OpenAI's own archives holds beside the weights.
_OF_OPENAI = {"input_resolution", "context_length", "vocab_size"}


@dataclass(frozen=True)
class OpenCLIPEncoder:
    """state: the image encoder's tensors in open_clip's names. config: in the words of transformers' CLIPVisionConfig.

    notes: sentences about what neither the file nor a configuration told, and what was taken instead.
    """

    state: State
    config: dict[str, Any]
    notes: tuple[str, ...]


def is_open_clip(state: State) -> bool:
    """Whether these are the tensors of a whole CLIP in open_clip's names, with an image encoder of any kind."""
    return any(name.removeprefix("module.").startswith(PREFIX) for name in state)


def open_clip_encoder(state: State, path: Path) -> OpenCLIPEncoder:
    """The image encoder of a whole CLIP whose tensors were read from this file.

    Raises WeightsError, one sentence, where it is no plain vision transformer; PackageError without open_clip.
    """
    # open_clip's training writes its names behind this.
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    visual = {name: tensor for name, tensor in state.items() if name.startswith(PREFIX)}
    layers = len({name.split(".")[3] for name in visual if name.startswith(f"{PREFIX}transformer.resblocks.")})
    _check_names(visual, layers, path.name)
    width, _, patch, _ = visual[f"{PREFIX}conv1.weight"].shape
    side = round((visual[f"{PREFIX}positional_embedding"].shape[0] - 1) ** 0.5)
    shapes = {
        "image_size": side * patch,
        "patch_size": patch,
        "hidden_size": width,
        "intermediate_size": visual[f"{PREFIX}transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        "num_hidden_layers": layers,
        "projection_dim": visual[f"{PREFIX}proj"].shape[1],
    }
    if visual[f"{PREFIX}positional_embedding"].shape[0] != side**2 + 1:
        raise WeightsError(f"{path.name} is an open_clip model for pictures that are not square: choose one for squares.")
    published = _published(path, shapes)
    if width % (published.head_width or HEAD_WIDTH):
        raise WeightsError(f"{path.name} is {width} channels wide, which heads of {HEAD_WIDTH} do not divide: put its {BESIDE} beside it.")
    quick_gelu = _by_name(path.name, state) if published.quick_gelu is None else published.quick_gelu
    return OpenCLIPEncoder(
        visual,
        {
            **shapes,
            "num_attention_heads": width // (published.head_width or HEAD_WIDTH),
            "hidden_act": "quick_gelu" if quick_gelu else "gelu",
            **{f"image_{name}": list(published.pixels[name]) for name in ("mean", "std") if name in published.pixels},
        },
        tuple(_notes(published, quick_gelu)),
    )


def _check_names(visual: State, layers: int, name: str) -> None:
    blocks = (f"transformer.resblocks.{i}.{part}{kind}" for i in range(layers) for part in _BLOCK for kind in ("weight", "bias"))
    wanted = {f"{PREFIX}{inner}" for inner in (*_ENDS, *blocks)}
    found = sorted(visual.keys() - wanted) or sorted(wanted - visual.keys())
    if found or not layers:
        it = f"it {'has' if found[0] in visual else 'lacks'} {found[0]}"
        raise WeightsError(
            f"{name} is an open_clip model whose image encoder is no plain vision transformer ({it}): "
            "choose one such as ViT-B-32, ViT-L-14 or ViT-H-14."
        )


@dataclass(frozen=True)
class _Published:
    """What open_clip's configurations say; None, or no entry, where they do not. pixels: `mean` and `std` of the three channels."""

    head_width: int | None
    quick_gelu: bool | None
    pixels: Mapping[str, Any]


def _published(path: Path, shapes: Mapping[str, int]) -> _Published:
    beside = _beside(path)
    if beside is not None and _fits(beside["model_cfg"], shapes):
        model, vision = beside["model_cfg"], beside["model_cfg"]["vision_cfg"]
        return _Published(vision.get("head_width", HEAD_WIDTH), bool(model.get("quick_gelu")), beside.get("preprocess_cfg", {}))
    with needed("open_clip_torch"):
        import open_clip
    models = map(open_clip.get_model_config, open_clip.list_models())
    # Of the models of one size some have QuickGELU and some have not, but all have the same heads.
    head_width = next((model["vision_cfg"].get("head_width", HEAD_WIDTH) for model in models if _fits(model, shapes)), None)
    for known in (open_clip.get_pretrained_cfg(*names) for names in open_clip.list_pretrained()):
        repository, file = (known.get(key, "").rstrip("/").rpartition("/")[2] for key in ("hf_hub", "url"))
        if path.name == file or path.stem == repository:
            return _Published(head_width, bool(known.get("quick_gelu")), known)
    return _Published(head_width, None, {})


def _by_name(name: str, state: State) -> bool | None:
    """Whether name or content say that the activation is QuickGELU, x sigmoid(1.702 x), as OpenAI's is; None where neither does."""
    plain = name.lower().replace("_", "").replace("-", "")
    return True if state.keys() >= _OF_OPENAI or "openai" in plain or "quickgelu" in plain else None


def _notes(published: _Published, quick_gelu: bool | None) -> Iterator[str]:
    if published.head_width is None:
        yield f"its attention heads are taken to be {HEAD_WIDTH} channels wide, since open_clip has no model of this size"
    if quick_gelu is None:
        yield f'its activation is taken for GELU (if it is QuickGELU, put {BESIDE} beside it, or "quickgelu" into its name)'
    if not {"mean", "std"} <= published.pixels.keys():
        yield "mean and deviation of pixels are taken to be those of OpenAI's CLIP"


def _fits(model: Mapping[str, Any], shapes: Mapping[str, int]) -> bool:
    vision = model.get("vision_cfg", {})
    sizes = shapes["num_hidden_layers"], shapes["hidden_size"]
    return "timm_model_name" not in vision and (vision.get("layers"), vision.get("width")) == sizes


def _beside(path: Path) -> dict[str, Any] | None:
    """Raises WeightsError for a configuration that is none."""
    file = path.with_name(BESIDE)
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content["model_cfg"]["vision_cfg"], dict):
            raise TypeError
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{BESIDE} beside {path.name} is no configuration of open_clip: download it again, or remove it.") from error
    return dict(content)
