"""The purifiers on core's own models: equal to what core's nodes or the engine give, in this process; and all of them in the server.

The networks are random or, for Impress, trained; what purifying is worth is measured in benchmarks/purifiers.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch
from bench.client import Client
from stillguard.engine.surrogates.tiny_autoencoder import SHIPPED
from support import Graph, node
from torch import Tensor

if TYPE_CHECKING:
    import comfy.sd

pytestmark = pytest.mark.usefixtures("comfy")


def shipped_vae() -> comfy.sd.VAE:
    """Through core's loader node, which remembers the file and can reload it."""
    import folder_paths

    import nodes

    folder_paths.add_model_folder_path("vae", str(SHIPPED.parent))
    return nodes.VAELoader().load_vae(SHIPPED.name)[0]


def pair_vae() -> comfy.sd.VAE:
    """As core composes TAESD pairs: it cannot be reloaded and has to be copied."""
    import comfy.sd
    from safetensors.torch import load_file

    return comfy.sd.VAE(sd=load_file(SHIPPED))


def stable_diffusion_vae() -> comfy.sd.VAE:
    """The architecture of Stable Diffusion's VAEs with random weights."""
    from testkit import fourfold_vae

    return fourfold_vae()


def wan_vae() -> comfy.sd.VAE:
    """A video VAE (latents with a time axis) at a small width."""
    import comfy.sd
    from comfy.ldm.wan.vae import WanVAE
    from testkit import random_state

    shape = {"dim": 4, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": []}
    network = WanVAE(**shape, temperal_downsample=[False, True, True], image_channels=3, conv_out_channels=3, dropout=0.0)
    return comfy.sd.VAE(sd=random_state(network, seed=0))


def directional_error(function: Callable[[Tensor], Tensor], at: Tensor) -> float:
    """Relative difference of the gradient's slope along itself from a central finite difference."""
    leaf = at.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(leaf), leaf)
    step = 1e-5 * gradient / gradient.abs().max()
    with torch.no_grad():
        grown = (function(at + step) - function(at - step)) / 2
    return float(abs((gradient * step).sum() - grown) / abs(grown))


@pytest.fixture
def image(astronaut: Tensor) -> Tensor:
    """IMAGE [1,70,52,3]: sides that are no multiples of 8."""
    return astronaut[..., 20:90, 90:142].movedim(1, -1).contiguous()


def prompt() -> list[list[object]]:
    return [[torch.randn(1, 7, 16, generator=torch.Generator().manual_seed(0)), {}]]


@pytest.fixture
def inference() -> Iterator[None]:
    """As ComfyUI runs its nodes."""
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("kind", [shipped_vae, pair_vae, stable_diffusion_vae])
@pytest.mark.usefixtures("inference")
def test_decoding_equals_core_bit_for_bit_and_has_its_gradient(kind: Callable[[], comfy.sd.VAE], image: Tensor) -> None:
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates
    from stillguard.nodes.bridge.surrogates.vae import vae_view

    vae = kind()
    latent = vae.encode(image[:, :32, :24].clone())
    expected = vae.decode(latent.clone())
    held = dict(vae.first_stage_model.named_parameters())
    with autograd_session(), contextlib.ExitStack() as stack:
        surrogates = Surrogates()
        view = vae_view(surrogates, vae)
        stack.enter_context(surrogates.on_device(height=32, width=24, low_memory=False))
        ordinary = latent.clone()
        assert torch.equal(view.decode(ordinary).movedim(1, -1), expected)
        target = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).movedim(-1, 1).double()
        view.patcher.model.double()
        view.dtype = torch.float64
        # Away from the clamp, whose corner a finite difference would step over.
        inside = 0.2 * ordinary.double()
        assert directional_error(lambda z: (view.decode(z) * target).sum(), inside) < 0.02
    assert torch.equal(vae.decode(latent.clone()), expected)
    assert all(parameter is held[name] for name, parameter in vae.first_stage_model.named_parameters())


