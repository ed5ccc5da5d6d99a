"""Our own networks under ComfyUI's memory management, in this process."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace

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
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.animators import reference_net_from, reference_net_view
    from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates

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
            net = reference_net_view(surrogates, loaded)
            latent = torch.randn(1, 4, 16, 16).requires_grad_()
            with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
                features(net, latent)
            stack.enter_context(surrogates.on_device(height=128, width=128, low_memory=False))
            sum(feature.square().mean() for feature in features(net, latent)).backward()
            assert float(latent.grad.abs().max()) > 0


def gradient(files: dict[str, Path], *, low_memory: bool) -> Tensor:
    """Of the frame loss and a ReferenceNet's, through the bridge's own residency."""
    from stillguard.engine import Objective, Observation, Term
    from stillguard.engine.animators.pose_animator import last_timesteps, noise_schedule
    from stillguard.engine.draws import SeededDraws
    from stillguard.engine.losses import dormant
    from stillguard.engine.losses.posed import PosedClip, ReferenceSetup
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.animators import animator_view, pose_animator_from, reference_net_from, reference_net_view
    from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates
    from support import RandomEncoder

    parts = (files["denoising_unet"], files["motion_module"], files["pose_guider"])
    loaded, loaded_animator = reference_net_from(files["reference_unet"], "fp32"), pose_animator_from(*parts, "fp32")
    generator = torch.Generator().manual_seed(0)
    clean, pose = torch.rand(1, 3, 128, 128, generator=generator), torch.rand(1, 3, 128, 128, generator=generator)
    with autograd_session():
        surrogates = Surrogates()
        setup = ReferenceSetup(reference_net_view(surrogates, loaded), RandomEncoder(), RandomEncoder(1, channels=32))
        animator = animator_view(surrogates, loaded_animator, frames=3)
        signal, timesteps = noise_schedule().alphas_cumprod, last_timesteps()
        frames = dormant.FrameIncoherence(PosedClip(animator, setup, pose, signal, timesteps, frames=3, noised=True))
        objective = Objective((Term("reference", 100.0, dormant.ReferenceFeature(setup)), Term("frames", 1.0, frames)))
        reference = Observation(clean)
        with surrogates.on_device(height=128, width=128, low_memory=low_memory):
            assert animator.checkpointing == low_memory
            for step in range(3):
                leaf = (clean + 0.01).requires_grad_()
                objective.backward(reference, Observation(leaf, draws=SeededDraws(step), low_memory=low_memory))
        assert not animator.checkpointing
        # The patchers still know their networks: a fast run follows.
        with surrogates.on_device(height=128, width=128, low_memory=False):
            animator.guide(pose)
    return leaf.grad


@pytest.mark.parametrize("in_turns", [False, True])
def test_low_memory_gives_the_same_gradient_and_leaves_everything_as_it_was(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, in_turns: bool
) -> None:
    """With turns, UNets are copied in and out as on a GPU, with the CPU in its place."""
    from stillguard.nodes.bridge.surrogates import run_surrogates as residents
    from stillguard.nodes.bridge.surrogates import turns

    fast = gradient(files, low_memory=False)
    monkeypatch.setattr(residents, "takes_turns", lambda: in_turns)
    if not in_turns:
        monkeypatch.setattr(turns, "one_at_a_time", None)  # would fail if it were called
    low = gradient(files, low_memory=True)
    assert float((low - fast).norm() / fast.norm()) < 1e-4


@pytest.mark.parametrize(("precision", "dtype"), [("auto", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_precision(files: dict[str, Path], precision: str, dtype: torch.dtype) -> None:
    from stillguard.nodes.bridge.surrogates.animators import reference_net_from

    if precision == "auto" and torch.cuda.is_available():
        pytest.skip("auto is fp32 on the CPU only")
    assert {parameter.dtype for parameter in reference_net_from(files["reference_unet"], precision).net.parameters()} == {dtype}


class Reader:
    """A loaded net, as far as it matters what it reads."""

    def __init__(self, context: str) -> None:
        self.net = SimpleNamespace(format=SimpleNamespace(context=context))


def test_the_empty_prompts_embedding_is_the_text_encoders_last_hidden_state(tmp_path: Path) -> None:
    """Core's CLIP socket against transformers' CLIPTextModel, which the official code uses, at the real size."""
    import comfy.sd
    from safetensors.torch import save_file
    from stillguard.nodes.bridge.surrogates.text import empty_prompt
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
        ours = empty_prompt(clip, [Reader("image"), Reader("text")])
        # Start of text, then the end of text to the full length.
        expected = network(torch.tensor([[49406, *[49407] * 76]])).last_hidden_state
    assert ours.shape == (1, 77, 768)
    # Core keeps text encoders in half precision.
    assert float((ours.float() - expected).abs().max()) < 2e-3 * float(expected.abs().max())
    assert empty_prompt(None, [Reader("text")]) is None
    assert empty_prompt(clip, [Reader("image")]) is None


@pytest.mark.parametrize("crop", [True, False])
def test_clip_vision_is_prepared_as_core_prepares_it(crop: bool, astronaut: Tensor) -> None:
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.clip_vision import clip_vision_view
    from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates
    from testkit import tiny_clip_vision

    picture = torch.nn.functional.interpolate(astronaut, size=(100, 180), mode="bilinear")
    clip_vision = tiny_clip_vision()
    expected = clip_vision.encode_image(picture.movedim(1, -1).clone(), crop=crop)["image_embeds"]
    with autograd_session():
        surrogates = Surrogates()
        view = clip_vision_view(surrogates, clip_vision, "crop" if crop else "squash")
        assert view is clip_vision_view(surrogates, clip_vision, "crop" if crop else "squash")
        with torch.no_grad():
            torch.testing.assert_close(view.embed(picture), expected)
            assert not torch.allclose(view.embed(picture), clip_vision_view(surrogates, clip_vision, "official").embed(picture))
