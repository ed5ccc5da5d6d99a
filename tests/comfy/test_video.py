"""Core's image-to-video models as surrogates: conditioning as core's, gradients as finite differences say, nothing left changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from stillguard.engine import RGB, Objective, Sign, Term, protect
from torch import Tensor
from video_models import FILES, Loaded, gradients, load

if TYPE_CHECKING:
    from stillguard.nodes.bridge.protect.loss_spec import LossSpec

SIDE = 64


@pytest.fixture(scope="module")
def folder(comfy: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("video")


@pytest.fixture(scope="module", params=FILES)
def loaded(request: pytest.FixtureRequest, folder: Path) -> Loaded:
    return load(request.param, folder)


@pytest.fixture
def photo(astronaut: Tensor) -> Tensor:
    return astronaut[..., 40 : 40 + SIDE, 80 : 80 + SIDE]


def specs(loaded: Loaded, **changes: object) -> dict[str, LossSpec]:
    from stillguard.nodes.losses.freeze import frozen_video
    from stillguard.nodes.losses.i2vguard import contrastive_frames, target_latent, temporal_attention

    spec, black = loaded.spec(**changes), torch.zeros(1, 8, 8, 3)
    return {
        "target": target_latent(1.0, loaded.vae, black),
        "contrast": contrastive_frames(1.0, spec, black),
        "attention": temporal_attention(1.0, spec),
        "freeze": frozen_video(1.0, spec),
    }


def test_every_losss_gradient_is_finite_differences(loaded: Loaded, photo: Tensor) -> None:
    """Through the VAE, the image encoder where there is one, and the denoiser."""
    _, slopes = gradients(specs(loaded), photo, differences=3e-4)
    for name, (slope, difference) in slopes.items():
        assert slope > 0, name
        # Image encoders read whole levels, which makes differences rough.
        assert difference == pytest.approx(slope, rel=0.03 if loaded.clip_vision is None else 0.1), name


@pytest.mark.parametrize("family", ["SVD", "Wan"])
def test_the_image_encoder_is_part_of_the_gradient(folder: Path, photo: Tensor, family: str) -> None:
    """With the VAE's way cut off, what is left comes through the image encoder, and is what differences say."""
    from stillguard.nodes.bridge.video.conditioner import Conditioner

    prepare = Conditioner.prepare

    def without_vae(self: Conditioner, image: Tensor) -> Any:
        encode = self.vae.encode
        self.vae.encode = lambda pixels: torch.zeros_like(encode(pixels))
        try:
            return prepare(self, image)
        finally:
            del self.vae.encode

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Conditioner, "prepare", without_vae)
        # Encoders read whole levels, and the gradient passes straight through that step; differences would see its stairs.
        patch.setattr(torch.Tensor, "round", lambda tensor: tensor)
        _, slopes = gradients({"attention": specs(load(family, folder))["attention"]}, photo, differences=1e-3)
    slope, difference = slopes["attention"]
    assert slope > 0
    assert difference == pytest.approx(slope, rel=0.05)


def sampled(loaded: Loaded, picture: Tensor, *, catch: bool = False) -> tuple[Tensor, list[dict[str, Any]]]:
    """Core's own nodes and sampler under inference mode, as in a workflow; and what the model was told at the first step."""
    import comfy.sample
    from comfy.patcher_extension import WrappersMP
    from stillguard.nodes.bridge.video.families import Request

    told: list[dict[str, Any]] = []

    def remember(executor: Any, x: Tensor, t: Tensor, c_concat: Any, c_crossattn: Any, control: Any, options: Any, **more: Any) -> Tensor:
        told.append({"x": x, "c_concat": c_concat, "c_crossattn": c_crossattn, **more})
        return executor(x, t, c_concat, c_crossattn, control, options, **more)

    spec = loaded.spec()
    with torch.inference_mode():
        request = Request(
            picture.movedim(1, -1), loaded.vae, loaded.clip_vision, loaded.positive, loaded.positive, SIDE, SIDE, spec.size.length
        )
        prepared = loaded.family.prepare(request)
        model = loaded.model.clone()
        if catch:
            model.add_wrapper(WrappersMP.APPLY_MODEL, remember)
        noise = comfy.sample.prepare_noise(prepared.samples, 3)
        sides = (prepared.positive, prepared.negative, prepared.samples)
        video = comfy.sample.sample(model, noise, 2, 1.0, "euler", "simple", *sides, noise_mask=prepared.mask, disable_pbar=True, seed=3)
    return video, told


