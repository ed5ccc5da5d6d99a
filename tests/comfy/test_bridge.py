"""The differentiable views against core's own results, in this process."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from stillguard.engine.surrogates.tiny_autoencoder import SHIPPED
from torch import Tensor

if TYPE_CHECKING:
    import comfy.sd

pytestmark = pytest.mark.usefixtures("comfy")


def shipped_vae(tmp_path: Path) -> comfy.sd.VAE:
    """Through core's loader node, which remembers the file and can reload it."""
    import folder_paths

    import nodes

    folder_paths.add_model_folder_path("vae", str(SHIPPED.parent))
    return nodes.VAELoader().load_vae(SHIPPED.name)[0]


def pair_vae(tmp_path: Path) -> comfy.sd.VAE:
    """From two files, as core composes TAESD pairs: it cannot be reloaded and has to be copied."""
    import comfy.sd
    from safetensors.torch import load_file

    return comfy.sd.VAE(sd=load_file(SHIPPED))


def _random(module: torch.nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def fill(key: str, value: Tensor) -> Tensor:
        if value.ndim > 1:
            return torch.randn(value.shape, generator=generator) * value[0].numel() ** -0.5
        return torch.ones(value.shape) if key.endswith(("weight", "gamma")) else torch.zeros(value.shape)

    return {key: fill(key, value) for key, value in module.state_dict().items()}


def stable_diffusion_vae(tmp_path: Path) -> comfy.sd.VAE:
    """The real architecture of the SD 1.5 VAE with random weights."""
    import comfy.sd
    from comfy.ldm.models.autoencoder import AutoencoderKL

    ddconfig = {"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128, "num_res_blocks": 2}
    network = AutoencoderKL(ddconfig={**ddconfig, "ch_mult": [1, 2, 4, 4], "attn_resolutions": [], "dropout": 0.0}, embed_dim=4)
    return comfy.sd.VAE(sd=_random(network))


def wan_vae(tmp_path: Path) -> comfy.sd.VAE:
    """A video VAE (latents with a time axis) at a small width."""
    import comfy.sd
    from comfy.ldm.wan.vae import WanVAE

    shape = {"dim": 4, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": []}
    network = WanVAE(**shape, temperal_downsample=[False, True, True], image_channels=3, conv_out_channels=3, dropout=0.0)
    return comfy.sd.VAE(sd=_random(network))


KINDS = [shipped_vae, pair_vae, stable_diffusion_vae, wan_vae]


@pytest.fixture
def image(astronaut: Tensor) -> Tensor:
    return astronaut[..., 96:160, 64:160]


def directional_error(function: object, image: Tensor) -> float:
    """Relative difference of the gradient's slope along itself from a central finite difference."""
    leaf = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(leaf), leaf)
    direction, h = gradient / gradient.abs().max(), 1e-5
    with torch.no_grad():
        slope = (function(image + h * direction).double() - function(image - h * direction).double()) / (2 * h)
    return float(abs((gradient * direction).sum() - slope) / abs(slope))


@pytest.mark.parametrize("kind", KINDS)
def test_vae_equals_core_bit_for_bit_and_has_its_gradient(kind: object, image: Tensor, tmp_path: Path) -> None:
    """And the cached VAE keeps its own tensors and results."""
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates
    from stillguard.nodes.bridge.surrogates.vae import vae_view

    with torch.inference_mode():
        vae = kind(tmp_path)
        held = dict(vae.first_stage_model.named_parameters())
        expected = vae.encode(image.movedim(1, -1).clone())
        with autograd_session(), contextlib.ExitStack() as stack:
            surrogates = Surrogates()
            view = vae_view(surrogates, vae)
            stack.enter_context(surrogates.on_device(height=64, width=96, low_memory=False))
            assert torch.equal(view.encode(image.clone()), expected)
            target = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
            theirs = {parameter.data_ptr() for parameter in view.patcher.model.parameters()}
            # In double precision, since random networks are too curved for differences that float32 can resolve.
            view.patcher.model.double()
            view.dtype = torch.float64
            assert directional_error(lambda x: (view.encode(x) * target).sum(), image.double()) < 0.001
        assert torch.equal(vae.encode(image.movedim(1, -1).clone()), expected)
        for name, parameter in vae.first_stage_model.named_parameters():
            assert parameter is held[name]
            assert parameter.data_ptr() not in theirs


def test_one_view_per_socket_however_many_losses_use_it(tmp_path: Path) -> None:
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates
    from stillguard.nodes.bridge.surrogates.vae import vae_view

    with torch.inference_mode():
        vae = shipped_vae(tmp_path)
        with autograd_session():
            surrogates = Surrogates()
            assert vae_view(surrogates, vae) is vae_view(surrogates, vae)
            assert surrogates.multiple == 8


@pytest.mark.parametrize("size", [(224, 224), (100, 180)])
def test_clip_vision_equals_core_and_has_a_gradient(size: tuple[int, int], astronaut: Tensor) -> None:
    """Core's own encode_image rounds to 8 bits, so its gradient is exactly zero."""
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.clip_vision import clip_vision_view
    from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates
    from testkit import tiny_clip_vision

    picture = torch.nn.functional.interpolate(astronaut, size=size, mode="bilinear")
    with torch.inference_mode():
        clip_vision = tiny_clip_vision()
        expected = clip_vision.encode_image(picture.movedim(1, -1).clone())["image_embeds"]
        with autograd_session(), contextlib.ExitStack() as stack:
            surrogates = Surrogates()
            view = clip_vision_view(surrogates, clip_vision)
            stack.enter_context(surrogates.on_device(height=64, width=64, low_memory=False))
            torch.testing.assert_close(view.embed(picture.clone()), expected, rtol=1e-5, atol=1e-6)
            leaf = picture.clone().requires_grad_()
            target = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0))
            loss = (view.embed(leaf) * target).sum()
            (gradient,) = torch.autograd.grad(loss, leaf)
            # Rounding makes small differences meaningless; over 4 levels along the gradient the loss must grow as predicted.
            step = gradient * (4 / 255 / gradient.abs().max())
            with torch.no_grad():
                grown = ((view.embed((picture + step)) - view.embed(picture - step)) * target).sum() / 2
            assert float(grown) == pytest.approx(float((gradient * step).sum()), rel=0.1)
        again = clip_vision.encode_image(picture.movedim(1, -1).clone())["image_embeds"]
        assert torch.equal(again, expected)


