"""What a run takes of its device, asked before it starts, against the count of the real run; and what the user is told of it."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from bench import animator_files, weights
from stillguard.engine import Objective, Observation, Term
from stillguard.engine.compute.memory import META, LiveBytes, footprint, send_back
from stillguard.engine.losses.dormant import LPIPSPenalty, VAELatent
from stillguard.engine.surrogates.denoiser import Tap
from stillguard.engine.surrogates.perceptual import load_perceptual_network
from stillguard.engine.surrogates.tiny_autoencoder import SHIPPED
from torch import Tensor
from video_models import FILES, load, load_vae, randn

if TYPE_CHECKING:
    from stillguard.nodes.bridge.memory.room import Room

SIDE = 64


@pytest.fixture(scope="module")
def folder(comfy: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("room")


@pytest.mark.parametrize("family", [pytest.param(name, marks=pytest.mark.slow) if name == "SVD" else name for name in FILES])
def test_video_models_take_what_was_counted(folder: Path, family: str) -> None:
    """Conditioning, VAE and image encoder included; the conditioning and the estimate are two features, as the losses ask for them."""
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.clip_vision import clip_vision_view
    from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates
    from stillguard.nodes.bridge.surrogates.vae import vae_view
    from stillguard.nodes.bridge.video.model import video_pass, video_setup

    loaded = load(family, folder)
    with autograd_session():
        surrogates = Surrogates()
        spec = loaded.spec(side=SIDE)
        setup = video_setup(surrogates, spec)
        view = setup.model
        setup.listen([Tap("attention", block) for block in spec.blocks])
        setup.use_estimate()
        encoders = [vae_view(surrogates, loaded.vae)]
        encoders += [] if loaded.clip_vision is None else [clip_vision_view(surrogates, loaded.clip_vision)]
        picture = randn(1, 3, SIDE, SIDE, seed=0).sigmoid()
        with torch.no_grad():
            noisy = torch.zeros(view.conditioner.prepare(picture).samples.shape)
        for low_memory in (False, True):
            counted = video_pass(setup, encoders).footprint(SIDE, SIDE, low_memory=low_memory)
            with surrogates.on_device(height=SIDE, width=SIDE, low_memory=low_memory), LiveBytes() as count, surrogates.step():
                seen = Observation(picture.clone().requires_grad_(), low_memory=low_memory)
                told = seen.features(view.conditioner, "told", lambda seen=seen: view.condition(seen.image))
                send_back(seen.features(view, "estimate", lambda told=told: view.estimate(noisy, 0.5, told, taps=setup.taps)))
                seen.release_picture()
            assert counted.peak == pytest.approx(count.peak, rel=0.1)
            assert counted.kept <= counted.peak


def test_the_packs_own_networks_take_what_was_counted(comfy: None, tmp_path: Path) -> None:
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.animators import animator_pass, pose_animator_from, reference_net_from, reference_pass
    from stillguard.nodes.bridge.surrogates.clip_vision import DifferentiableCLIPVision, clip_vision_pass
    from stillguard.nodes.bridge.surrogates.perceptual import perceptual_pass
    from testkit import tiny_clip_vision

    files = animator_files.animate_anyone(tmp_path)
    net = reference_net_from(files["reference_unet"], "fp32").net
    animator = pose_animator_from(files["denoising_unet"], files["motion_module"], files["pose_guider"], "fp32").animator
    lpips = load_perceptual_network(weights.lpips_backbone(tmp_path))
    with autograd_session():
        clip = DifferentiableCLIPVision(tiny_clip_vision())
        picture = randn(1, 3, 128, 128, seed=0).sigmoid()
        latent, tokens = randn(1, 4, 16, 16, seed=1), randn(1, 1, 32, seed=2)
        bank = dict(zip(net.names, (feature.detach().requires_grad_() for feature in net(latent, 0, tokens)), strict=True))
        pose = animator.guide(picture).expand(3, -1, -1, -1)

        def animated() -> tuple[Tensor]:
            return (animator.denoise(latent[:, :, None].expand(-1, -1, 3, -1, -1), 0, tokens.requires_grad_(), pose, bank),)

        cases = {
            "ReferenceNet": (reference_pass(net), lambda: net(latent.requires_grad_(), 0, tokens.requires_grad_())),
            "animator": (animator_pass(animator, frames=3), animated),
            "LPIPS": (perceptual_pass(lpips), lambda: lpips.activations(picture.requires_grad_())),
            "image encoder": (clip_vision_pass(clip), lambda: (clip.embed(picture.requires_grad_()),)),
        }
        for name, (surrogate, ask) in cases.items():
            for low_memory in (False, True) if name == "animator" else (False,):
                counted = surrogate.footprint(128, 128, low_memory=low_memory)
                animator.checkpointing = low_memory
                with LiveBytes() as count:
                    send_back(ask())
                assert counted.peak == pytest.approx(count.peak, rel=0.1), (name, low_memory)


def test_a_14b_transformer_at_its_published_size(comfy: None) -> None:
    """What a graph keeps grows by the same with every block, and by far more than core estimates."""
    import comfy.ops
    from comfy.ldm.modules.attention import attention_pytorch
    from comfy.ldm.wan.model import WanModel
    from stillguard.nodes.bridge.autograd import autograd_session

    frames, height, width = 5, 60, 104  # latents of 17 frames of 480x832
    sides = {"dim": 5120, "ffn_dim": 13824, "num_heads": 40, "text_dim": 4096, "in_dim": 36, "model_type": "i2v"}
    here: dict[str, Any] = {"device": META, "dtype": torch.bfloat16}
    text, level = torch.empty(1, 512, 4096, **here), torch.empty(1, device=META)
    override = {"optimized_attention_override": lambda function, *args, **kwargs: attention_pytorch(*args, **kwargs)}

    def counted(layers: int) -> Any:
        network = WanModel(num_layers=layers, operations=comfy.ops.disable_weight_init, **sides, **here).requires_grad_(False)
        noisy = torch.empty(1, 36, frames, height, width, **here).requires_grad_()
        return footprint(lambda: (network(noisy, level, text, transformer_options=override),))

    with autograd_session():
        two, four = counted(2), counted(4)
    block = (four.kept - two.kept) / 2
    # Beside two times the attention's q, k, v and output: at least the inputs of both norms and of the feed-forward's activation.
    tokens = frames * (height // 2) * (width // 2)
    assert 2 * tokens * (8 * 5120 + 13824) < block < 2 * 2 * tokens * (8 * 5120 + 13824)
    estimate = frames * height * width * 2 * 0.01 * (5120 / 2222) * 1024**2  # memory_required of core's WAN21_I2V
    assert 40 * block > 8 * 4 * estimate


def test_a_step_of_several_networks_takes_what_was_counted(comfy: None, tmp_path: Path) -> None:
    """Fast, all graphs are there together; with low memory one at a time. What is asked for is no less, but for what losses compute
    themselves, and not much more."""
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.memory.room import Room
    from stillguard.nodes.bridge.surrogates.perceptual import perceptual_pass
    from stillguard.nodes.bridge.surrogates.vae import DifferentiableVAE, vae_pass

    lpips = load_perceptual_network(weights.lpips_backbone(tmp_path))
    with torch.inference_mode():
        vae = load_vae(SHIPPED)
    with autograd_session():
        view = DifferentiableVAE(vae)
        objective = Objective((Term("VAE Latent", 1.0, VAELatent(view)), Term("LPIPS", -1.0, LPIPSPenalty(lpips, 0.0))))
        room = Room([vae_pass(view), perceptual_pass(lpips)], lambda low_memory: 0.0)
        clean = randn(1, 3, 128, 128, seed=0).sigmoid()
        for low_memory in (False, True):
            asked = room.need(128, 128, low_memory=low_memory)
            with LiveBytes() as count:
                picture = (clean + 0.01).requires_grad_()
                objective.backward(Observation(clean, low_memory=low_memory), Observation(picture, low_memory=low_memory))
            assert 0.95 < asked.most / count.peak < (1.2 if low_memory else 1.5), low_memory


CARD = torch.device("cuda", 0)


@pytest.fixture
def vae_room(comfy: None) -> Room:
    """A VAE's pass beside 3 GB of weights in fast mode and 1 GB of those that take turns."""
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.memory.room import Room
    from stillguard.nodes.bridge.surrogates.vae import DifferentiableVAE, vae_pass

    with torch.inference_mode():
        vae = load_vae(SHIPPED)
    with autograd_session():
        return Room([vae_pass(DifferentiableVAE(vae))], lambda low_memory: 1e9 if low_memory else 3e9)


