"""Load Image Encoder against open_clip's own encode_image, and what it says of files that it cannot read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

pytestmark = pytest.mark.usefixtures("comfy")
TEXT = {"context_length": 8, "vocab_size": 32, "width": 32, "heads": 1, "layers": 1}
SMALL = {"layers": 2, "width": 192, "patch_size": 8, "image_size": 32}


def clip(make: Callable[..., nn.Module] = open_clip.CLIP, *, embed_dim: int = 24, quick_gelu: bool = False, **vision: Any) -> nn.Module:
    """A random CLIP whose weights fp16 holds, since that is what core keeps an encoder in."""
    torch.manual_seed(3)
    network = make(embed_dim, {**SMALL, **vision}, TEXT, quick_gelu=quick_gelu).eval()
    for parameter in network.parameters():
        # Biases and norms start as 0 and 1, behind which a mix-up could hide.
        moved = parameter.data + (0.1 * torch.randn(parameter.shape) if parameter.ndim == 1 else 0)
        parameter.data = moved.half().float()
    return network


def written(network: nn.Module, path: Path, config: dict[str, Any] | None = None) -> Path:
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    if config is not None:
        path.with_name("open_clip_config.json").write_text(json.dumps(config))
    return path


def loaded(path: Path) -> Any:
    from stillguard.nodes.bridge.surrogates.clip_vision_files import image_encoder_from

    return image_encoder_from(path)


def prepared(image: Tensor, side: int, mean: Any = open_clip.OPENAI_DATASET_MEAN, std: Any = open_clip.OPENAI_DATASET_STD) -> Tensor:
    """A square picture [1,3,H,W] as core's CLIP Vision Encode prepares it."""
    small = nn.functional.interpolate(image, size=(side, side), mode="bicubic", antialias=True)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    return ((255 * small).clamp(0, 255).round() / 255 - mean) / std


def check(path: Path, network: nn.Module, image: Tensor, side: int = 32, **pixels: Any) -> None:
    """That core's own call and our view with gradients both give open_clip's embedding, and the gradient reaches the picture."""
    from stillguard.nodes.bridge.surrogates.clip_vision import DifferentiableCLIPVision

    encoder = loaded(path)
    with torch.no_grad():
        expected = network.encode_image(prepared(image, side, **pixels))
    torch.testing.assert_close(encoder.encode_image(image.movedim(1, -1))["image_embeds"].float(), expected, atol=1e-5, rtol=1e-5)
    leaf = image.clone().requires_grad_()
    embedding = DifferentiableCLIPVision(encoder).embed(leaf)
    torch.testing.assert_close(embedding.detach(), expected, atol=1e-5, rtol=1e-5)
    (gradient,) = torch.autograd.grad(embedding.square().sum(), leaf)
    own = image.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(network.encode_image(unrounded(own, side, **pixels)).square().sum(), own)
    assert torch.cosine_similarity(gradient.flatten(), wanted.flatten(), dim=0) > 0.999


def unrounded(image: Tensor, side: int, **pixels: Any) -> Tensor:
    """`prepared`, whose rounding a gradient passes as if it were not there."""
    std = torch.tensor(pixels.get("std", open_clip.OPENAI_DATASET_STD)).view(3, 1, 1)
    small = nn.functional.interpolate(image, size=(side, side), mode="bicubic", antialias=True).clamp(0, 1)
    return prepared(image.detach(), side, **pixels) + (small - small.detach()) / std


@pytest.mark.parametrize("make", [open_clip.CLIP, open_clip.CustomTextCLIP])
@pytest.mark.parametrize("file", ["open_clip_pytorch_model.bin", "open_clip_model.safetensors"])
def test_the_embedding_is_open_clips_own(make: Callable[..., nn.Module], file: str, tmp_path: Path, astronaut: Tensor) -> None:
    network = clip(make)
    check(written(network, tmp_path / file), network, astronaut)


@pytest.mark.parametrize(("name", "heads", "side"), [("ViT-B-32", 12, 224), ("ViT-L-14-336", 16, 336), ("ViT-bigG-14", 16, 224)])
def test_published_sizes_have_the_heads_of_open_clips_configurations(name: str, heads: int, side: int, tmp_path: Path) -> None:
    """Shapes alone, which is all that a layout is read from."""
    from stillguard.engine.surrogates.open_clip_encoder import open_clip_encoder

    published = open_clip.get_model_config(name)
    with torch.device("meta"):
        network = open_clip.CLIP(published["embed_dim"], published["vision_cfg"], TEXT)
    assert network.visual.transformer.resblocks[0].attn.num_heads == heads
    encoder = open_clip_encoder(network.state_dict(), tmp_path / "model.safetensors")
    config = {key: encoder.config[key] for key in ("num_attention_heads", "image_size", "num_hidden_layers", "projection_dim")}
    assert list(config.values()) == [heads, side, len(network.visual.transformer.resblocks), published["embed_dim"]]
    assert not any("heads" in note for note in encoder.notes)