def test_session_restores_everything_even_when_cancelled(astronaut: Tensor) -> None:
    import comfy.model_management as management
    from stillguard.nodes.bridge.autograd import autograd_session

    with torch.inference_mode():

        def cancelled() -> None:
            with autograd_session():
                assert management.in_training
                assert torch.is_grad_enabled()
                assert not torch.is_inference_mode_enabled()
                raise management.InterruptProcessingException

        with pytest.raises(management.InterruptProcessingException):
            cancelled()
        assert not management.in_training
        assert torch.is_inference_mode_enabled()
        assert not torch.is_grad_enabled()


def test_siglip2_is_refused_by_name() -> None:
    from stillguard.nodes.bridge.surrogates.clip_vision import DifferentiableCLIPVision

    class SigLIP2:
        model_type = "siglip2_vision_model"

    with pytest.raises(ValueError, match="SigLIP 2"):
        DifferentiableCLIPVision(SigLIP2())


@pytest.fixture
def dynamic_vram(monkeypatch: pytest.MonkeyPatch) -> None:
    """What core's loaders do on an NVIDIA card: weights keep the dtype of their file and are cast to another at each use."""
    import comfy.model_management
    import comfy.model_patcher

    class Dynamic(comfy.model_patcher.ModelPatcher):
        def is_dynamic(self) -> bool:
            return True

    monkeypatch.setattr(comfy.model_patcher, "CoreModelPatcher", Dynamic)
    monkeypatch.setattr(comfy.model_management, "vae_dtype", lambda *_: torch.bfloat16)


@pytest.mark.usefixtures("dynamic_vram")
@pytest.mark.parametrize("kind", [shipped_vae, pair_vae])
def test_a_dynamic_vaes_copy_has_the_dtype_that_its_gradient_needs(kind: object, image: Tensor, tmp_path: Path) -> None:
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates
    from stillguard.nodes.bridge.surrogates.vae import vae_view

    with torch.inference_mode():
        vae = kind(tmp_path)
        assert vae.vae_dtype == torch.bfloat16
        assert {parameter.dtype for parameter in vae.first_stage_model.parameters()} == {torch.float16}
        with autograd_session(), contextlib.ExitStack() as stack:
            surrogates = Surrogates()
            view = vae_view(surrogates, vae)
            stack.enter_context(surrogates.on_device(height=64, width=96, low_memory=False))
            assert not view.patcher.is_dynamic()
            assert {parameter.dtype for parameter in view.patcher.model.parameters()} == {torch.float32}
            leaf = image.clone().requires_grad_()
            view.encode(leaf).square().sum().backward()
            assert float(leaf.grad.abs().max()) > 0


def test_a_vae_in_half_precision_keeps_its_gradient(image: Tensor, tmp_path: Path) -> None:
    """A mean over many elements gives gradients below what fp16 can hold."""
    from stillguard.nodes.bridge.surrogates.vae import DifferentiableVAE

    vae = pair_vae(tmp_path)
    view = DifferentiableVAE(vae)
    view.dtype = torch.float16
    view.patcher.model.half()

    def gradient(encode: object, weight: float = 1e-9) -> Tensor:
        leaf = image.clone().requires_grad_()
        (encode(leaf) * weight).sum().backward()
        return leaf.grad.flatten() / weight

    large = gradient(view._encode, weight=2.0**-3)  # the same network where nothing is lost
    scaled = gradient(view.encode)
    assert float(gradient(view._encode).norm()) < 0.1 * float(large.norm())
    assert float(torch.cosine_similarity(scaled, large, dim=0)) > 0.999
    assert float(scaled.norm() / large.norm()) == pytest.approx(1, abs=0.01)