def card_of(size: float, monkeypatch: pytest.MonkeyPatch) -> None:
    import comfy.model_management

    monkeypatch.setattr(comfy.model_management, "get_total_memory", lambda device: size)


def test_what_cannot_fit_is_refused_with_a_size_that_does(vae_room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    light = replace(vae_room, weights=lambda low_memory: 0.0, _known={})
    card_of(light.need(768, 512, low_memory=True).least / 2, monkeypatch)
    with pytest.raises(ValueError, match="does not fit the device") as refused:
        light.check(768, 512, low_memory=True, device=CARD)
    side = int(re.search(r"set working_size to (\d+)", str(refused.value))[1])
    assert 256 <= side < 768
    assert light.check(side, side * 2 // 3 // 8 * 8, low_memory=True, device=CARD) is None


def test_low_memory_is_named_where_it_fits(vae_room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    card_of(2e9, monkeypatch)
    with pytest.raises(ValueError, match=r'3.0 GB of weights .* 2.0 GB: set memory to "low memory"\.$'):
        vae_room.check(64, 64, low_memory=False, device=CARD)
    assert vae_room.check(64, 64, low_memory=True, device=CARD) is None


def test_what_may_fit_is_not_refused(vae_room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    need = vae_room.need(64, 64, low_memory=False)
    card_of(need.weights + need.least + 1, monkeypatch)
    assert "may not fit" in str(vae_room.check(64, 64, low_memory=False, device=CARD))
    card_of(1.0, monkeypatch)
    assert vae_room.check(64, 64, low_memory=False, device=torch.device("cpu")) is None


def test_what_cannot_be_counted_is_left_out(vae_room: Room, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def ask(seen: Observation) -> Any:
        return (torch.full((2,), float(seen.image.detach().sum())),)

    card_of(1e12, monkeypatch)
    room = replace(vae_room, passes=[*vae_room.passes, replace(vae_room.passes[0], kind="strange model", ask=ask)], _known={})
    with caplog.at_level(logging.WARNING):
        assert room.need(64, 64, low_memory=False).least == vae_room.need(64, 64, low_memory=False).least
    assert "How much memory the strange model takes could not be counted" in caplog.text


def test_a_run_is_refused_before_anything_is_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the CPU plays the card."""
    import comfy.model_management
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates
    from stillguard.nodes.bridge.surrogates.vae import vae_view
    from stillguard.nodes.bridge.video.model import video_setup

    loaded = load("CogVideoX", folder)
    with autograd_session():
        surrogates = Surrogates()
        video_setup(surrogates, loaded.spec(side=SIDE))
        with monkeypatch.context() as patch:
            patch.setattr(comfy.model_management, "get_torch_device", lambda: CARD)
            patch.setattr(comfy.model_management, "get_total_memory", lambda device: 1e6)
            patch.setattr(comfy.model_management, "load_models_gpu", lambda *args, **kwargs: pytest.fail("loaded"))
            with pytest.raises(ValueError, match="give the I2V Surrogate a shorter length"):
                surrogates.on_device(height=SIDE, width=SIDE, low_memory=False).__enter__()
        with surrogates.on_device(height=SIDE, width=SIDE, low_memory=False):
            assert not any(parameter.is_meta for parameter in vae_view(surrogates, loaded.vae).patcher.model.parameters())
