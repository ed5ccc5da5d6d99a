"""Anti-I2V's losses and Velocity-Min on core's own small models: finite differences, thirty steps, low memory, and what does not fit."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from stillguard.engine import RGB, Objective, Observation, Sign, Term, protect
from stillguard.engine.draws import SeededDraws
from stillguard.engine.surrogates.denoiser import HIGH, TIMESTEPS, WHOLE, Tap
from stillguard.engine.surrogates.video_setup import VideoSetup
from torch import Tensor
from video_models import FILES, Loaded, gradients, in_dtype, load, randn

if TYPE_CHECKING:
    import comfy.sd
    from stillguard.nodes.bridge.protect.loss_spec import LossSpec

# One latent is 32 pixels in LTX.
SIDES = {"LTX": 64}


@pytest.fixture(scope="module")
def folder(comfy: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("video")


@pytest.fixture(scope="module", params=FILES)
def loaded(request: pytest.FixtureRequest, folder: Path) -> Loaded:
    return load(request.param, folder)


def photo_of(loaded: Loaded) -> Tensor:
    side = SIDES.get(loaded.family.name, 32)
    return torch.nn.functional.interpolate(randn(1, 3, 8, 8, seed=0), size=(side, side), mode="bicubic").sigmoid()


def noisy_of(photo: Tensor) -> Tensor:
    """Where `gradients` looks."""
    return (photo + 0.02 * randn(*photo.shape, seed=4)).clamp(0.01, 0.99)


def specs(loaded: Loaded) -> dict[str, LossSpec]:
    """Few blocks, by hand."""
    from stillguard.nodes.losses.anti_i2v import denoising, representation_anchor, representation_collapse, velocity_min

    side = photo_of(loaded).shape[-1]
    spec = loaded.spec(side=side)
    # In place of the model's own: sampling is tested elsewhere.
    spec = replace(spec, video=randn(spec.size.length, side, side, 3, seed=6).sigmoid())
    return {
        "collapse": representation_collapse(1.0, spec, layers="1, 3, 22" if loaded.family.name == "SVD" else "0, 1"),
        "anchor": representation_anchor(1.0, spec, loaded.vae, None),
        "denoising": denoising(1.0, spec),
        "velocity": velocity_min(1.0, spec),
    }


Found = tuple[dict[str, Tensor], dict[str, tuple[float, float]]]


@pytest.fixture(scope="module")
def fast(loaded: Loaded) -> Found:
    with pytest.MonkeyPatch.context() as patch:
        # Image encoders read whole levels, and the gradient passes straight through that step; differences would see its stairs.
        patch.setattr(Tensor, "round", lambda tensor: tensor)
        return gradients(specs(loaded), photo_of(loaded), differences=1e-4)


def test_every_losss_gradient_is_finite_differences(loaded: Loaded, fast: Found) -> None:
    for name, (slope, difference) in fast[1].items():
        assert slope > 0, name
        assert difference == pytest.approx(slope, rel=0.02), name


def test_low_memory_gives_the_same_gradient(loaded: Loaded, fast: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all together, each as long as the others; networks are copied in and out as on a GPU, with the CPU in its place."""
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates import run_surrogates as residents

    monkeypatch.setattr(residents, "takes_turns", lambda: True)
    monkeypatch.setattr(Tensor, "round", lambda tensor: tensor)
    photo, built, sizes = photo_of(loaded), specs(loaded), {name: float(gradient.norm()) for name, gradient in fast[0].items()}
    with autograd_session():
        surrogates = residents.Surrogates()
        terms = tuple(Term(name, 1 / sizes[name], spec.make(surrogates)) for name, spec in built.items())
        with surrogates.on_device(height=photo.shape[-2], width=photo.shape[-1], low_memory=True), surrogates.step():
            leaf = noisy_of(photo).requires_grad_()
            Objective(terms).backward(Observation(photo.clone()), Observation(leaf, draws=SeededDraws(5), low_memory=True))
    expected = sum(gradient / sizes[name] for name, gradient in fast[0].items())
    assert float((leaf.grad - expected).norm()) < 1e-4 * float(expected.norm())


