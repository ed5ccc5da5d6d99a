"""Our own networks under ComfyUI's memory management, in this process."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
from bench import animator_files
from torch import Tensor

pytestmark = pytest.mark.usefixtures("comfy")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return animator_files.animate_anyone(tmp_path_factory.mktemp("animators"))


def features(net: object, latent: Tensor) -> tuple[Tensor, ...]:
    return net(latent, 0, torch.zeros(1, 1, 32))


def test_weights_that_became_inference_tensors_can_be_differentiated_through(files: dict[str, Path]) -> None:
    """ComfyUI moves models while it runs other nodes, under inference mode, and what it moves there autograd refuses."""
    from stillguard.nodes.bridge.animators import reference_net_from
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates import Surrogates

    with torch.inference_mode():
        loaded = reference_net_from(files["reference_unet"], "auto")
        assert not any(parameter.is_inference() for parameter in loaded.net.parameters())
        # What .to(device) does to each of them.
        for part in loaded.net.modules():
            for name, parameter in list(part._parameters.items()):
                part._parameters[name] = None if parameter is None else torch.nn.Parameter(parameter.clone(), requires_grad=False)
        assert all(parameter.is_inference() for parameter in loaded.net.parameters())
        with autograd_session(), contextlib.ExitStack() as stack:
            surrogates = Surrogates()
            net = surrogates.reference_net(loaded)
            latent = torch.randn(1, 4, 16, 16).requires_grad_()
            with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
                features(net, latent)
            stack.enter_context(surrogates.resident(height=128, width=128, low_memory=False))
            sum(feature.square().mean() for feature in features(net, latent)).backward()
            assert float(latent.grad.abs().max()) > 0


def test_low_memory_switches_checkpointing_on_and_back(files: dict[str, Path]) -> None:
    from stillguard.nodes.bridge.animators import reference_net_from
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates import Surrogates

    with autograd_session():
        surrogates = Surrogates()
        net = surrogates.reference_net(reference_net_from(files["reference_unet"], "auto"))
        with surrogates.resident(height=128, width=128, low_memory=True):
            assert net.checkpointing
        assert not net.checkpointing


@pytest.mark.parametrize(("precision", "dtype"), [("auto", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_precision(files: dict[str, Path], precision: str, dtype: torch.dtype) -> None:
    from stillguard.nodes.bridge.animators import reference_net_from

    if precision == "auto" and torch.cuda.is_available():
        pytest.skip("auto is fp32 on the CPU only")
    assert {parameter.dtype for parameter in reference_net_from(files["reference_unet"], precision).net.parameters()} == {dtype}


def test_the_empty_prompts_embedding_is_the_text_encoders_last_hidden_state(tmp_path: Path) -> None:
    """Core's CLIP socket against transformers' CLIPTextModel, which the official code uses, at the real size."""
    import comfy.sd
    from safetensors.torch import save_file
    from stillguard.nodes.bridge.text import empty_prompt
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, projection_dim=768, hidden_act="quick_gelu"
    )
    torch.manual_seed(0)
    network = CLIPTextModel(config).eval()
    state = {name if name.startswith("text_model.") else f"text_model.{name}": tensor for name, tensor in network.state_dict().items()}
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "clip.safetensors")
    with torch.inference_mode():
        clip = comfy.sd.load_clip([str(tmp_path / "clip.safetensors")])
        ours = empty_prompt(clip)
        # Start of text, then the end of text to the full length.
        expected = network(torch.tensor([[49406, *[49407] * 76]])).last_hidden_state
    assert ours.shape == (1, 77, 768)
    # Core keeps text encoders in half precision.
    assert float((ours.float() - expected).abs().max()) < 2e-3 * float(expected.abs().max())
    assert empty_prompt(None) is None


@pytest.mark.parametrize("crop", [True, False])
def test_clip_vision_is_prepared_as_core_prepares_it(crop: bool, astronaut: Tensor) -> None:
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates import Surrogates
    from testkit import tiny_clip_vision

    picture = torch.nn.functional.interpolate(astronaut, size=(100, 180), mode="bilinear")
    clip_vision = tiny_clip_vision()
    expected = clip_vision.encode_image(picture.movedim(1, -1).clone(), crop=crop)["image_embeds"]
    with autograd_session():
        surrogates = Surrogates()
        view = surrogates.clip_vision(clip_vision, "crop" if crop else "squash")
        assert view is surrogates.clip_vision(clip_vision, "crop" if crop else "squash")
        with torch.no_grad():
            torch.testing.assert_close(view.embed(picture), expected)
            assert not torch.allclose(view.embed(picture), surrogates.clip_vision(clip_vision, "official").embed(picture))
