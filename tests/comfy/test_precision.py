"""Networks that people have in half precision: their gradients, and what is done where half precision does not do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from bench import animator_files
from safetensors.torch import load_file
from stillguard.engine import RGB, Objective, Observation, Sign, Term
from stillguard.engine.draws import SeededDraws
from stillguard.engine.surrogates.tiny_autoencoder import SHIPPED
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from video_models import Loaded, in_dtype, load, randn

if TYPE_CHECKING:
    import comfy.sd

SIDE = 64
CASTS = ("aten::_to_copy", "aten::detach", "aten::clone", "aten::view", "aten::alias", "aten::copy_")


@pytest.fixture(scope="module")
def folder(comfy: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("precision")


@pytest.fixture
def photo(astronaut: Tensor) -> Tensor:
    return astronaut[..., 40 : 40 + SIDE, 80 : 80 + SIDE]


@pytest.fixture
def half_on_this_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: kernels of the CPU compute in half precision too, only slowly."""
    import comfy.model_management
    from stillguard.nodes.bridge.memory import precision

    monkeypatch.setattr(precision, "gradient_dtype", lambda device: torch.float16)
    monkeypatch.setattr(comfy.model_management, "unet_manual_cast", lambda *_, **__: None)


def gradients(loaded: Loaded, photo: Tensor) -> dict[str, Tensor]:
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates
    from stillguard.nodes.losses.i2vguard import contrastive_frames, temporal_attention

    spec = loaded.spec(side=SIDE)
    found = {}
    with autograd_session():
        surrogates = Surrogates()
        built = {
            s.name: s.make(surrogates) for s in (contrastive_frames(1.0, spec, torch.zeros(1, 8, 8, 3)), temporal_attention(1.0, spec))
        }
        with surrogates.on_device(height=SIDE, width=SIDE, low_memory=False):
            clean = Observation(photo.clone())
            for name, loss in built.items():
                leaf = (photo + 0.02 * randn(*photo.shape, seed=4)).clamp(0.01, 0.99).requires_grad_()
                with surrogates.step():
                    # As a mean over a video of real size makes it.
                    Objective((Term(name, 1e-3, loss),)).backward(clean, Observation(leaf, draws=SeededDraws(5)))
                found[name] = leaf.grad
    return found


@pytest.mark.parametrize("family", [pytest.param("SVD", marks=pytest.mark.slow), "Wan"])
@pytest.mark.usefixtures("half_on_this_device")
def test_a_video_model_in_half_precision_keeps_its_gradient(folder: Path, photo: Tensor, family: str) -> None:
    loaded = load(family, folder)
    exact, half = gradients(loaded, photo), gradients(in_dtype(loaded, torch.float16), photo)
    for name, gradient in exact.items():
        agreement = float((half[name].sign() == gradient.sign()).float().mean())
        cosine = float(torch.nn.functional.cosine_similarity(half[name].flatten(), gradient.flatten(), dim=0))
        assert (agreement, cosine) > (0.9, 0.98), (name, agreement, cosine)


def shipped_vae(dtype: torch.dtype = torch.float32) -> comfy.sd.VAE:
    """The laboratory's, as core has it where it prefers that dtype."""
    import comfy.sd

    with torch.inference_mode():
        return comfy.sd.VAE(sd=load_file(SHIPPED), dtype=dtype)