def test_half_precision_keeps_the_gradients(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU that is fast with it."""
    import comfy.model_management
    from stillguard.nodes.bridge.memory import precision

    loaded = load("LTX", folder)
    exact, _ = gradients(specs(loaded), photo_of(loaded))
    monkeypatch.setattr(precision, "gradient_dtype", lambda device: torch.float16)
    monkeypatch.setattr(comfy.model_management, "unet_manual_cast", lambda *_, **__: None)
    half, _ = gradients(specs(in_dtype(loaded, torch.float16)), photo_of(loaded))
    for name, gradient in exact.items():
        error = float((half[name] - gradient).norm() / gradient.norm())
        assert 0 < error < 0.02, name


# One of each family and of each loss by default.
QUICK = {("Hunyuan (replace)", "collapse"), ("LTX", "anchor"), ("CogVideoX", "denoising"), ("Hunyuan (concat)", "velocity")}


@pytest.mark.parametrize(
    ("family", "name"),
    [
        pytest.param(family, name, marks=() if (family, name) in QUICK else pytest.mark.slow)
        for family in FILES
        for name in ("collapse", "anchor", "denoising", "velocity")
    ],
)
def test_each_improves(folder: Path, family: str, name: str) -> None:
    """Thirty steps at one noise level and one noise, so that values can be compared."""
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates

    loaded = load(family, folder)
    photo, spec = photo_of(loaded), specs(loaded)[name]
    with autograd_session():
        surrogates = Surrogates()
        loss = spec.make(surrogates)
        loss = replace(loss, setup=VideoSetup(loss.setup.model, loss.setup.levels[2:3]))
        terms = (Term(name, spec.weight, loss, scaled=True),)
        with surrogates.on_device(height=photo.shape[-2], width=photo.shape[-1], low_memory=False), surrogates.step():
            steps = list(protect(photo, Objective(terms), update=Sign(1.0), space=RGB(8.0), steps=30, seed=2))
    assert (steps[-1].losses[name] - steps[1].losses[name]) * spec.weight > 0


@pytest.fixture(scope="module")
def told(loaded: Loaded) -> dict[str, object]:
    """Of a model that has been shown a picture: itself, the picture, and the latents of a video of it."""
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates
    from stillguard.nodes.bridge.surrogates.taps import tapped_blocks
    from stillguard.nodes.bridge.video.model import video_setup

    photo = photo_of(loaded)
    with autograd_session():
        surrogates = Surrogates()
        model = video_setup(surrogates, loaded.spec(side=photo.shape[-1])).model
        with surrogates.on_device(height=photo.shape[-2], width=photo.shape[-1], low_memory=False), surrogates.step(), torch.no_grad():
            told, prior, count = model.condition(photo), model.still(photo), len(tapped_blocks(model.denoiser.network, "output"))
            taps = [Tap(kind, block) for block in (0, count - 1) for kind in ("output", "map")]
            noisy = model.noised(prior, randn(*prior.shape, seed=3), 0.5)
            read = model.estimate(noisy, 0.5, told, taps=taps)
    return {"model": model, "photo": photo, "latents": prior, "noisy": noisy, "read": read}


def test_latents_have_a_shape_before_a_video_is_made(told: dict[str, object]) -> None:
    assert told["model"].shape(told["photo"]) == tuple(told["latents"].shape)


def test_maps_are_the_same_tokens_in_their_places(loaded: Loaded, told: dict[str, object]) -> None:
    latents = told["latents"]
    for tokens, maps in zip(told["read"][1::2], told["read"][2::2], strict=True):
        assert torch.equal(maps.flatten(1, -2), tokens)
        if loaded.family.name == "SVD":
            assert maps.shape[:3] == (latents.shape[0], *latents.shape[-2:])
        else:
            side = max(1, latents.shape[-1] // (1 if loaded.family.name == "LTX" else 2))
            assert maps.shape[:4] == (1, latents.shape[2], side, side)


def test_the_output_scale_is_the_estimates_slope(told: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that gives 0 everywhere, and one that gives 1."""
    model = told["model"]
    denoiser = model.denoiser

    def estimate(output: float, level: float) -> Tensor:
        sigma = denoiser.sigma(level, told["noisy"])
        return denoiser.model.model_sampling.calculate_denoised(sigma, torch.full_like(told["noisy"], output), told["noisy"])

    for level in (*TIMESTEPS[WHOLE], *TIMESTEPS[HIGH]):
        apart = (estimate(1.0, level) - estimate(0.0, level)).abs()
        assert float(apart.mean()) == pytest.approx(model.output_scale(level), rel=1e-3)


def test_where_the_picture_itself_stands_nothing_is_sampled(loaded: Loaded, told: dict[str, object]) -> None:
    """LTX and HunyuanVideo (replace) have it for a first frame: there the estimate is the picture, whatever the network says."""
    sampled, latents = told["model"].sampled, told["latents"]
    if loaded.family.name not in ("LTX", "Hunyuan (replace)"):
        assert sampled is None
        return
    assert not sampled[:, :, 0].any()
    assert bool((sampled[:, :, 1:] == 1).all())
    # The latents here are those of a still video, which begins with the picture.
    torch.testing.assert_close(told["read"][0][:, :, 0], latents[:, :, 0].float(), atol=1e-4, rtol=1e-4)


def vae_of(kind: str) -> comfy.sd.VAE:
    import gpu_cases
    from bench import video_files
    from testkit import eightfold_vae
    from video_models import load_vae

    kinds = {
        "Stable Diffusion": eightfold_vae,
        "TAESD": gpu_cases.vae,
        "Wan": lambda: load_vae(video_files.cached("wan_vae")),
        "LTX": lambda: load_vae(video_files.cached("ltx_vae")),
    }
    return kinds[kind]()


@pytest.mark.parametrize("kind", ["Stable Diffusion", "TAESD", "Wan", "LTX"])
def test_a_vaes_stages_end_with_its_latent_and_have_gradients(comfy: None, kind: str) -> None:
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates
    from stillguard.nodes.bridge.surrogates.vae import staged_vae_view

    picture = randn(1, 3, 64, 64, seed=1).sigmoid()
    with autograd_session():
        surrogates = Surrogates()
        view = staged_vae_view(surrogates, vae_of(kind))
        with surrogates.on_device(height=64, width=64, low_memory=False), surrogates.step():
            leaf = picture.clone().requires_grad_()
            stages = view.stages(leaf)
            sum(stage.square().mean() for stage in stages).backward()
            step = 1e-3 * leaf.grad.sign()
            with torch.no_grad():
                up, down = (float(sum(stage.square().mean() for stage in view.stages(picture + side * step))) for side in (1, -1))
                latent, again = view.encode(picture), view.stages(picture)
    # LTX cuts the picture in patches of four before it begins.
    sides = [stage.shape[-1] for stage in stages]
    assert sides == [side for side in (64, 32, 16, 8, 4, 2) if latent.shape[-1] <= side <= (16 if kind == "LTX" else 64)]
    assert all(stage.dtype == torch.float32 and torch.equal(stage, same) for stage, same in zip(stages, again, strict=True))
    last = stages[-1][:, : latent.shape[1]]
    # The last stage is the latent before the VAE's own scale.
    assert float(torch.corrcoef(torch.stack([last.detach().flatten(), latent.flatten()]))[0, 1]) > 0.999
    assert float(leaf.grad.abs().sum()) == pytest.approx((up - down) / 2e-3, rel=0.02)


def test_stages_in_half_precision_keep_their_gradient(comfy: None) -> None:
    """A mean over many elements gives gradients below what fp16 can hold."""
    from stillguard.nodes.bridge.surrogates.vae import DifferentiableVAE

    found, weight = [], 1e-9
    for half in (False, True):
        view = DifferentiableVAE(vae_of("TAESD"))
        if half:
            view.dtype = torch.float16
            view.patcher.model.half()
        leaf = randn(1, 3, 32, 32, seed=1).sigmoid().requires_grad_()
        (weight * sum(stage.mean() for stage in view.stages(leaf))).backward()
        found.append(leaf.grad)
    assert float((found[1] - found[0]).norm()) < 0.05 * float(found[0].norm())


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        ("auto", r"This model has 3 blocks, and .* needs 8 or more: write the blocks in `layers` by hand, such as 0, 1"),
        ("1", r"layers is '1', and collapsing takes two blocks or more: write a shallow one and a deep one"),
        ("0, 3", r"layers is '0, 3', and this model has blocks 0 to 2: choose among them, or write auto"),
        ("all", r"layers is 'all': write auto, or indices with commas between them"),
    ],
)
def test_layers_that_do_not_fit_are_one_sentence(folder: Path, layers: str, sentence: str) -> None:
    from stillguard.nodes.losses.anti_i2v import representation_anchor, representation_collapse

    spec = load("Wan", folder).spec(side=32)
    with pytest.raises(ValueError, match=sentence):
        representation_collapse(1.0, spec, layers=layers)
    if layers in ("0, 3", "all"):
        with pytest.raises(ValueError, match=sentence):
            representation_anchor(1.0, spec, None, None, layers=layers)