def test_a_configuration_beside_the_file_counts_before_everything(tmp_path: Path, astronaut: Tensor, told: list[str]) -> None:
    """Heads, activation and pixels; of another model it does not count."""
    network = clip(quick_gelu=True, head_width=32)
    model = {"embed_dim": 24, "quick_gelu": True, "vision_cfg": {**SMALL, "head_width": 32}, "text_cfg": TEXT}
    pixels = {"mean": [0.5, 0.4, 0.3], "std": [0.3, 0.4, 0.5]}
    path = written(network, tmp_path / "open_clip_model.safetensors", {"model_cfg": model, "preprocess_cfg": pixels})
    check(path, network, astronaut, **pixels)
    assert not told
    written(network, path, {"model_cfg": {**model, "vision_cfg": {**SMALL, "layers": 3}}})
    loaded(path)
    (note,) = told
    assert all(word in note for word in ("heads are taken to be 64", "taken for GELU", "mean and deviation"))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What stands below the node."""
    from stillguard.nodes.bridge.surrogates import clip_vision_files as image_encoders

    lines: list[str] = []
    monkeypatch.setattr(image_encoders, "show_text", lambda text, node_id: lines.append(text))
    return lines


@pytest.mark.parametrize("name", ["ViT-B-32-openai", "some-quickgelu-model", "vit_b_32-quickgelu-laion400m_e32-46683a32"])
def test_a_name_that_tells_the_activation_is_believed(name: str, tmp_path: Path, astronaut: Tensor) -> None:
    network = clip(quick_gelu=True)
    check(written(network, tmp_path / f"{name}.pt"), network, astronaut)


def test_openais_own_state_is_known_by_what_it_holds_besides(tmp_path: Path, astronaut: Tensor) -> None:
    network = clip(quick_gelu=True)
    besides = dict.fromkeys(("input_resolution", "context_length", "vocab_size"), torch.tensor(1))
    torch.save({**network.state_dict(), **besides}, tmp_path / "model.pt")
    check(tmp_path / "model.pt", network, astronaut)


def test_other_image_encoders_of_open_clip_are_refused_in_one_sentence(tmp_path: Path) -> None:
    from stillguard.engine.weights.reading import WeightsError

    for vision, found in (
        ({"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True}, "it lacks visual.ln_pre.bias"),
        ({"ls_init_value": 0.1}, "it has visual.transformer.resblocks.0.ls_1.gamma"),
        ({"attentional_pool": True, "attn_pooler_heads": 1}, "it has visual.attn_pool.attn.in_proj_bias"),
        ({"layers": [1, 1, 1, 1], "width": 8}, "it has visual.attnpool.c_proj.bias"),
    ):
        path = written(clip(**vision), tmp_path / "model.safetensors")
        with pytest.raises(WeightsError, match=rf"no plain vision transformer \({found}\): choose one such as ViT-B-32, ViT-L-14 or ViT"):
            loaded(path)


def test_files_that_are_no_image_encoder_are_one_sentence(tmp_path: Path) -> None:
    from stillguard.engine.weights.reading import WeightsError

    for ending in ("bin", "pt", "pth"):
        torch.save({"visual_projection.weight": torch.zeros(4, 4)}, tmp_path / f"encoder.{ending}")
        with pytest.raises(WeightsError, match=rf"^encoder\.{ending} holds neither a CLIP of open_clip's nor .*Load CLIP Vision\.$"):
            loaded(tmp_path / f"encoder.{ending}")
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "ViT-B-32.pt")
    with pytest.raises(WeightsError, match=r"^ViT-B-32\.pt is a TorchScript program, of which nothing was run: take the same"):
        loaded(tmp_path / "ViT-B-32.pt")
    path = written(clip(), tmp_path / "model.safetensors", {"no": "configuration"})
    with pytest.raises(WeightsError, match=r"^open_clip_config\.json beside model\.safetensors is no configuration of open_clip: down"):
        loaded(path)