@pytest.fixture
def impress(vgg_file: Path) -> Callable[..., Tensor]:
    from stillguard.nodes.bridge.attack.purify_impress import ImpressSettings, impress_images

    def run(image: Tensor, vae: comfy.sd.VAE, *, seed: int = 0, low_memory: bool = False) -> Tensor:
        settings = ImpressSettings(3, 0.01, 0.1, 0.1, 0.1, low_memory=low_memory)
        return impress_images(image, vae, vgg_file, settings, seed=seed, node_id=None)

    return run


@pytest.mark.usefixtures("inference")
def test_impress_gives_each_picture_of_a_batch_what_it_would_get_alone(impress: Callable[..., Tensor], image: Tensor) -> None:
    """Of any size, with its transparency, with the seed counted on; and low memory changes nothing."""
    vae = shipped_vae()
    weights = {name: parameter.clone() for name, parameter in vae.first_stage_model.named_parameters()}
    batch = torch.cat([image, image.flip(2)])
    given = torch.cat([batch, torch.rand(2, 70, 52, 1)], dim=-1)
    before = given.clone()
    both = impress(given, vae, seed=5)
    assert both.shape == given.shape
    assert torch.equal(both[..., 3], given[..., 3])
    assert not torch.equal(both[..., :3], given[..., :3])
    assert torch.equal(impress(batch[1:], vae, seed=6), both[1:, ..., :3])
    torch.testing.assert_close(impress(image, vae, seed=5, low_memory=True), both[:1, ..., :3], rtol=0, atol=1e-5)
    assert torch.equal(given, before)
    assert all(torch.equal(weights[name], parameter) for name, parameter in vae.first_stage_model.named_parameters())


@pytest.mark.usefixtures("inference")
def test_impress_refuses_a_vae_of_videos(impress: Callable[..., Tensor], image: Tensor) -> None:
    with pytest.raises(ValueError, match="one of videos"):
        impress(image, wan_vae())


@pytest.mark.usefixtures("inference")
def test_a_cancelled_run_raises_cores_interruption(impress: Callable[..., Tensor], image: Tensor) -> None:
    import comfy.model_management as management

    vae, before = shipped_vae(), image.clone()
    management.interrupt_current_processing()
    with pytest.raises(management.InterruptProcessingException):
        impress(image, vae)
    assert not management.in_training
    assert torch.is_inference_mode_enabled()
    assert torch.equal(image, before)


def latent_form() -> object:
    from stillguard.nodes.bridge.attack.purify_diffusion import LatentForm
    from testkit import tiny_image_model

    return LatentForm(tiny_image_model("sd15"), shipped_vae(), prompt())


@pytest.mark.usefixtures("inference")
def test_diffpure_in_latents_is_cores_img2img(image: Tensor) -> None:
    """KSampler with an ancestral sampler, denoise 0.15 and no guidance, between VAE Encode and VAE Decode."""
    from stillguard.nodes.bridge.attack.purify_diffusion import diffpure_images

    import nodes

    form = latent_form()
    picture = image.repeat(1, 2, 2, 1)[:, :128, :96]
    purified = diffpure_images(picture, form, timesteps=150, steps=4, seed=7, node_id=None)
    latent = {"samples": form.vae.encode(picture)}
    (sampled,) = nodes.common_ksampler(form.model, 7, 4, 1.0, "euler_ancestral", "normal", prompt(), prompt(), latent, denoise=0.15)
    assert torch.equal(purified, form.vae.decode(sampled["samples"]).clamp(0, 1))
    assert not torch.equal(purified, diffpure_images(picture, form, timesteps=150, steps=4, seed=8, node_id=None))