def test_auto_is_the_papers_rule_and_all_blocks(folder: Path) -> None:
    """Of SVD's small UNet, which has 24 blocks."""
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates
    from stillguard.nodes.losses.anti_i2v import representation_anchor, representation_collapse
    from stillguard.nodes.losses.i2vguard import contrastive_frames, temporal_attention

    spec = load("SVD", folder).spec(side=32)
    with autograd_session():
        surrogates = Surrogates()
        collapse = representation_collapse(1.0, spec).make(surrogates)
        anchor = representation_anchor(1.0, spec, None, None).make(surrogates)
        high = [
            make(1.0, spec, *more, timesteps=HIGH).make(surrogates)
            for make, more in ((contrastive_frames, (None,)), (temporal_attention, ()))
        ]
        usual = contrastive_frames(1.0, spec, None).make(surrogates)
    assert (collapse.shallow, collapse.deep) == (2, (21, 22, 23))
    assert anchor.blocks == tuple(range(24))
    assert high[0].setup is high[1].setup
    assert high[0].setup.levels == TIMESTEPS[HIGH]
    assert usual.setup is collapse.setup
    assert usual.setup.levels == TIMESTEPS[WHOLE]


def test_what_is_read_inside_is_counted(folder: Path) -> None:
    """Beside the estimate, what every block gives of one picture; of the clean one nothing of it is kept for each level."""
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates
    from stillguard.nodes.losses.anti_i2v import representation_anchor

    loaded, side = load("LTX", folder), 64
    with autograd_session():
        surrogates = Surrogates()
        loss = representation_anchor(1.0, loaded.spec(side=side), loaded.vae, None).make(surrogates)
        # As another loss does, so that the model runs to its end in both passes.
        loss.setup.use_estimate()
        view = loss.setup.model
        resident = surrogates.get(id(loaded.model), lambda in_fp32: pytest.fail("made before"))
        kept, inside = resident.passes.values()
        found = [each.footprint(side, side, low_memory=True) for each in (kept, inside)]
        _, _, *places = view.shape(torch.empty(1, 3, side, side))
        tokens, width = math.prod(places), view.denoiser.network.inner_dim
        # A number for each block, and what the other picture gave: the block's own tensor is what the next one keeps for itself.
        assert found[1].results - found[0].results == len(loss.blocks) * 4
        assert found[1].kept - found[0].kept == len(loss.blocks) * (4 + tokens * width * 4)
        assert (kept.clean, inside.clean) == (len(loss.setup.levels), 0)