@pytest.mark.parametrize("own", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("fast", [True, False])
def test_copies_of_a_vae_never_compute_in_bf16(
    folder: Path, photo: Tensor, own: torch.dtype, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In fp16 where the device is fast with it, else in fp32; and what they encode is what core encodes, to that rounding."""
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.memory import precision
    from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates
    from stillguard.nodes.bridge.surrogates.vae import vae_view

    if fast:
        monkeypatch.setattr(precision, "gradient_dtype", lambda device: torch.float16)
    vae = shipped_vae(own)
    with torch.inference_mode():
        expected = vae.encode(photo.movedim(1, -1).clone()).float()
    with autograd_session():
        surrogates = Surrogates()
        view = vae_view(surrogates, vae)
        with surrogates.on_device(height=SIDE, width=SIDE, low_memory=False), torch.no_grad():
            found = view.encode(photo)
    dtypes = {parameter.dtype for parameter in view.patcher.model.parameters()}
    assert dtypes == {torch.float16 if fast and own != torch.float32 else torch.float32}
    assert vae.vae_dtype == own
    assert float((found - expected).norm() / expected.norm()) < (1e-6 if own == torch.float32 else 0.02)


@pytest.mark.parametrize("flag", ["force_fp16", "bf16_vae", "fp16_vae", "bf16_unet", "fp16_unet"])
def test_nothing_computes_in_half_precision_on_a_cpu(folder: Path, photo: Tensor, flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever core is told: without matrix units for it, it is ten times slower and worse."""
    import comfy.cli_args
    import comfy.model_management
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.memory.precision import working_dtype
    from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates
    from stillguard.nodes.bridge.video.model import video_setup

    if comfy.model_management.get_torch_device().type != "cpu":
        pytest.skip("on the CPU only")
    monkeypatch.setattr(comfy.cli_args.args, flag, True)
    spec = in_dtype(load("Wan", folder), torch.bfloat16 if flag.startswith("bf16") else torch.float16).spec(side=SIDE)
    assert working_dtype("auto") == torch.float32
    halves: set[str] = set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor) and out.dtype in (torch.float16, torch.bfloat16) and func.name() not in CASTS:
                halves.add(func.name())
            return out

    with autograd_session():
        surrogates = Surrogates()
        model = video_setup(surrogates, spec).model
        with surrogates.on_device(height=SIDE, width=SIDE, low_memory=False), Watch(), torch.no_grad():
            noisy = torch.zeros(model.conditioner.shape(SIDE, SIDE))
            assert all(bool(torch.isfinite(tensor).all()) for tensor in model.estimate(noisy, 0.5, model.condition(photo)))
    assert not halves


def test_a_vae_that_half_precision_breaks_is_run_in_fp32_and_the_page_says_so(
    folder: Path, photo: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the VAE of SDXL is, whose numbers do not fit. The result is that of fp32."""
    said = run_with_text(monkeypatch)
    exact = protect(photo, shipped_vae(), [])
    assert not any("fp32" in text for text in said)
    from stillguard.nodes.bridge.memory import precision
    from stillguard.nodes.bridge.surrogates import vae as views

    monkeypatch.setattr(precision, "gradient_dtype", lambda device: torch.float16)
    cast = views.cast

    def enlarged(network: torch.nn.Module, own: torch.dtype, dtype: torch.dtype) -> None:
        cast(network, own, dtype)
        if dtype == torch.float16:
            network.taesd_encoder[0].weight.data.mul_(60000)

    monkeypatch.setattr(views, "cast", enlarged)
    found = protect(photo, shipped_vae(torch.bfloat16), said)
    assert "The VAE gives numbers that are not finite in half precision" in said[-1]
    # Of weights that were rounded to bf16.
    assert float((found != exact).float().mean()) < 0.2


@pytest.mark.usefixtures("half_on_this_device")
def test_networks_of_loaders_and_video_models_have_a_way_back_to_fp32(folder: Path, photo: Tensor) -> None:
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.animators import animator_view, pose_animator_from, reference_net_from, reference_net_view
    from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates
    from stillguard.nodes.bridge.video.model import video_setup

    files = animator_files.animate_anyone(folder)
    net = reference_net_from(files["reference_unet"], "auto")
    animator = pose_animator_from(files["denoising_unet"], files["motion_module"], files["pose_guider"], "auto")
    spec = in_dtype(load("Wan", folder), torch.float16).spec(side=SIDE)
    with autograd_session():
        first = Surrogates()
        views = [reference_net_view(first, net), animator_view(first, animator, frames=2), video_setup(first, spec).model]
        assert [next(view.unet.parameters()).dtype for view in views[:2]] == [torch.float16] * 2
        assert views[2].denoiser.model.get_dtype_inference() == torch.float16
        single = Surrogates([first.key_of(view)[0] for view in (*views[:2], views[2].denoiser)])
        again = [reference_net_view(single, net), animator_view(single, animator, frames=2), video_setup(single, spec).model]
        assert [next(view.unet.parameters()).dtype for view in again[:2]] == [torch.float32] * 2
        with single.on_device(height=SIDE, width=SIDE, low_memory=False), torch.no_grad():
            noisy = torch.zeros(again[2].conditioner.shape(SIDE, SIDE))
            again[2].denoiser.network.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
            dtypes: list[torch.dtype] = []
            again[2].estimate(noisy, 0.5, again[2].condition(photo))
    assert dtypes == [torch.float32]
    # The user's own stay as they are.
    assert next(net.net.parameters()).dtype == torch.float16


def run_with_text(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    from stillguard.nodes.bridge import progress

    said: list[str] = []
    monkeypatch.setattr(progress, "show_text", lambda text, *, node_id: said.append(text))
    return said


def protect(photo: Tensor, vae: comfy.sd.VAE, said: list[str]) -> Tensor:
    from stillguard.nodes.bridge.protect.run import Settings, protect_images, space_spec
    from stillguard.nodes.losses.i2vguard import target_latent

    settings = Settings(space_spec(RGB(8.0)), Sign(1.0), None, SIDE, 3, 1, low_memory=False)
    losses = (target_latent(1.0, vae, torch.zeros(1, 8, 8, 3)),)
    with torch.inference_mode():
        return protect_images(photo.movedim(1, -1), losses, settings, mask=None, node_id="1")[0]