@pytest.mark.usefixtures("inference")
def test_ddspure_in_latents_is_one_estimate_of_the_model(image: Tensor) -> None:
    """With noise of the strength that 22/255 has in the original's schedule: step 23 of a thousand."""
    import comfy.model_management
    import comfy.sample
    from stillguard.engine.purify.diffusion import timesteps_for
    from stillguard.nodes.bridge.attack.purify_diffusion import dds_images

    form = latent_form()
    picture = image.repeat(1, 2, 2, 1)[:, :128, :96]
    purified = dds_images(picture, form, radius=11, seed=7, node_id=None)
    comfy.model_management.load_models_gpu([form.model])
    latent = form.model.model.process_latent_in(form.vae.encode(picture))
    sigma = form.model.get_model_object("model_sampling").sigma(torch.tensor(timesteps_for(22 / 255) * 0.999)).view(1)
    noisy = latent + sigma * comfy.sample.prepare_noise(latent, 7)
    estimate = form.model.model.apply_model(noisy, sigma, c_crossattn=prompt()[0][0])
    expected = form.vae.decode(form.model.model.process_latent_out(estimate)).clamp(0, 1)
    torch.testing.assert_close(purified, expected, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("inference")
def test_gridpure_in_latents_purifies_windows_with_noise_of_their_own(image: Tensor) -> None:
    """One light iteration without blending over a picture of one window: its window and, once more, its corners."""
    from stillguard.nodes.bridge.attack.purify_diffusion import GridSettings, gridpure_images

    form, counted = latent_form(), SimpleNamespace(count=lambda: None)
    picture = image.movedim(-1, 1).repeat(1, 1, 2, 3)[..., :128, :128].contiguous()
    settings = GridSettings(timesteps=50, steps=2, iterations=1, gamma=0.0, window=128)
    purified = gridpure_images(picture.movedim(1, -1), form, settings, seed=3, node_id=None)
    encoded, sigmas = form.encoded(picture), form.descent(50, 2)
    parts = [form.sampled(encoded, sigmas, "euler_ancestral", seed=seed, calls=counted) for seed in (3, 5)]
    expected = form.decoded(sum(parts) / 2, picture).movedim(1, -1).clamp(0, 1)
    torch.testing.assert_close(purified, expected, rtol=0, atol=1e-5)
    larger = gridpure_images(torch.rand(1, 150, 129, 3), form, settings, seed=3, node_id=None)
    assert tuple(larger.shape) == (1, 150, 129, 3)


class PixelDenoiser(torch.nn.Module):
    """In ADM's place, which takes seconds a call at its 256 pixels: noise and variance from a single convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 6, 3, padding=1)
        self.steps: list[int] = []

    def forward(self, noisy: Tensor, timestep: Tensor) -> Tensor:
        assert tuple(noisy.shape) == (1, 3, 256, 256)
        self.steps.append(int(timestep))
        return self.conv(noisy).tanh()


@pytest.mark.usefixtures("inference")
def test_with_adm_the_original_chain_runs_in_pixels(astronaut: Tensor) -> None:
    """A picture of its size whole, others in windows; and it is chosen where a model is connected too."""
    from comfy.model_patcher import ModelPatcher
    from stillguard.engine.purify.diffusion import dds_one_shot, diffpure, timesteps_for
    from stillguard.nodes.bridge.attack.purify_diffusion import GridSettings, dds_images, diffpure_images, diffusion_form, gridpure_images

    torch.manual_seed(0)
    network = PixelDenoiser().requires_grad_(False)
    patcher = ModelPatcher(network, torch.device("cpu"), torch.device("cpu"))
    form = diffusion_form(None, None, None, None, SimpleNamespace(network=network, patcher=patcher, memory_required=lambda *_: 0.0))
    picture, settings = astronaut.movedim(1, -1), {"seed": 4, "node_id": None}
    purified = diffpure_images(picture, form, timesteps=3, steps=1, **settings)
    assert network.steps == [2, 1, 0]
    *_, last = diffpure(astronaut, network, timesteps=3, seed=4)
    torch.testing.assert_close(purified, last.image.movedim(1, -1).clamp(0, 1), rtol=0, atol=1e-6)
    once = dds_images(picture, form, radius=11, **settings)
    expected = dds_one_shot(astronaut, network, timesteps=timesteps_for(22 / 255), seed=4)
    torch.testing.assert_close(once, expected.movedim(1, -1).clamp(0, 1), rtol=0, atol=1e-6)
    network.steps.clear()
    grid = GridSettings(timesteps=2, steps=1, iterations=2, gamma=0.1, window=512)
    assert tuple(gridpure_images(torch.rand(1, 300, 260, 3), form, grid, **settings).shape) == (1, 300, 260, 3)
    assert network.steps == [1, 0] * 2 * (4 + 1)


def upscaler(**changed: object) -> object:
    from stillguard.nodes.bridge.attack.purify_upscale import X4Upscaler
    from testkit import fourfold_vae, tiny_image_model

    made = {"model": tiny_image_model("x4"), "vae": fourfold_vae(), "positive": prompt(), "negative": prompt()}
    return X4Upscaler(**{**made, "noise_level": 320, "steps": 2, "guidance": 9.0, **changed})


@pytest.mark.usefixtures("inference")
def test_noisy_upscaling_is_cores_x4_upscaling_of_a_noisy_picture(image: Tensor) -> None:
    from comfy_extras.nodes_sdupscale import SD_4XUpscale_Conditioning
    from stillguard.engine.transforms import GaussianNoise
    from stillguard.nodes.bridge.attack.purify_upscale import noisy_upscaling_images

    import nodes

    x4, picture = upscaler(), image[:, :24, :16]
    settings = {"sigma": 0.1, "longest": 512, "seed": 11, "node_id": None}
    enlarged = noisy_upscaling_images(picture, x4, enlarge=True, **settings)
    noisy = GaussianNoise(0.1, 11)(picture.movedim(-1, 1)).movedim(1, -1)
    positive, negative, latent = SD_4XUpscale_Conditioning.execute(noisy, prompt(), prompt(), 4.0, 320 / 350).args
    (sampled,) = nodes.common_ksampler(x4.model, 11, 2, 9.0, "ddim", "ddim_uniform", positive, negative, latent)
    assert tuple(enlarged.shape) == (1, 96, 64, 3)
    assert torch.equal(enlarged, x4.vae.decode(sampled["samples"]).clamp(0, 1))
    assert noisy_upscaling_images(picture, x4, enlarge=False, **settings).shape == picture.shape


@pytest.mark.usefixtures("inference")
def test_diffshortcut_reduces_restores_and_returns_the_pictures_size(image: Tensor) -> None:
    """A face restorer is shown the whole picture as a square of 512; CodeFormer's reads -1 to 1 and gives two results."""
    from comfy.model_patcher import ModelPatcher
    from stillguard.nodes.bridge.attack.purify_upscale import diffshortcut_images, restored

    class Network(torch.nn.Module):
        seen: Tensor

        def forward(self, x: Tensor) -> tuple[Tensor, None]:
            self.seen = x
            return -x, None

    network = Network()
    patcher = ModelPatcher(network, torch.device("cpu"), torch.device("cpu"))
    codeformer = SimpleNamespace(purpose="FaceSR", scale=1, patcher=patcher, model=network, architecture=SimpleNamespace(id="CodeFormer"))
    negative = restored(image.movedim(-1, 1), codeformer)
    assert tuple(network.seen.shape) == (1, 3, 512, 512)
    assert float(network.seen.min()) < -0.5
    torch.testing.assert_close(negative, (1 - network.seen) / 2, rtol=0, atol=1e-6)
    purified = diffshortcut_images(image, upscaler(), codeformer, side=16, seed=1, node_id=None)
    assert purified.shape == image.shape
    assert not torch.equal(purified, diffshortcut_images(image, upscaler(), None, side=16, seed=1, node_id=None))


@pytest.mark.usefixtures("inference")
def test_what_is_missing_or_wrong_is_said_in_a_sentence(image: Tensor) -> None:
    from stillguard.nodes.bridge.attack.purify_diffusion import LatentForm, diffpure_images, diffusion_form
    from testkit import tiny_image_model

    sd, x4, vae = tiny_image_model("sd15"), tiny_image_model("x4"), shipped_vae()
    for sockets, message in (
        ((None, vae, None, prompt(), None), "connect a `model` with its `vae`, or `adm`"),
        ((sd, None, None, prompt(), None), "connect a `model` with its `vae`, or `adm`"),
        ((sd, vae, None, None, None), "needs a prompt"),
        ((x4, vae, None, prompt(), None), "is an upscaler"),
    ):
        with pytest.raises(ValueError, match=message):
            diffusion_form(*sockets)
    with pytest.raises(ValueError, match="not the Stable Diffusion x4 upscaler"):
        upscaler(model=sd)
    with pytest.raises(ValueError, match="connect the VAE of the upscaler's checkpoint"):
        upscaler(vae=vae)
    with pytest.raises(ValueError, match="16 channels and the model reads 4"):
        diffpure_images(image, LatentForm(sd, wan_vae(), prompt()), timesteps=50, steps=1, seed=0, node_id=None)


def test_all_purifiers_in_the_server(client: Client) -> None:
    purified = {
        "impress": node(
            "StillguardPurifyImpress",
            **{"vae": ["vae", 0], "lpips_backbone": "lpips_vgg16.safetensors", "iterations": 2, "learning_rate": 0.01, "alpha": 0.1},
            # As workflows say it that were saved when "low memory" had another name here.
            **{"threshold": 0.1, "start_noise": 0.1, "memory": "low"},
        ),
        "diffpure": node("StillguardPurifyDiffPure", timesteps=150, steps=2),
        "ddspure": node("StillguardPurifyDDSPure", radius=11.0),
        "gridpure": node("StillguardPurifyGrIDPure", timesteps=50, iterations=2, gamma=0.1, steps=1, window=128),
        "diffshortcut": node("StillguardPurifyDiffShortcut", noise_level=20, reduced_size=16),
        "noisy": node("StillguardPurifyNoisyUpscaling", noise_level=320, sigma=0.1, working_size=32, output_size="of the picture"),
    }
    latent = {"model": ["sd", 0], "vae": ["vae", 0], "positive": ["prompt", 0]}
    x4 = {"model": ["x4", 0], "vae": ["x4 vae", 0], "positive": ["prompt", 0], "negative": ["prompt", 0], "steps": 2, "guidance": 9.0}
    for name, entry in purified.items():
        more = {} if name == "impress" else latent if "pure" in name else x4
        entry["inputs"] |= {"image": ["small", 0], "seed": 2**64 - 1, **more}
    graph: Graph = {
        "load": node("LoadImage", image="astronaut.png"),
        "small": node("ImageScale", image=["load", 0], upscale_method="area", width=60, height=76, crop="disabled"),
        "vae": node("VAELoader", vae_name="stillguard_lab_vae.safetensors"),
        "prompt": node("TestkitTinyConditioning"),
        "sd": node("TestkitTinyImageModel", kind="sd15"),
        "x4": node("TestkitTinyImageModel", kind="x4"),
        "x4 vae": node("TestkitFourfoldVAE"),
        **purified,
        **{f"save {name}": node("SaveImage", images=[name, 0], filename_prefix=f"test/{name}") for name in purified},
    }
    result = client.run(graph)
    assert result.status == "success", result.error
    for name in purified:
        assert result.outputs[f"save {name}"]["images"]
        steps = [event.data["value"] / event.data["max"] for event in result.of("progress") if event.data["node"] == name]
        assert steps, name
        assert steps[-1] == 1, name