def test_the_model_is_told_exactly_what_core_tells_it(loaded: Loaded, photo: Tensor) -> None:
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates
    from stillguard.nodes.bridge.video.model import video_setup

    _, (theirs, *_) = sampled(loaded, photo, catch=True)
    with autograd_session():
        surrogates = Surrogates()
        model = video_setup(surrogates, loaded.spec()).model
        with surrogates.on_device(height=SIDE, width=SIDE, low_memory=False):
            told = model.conditioned(photo.clone().requires_grad_())
    ours = {**told.fixed, **told.varying}
    latents = ours.pop("latent_image", None)
    assert any(tensor.requires_grad for tensor in told.varying.values())
    for name, value in theirs.items():
        if name == "x":
            # Where the picture stands among the latents, it is what the model gets in place of noise.
            if latents is not None:
                kept = (told.mask == 0).expand_as(value)
                assert torch.equal(value[kept], latents.detach()[kept])
        elif isinstance(value, Tensor):
            assert torch.equal(ours[name].detach().to(value), value), name
        else:
            assert ours.get(name) == value, name


def test_core_samples_the_same_before_and_after(loaded: Loaded, photo: Tensor) -> None:
    """A whole run of all losses on the cached model leaves not one bit of it changed."""
    from stillguard.nodes.bridge.protect.run import Settings, protect_images, space_spec

    before, _ = sampled(loaded, photo)
    settings = Settings(space_spec(RGB(8.0)), Sign(1.0), None, SIDE, 2, 1, low_memory=True)
    with torch.inference_mode():
        protected, *_ = protect_images(photo.movedim(1, -1), tuple(specs(loaded).values()), settings, mask=None, node_id=None)
    assert 0 < float((protected - photo.movedim(1, -1)).abs().max()) <= 8 / 255 + 1e-6
    after, _ = sampled(loaded, photo)
    assert torch.equal(before, after)


@pytest.mark.parametrize("names", [("attention",), ("contrast", "target")])
def test_losses_improve(loaded: Loaded, photo: Tensor, names: tuple[str, ...]) -> None:
    """Eight steps at one noise level, so that values can be compared."""
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates

    chosen = specs(loaded)
    with autograd_session():
        surrogates = Surrogates()
        terms = []
        for name in names:
            loss = chosen[name].make(surrogates)
            if hasattr(loss, "setup"):
                loss = replace(loss, setup=replace(loss.setup, levels=(0.5,)))
            terms.append(Term(name, chosen[name].weight, loss, scaled=True))
        with surrogates.on_device(height=SIDE, width=SIDE, low_memory=False), surrogates.step():
            steps = list(protect(photo.clone(), Objective(tuple(terms)), update=Sign(1.0), space=RGB(8.0), steps=8, seed=2))
    for name in names:
        improved = steps[-1].losses[name] - steps[1].losses[name]
        assert improved * chosen[name].weight > 0, name


def test_low_memory_gives_the_same_gradient(loaded: Loaded, photo: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks are copied in and out as on a GPU, with the CPU in its place."""
    from stillguard.nodes.bridge.surrogates import run_surrogates as surrogates

    fast, _ = gradients(specs(loaded), photo)
    monkeypatch.setattr(surrogates, "takes_turns", lambda: True)
    low, _ = gradients(specs(loaded), photo, low_memory=True)
    # A loss that listens to no attention: every block is computed again.
    alone, _ = gradients({"contrast": specs(loaded)["contrast"]}, photo, low_memory=True)
    assert float((alone["contrast"] - fast["contrast"]).norm()) < 1e-4 * float(fast["contrast"].norm())
    for name, gradient in fast.items():
        assert float((low[name] - gradient).norm() / gradient.norm()) < 1e-5, name
