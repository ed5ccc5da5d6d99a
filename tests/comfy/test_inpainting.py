"""Core's inpainting models as surrogates: asked as core's sampler asks them, with gradients, for DiffusionGuard and PhotoGuard."""

from __future__ import annotations

import re
from itertools import repeat
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from gpu_cases import execute
from image_models import image_model, image_prompt
from stillguard.engine import RGB, RGBL2, Objective, Observation, Sign, Term, protect
from stillguard.engine.draws import SeededDraws
from stillguard.engine.update import Normalised
from torch import Tensor
from video_models import gradients, load_vae, randn

if TYPE_CHECKING:
    from stillguard.nodes.bridge.protect.loss_spec import LossSpec
    from stillguard.nodes.bridge.surrogates.diffusion import DiffusionSurrogate

SIDE = 64
# Of the class of SD 1.5, whose four levels leave more than a pixel of no smaller one.
WIDE = 128
pytestmark = pytest.mark.usefixtures("comfy")


def surrogate_of(kind: str, dtype: torch.dtype = torch.float32) -> DiffusionSurrogate:
    from stillguard.engine.surrogates.tiny_autoencoder import SHIPPED
    from stillguard.nodes.surrogates.diffusion_models import DiffusionSurrogateNode
    from testkit import tiny_image_model

    with torch.inference_mode():
        model = image_model("SDXL", dtype, in_channels=9) if kind == "SDXL" else tiny_image_model(kind)
        return DiffusionSurrogateNode.execute(model, load_vae(SHIPPED), image_prompt()).args[0]


@pytest.fixture(scope="module")
def surrogate(comfy: None) -> DiffusionSurrogate:
    return surrogate_of("SDXL")


@pytest.fixture
def photo(astronaut: Tensor) -> Tensor:
    return astronaut[..., 40 : 40 + SIDE, 90 : 90 + SIDE].clone()


def mask_of(side: int = SIDE) -> Tensor:
    """MASK: all but a part of the middle is repainted."""
    mask = torch.ones(1, side, side)
    mask[:, 16:48, 16:48] = 0
    return mask


def specs(surrogate: DiffusionSurrogate, target: Tensor | None = None) -> dict[str, LossSpec]:
    from stillguard.nodes.losses.inpainting import early_noise, repainted_picture

    return {
        "early noise": early_noise(1.0, surrogate, mask_of()),
        "repainted": repainted_picture(1.0, surrogate, mask_of(), None),
        "repainted, target": repainted_picture(1.0, surrogate, mask_of(), torch.zeros(1, 20, 30, 3) if target is None else target),
    }


def test_gradients_are_finite_differences_and_the_same_in_low_memory_with_turns(
    surrogate: DiffusionSurrogate, photo: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stillguard.nodes.bridge.surrogates import run_surrogates as residents

    losses = specs(surrogate)
    fast, slopes = gradients(losses, photo, differences=1e-4)
    for name, (slope, difference) in slopes.items():
        assert slope > 0, name
        assert difference == pytest.approx(slope, rel=0.02), name
        # What is repainted has no say.
        assert not (fast[name] * mask_of()).any(), name
    monkeypatch.setattr(residents, "takes_turns", lambda: True)
    low, _ = gradients(losses, photo, low_memory=True)
    for name, gradient in fast.items():
        assert float((low[name] - gradient).norm()) < 1e-4 * float(gradient.norm()), name


@pytest.mark.parametrize(("kind", "side"), [("sd15 inpainting", WIDE), ("SDXL", SIDE)])
def test_the_model_is_told_what_core_tells_it(kind: str, side: int, astronaut: Tensor) -> None:
    """Core's node for inpainting and its guider are the oracle."""
    import comfy.samplers
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.inpainting import inpainting_setup
    from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates

    import nodes

    surrogate, photo, drawn = surrogate_of(kind), astronaut[..., :side, 60 : 60 + side].clone(), mask_of(side)
    noise = randn(1, 4, side // 8, side // 8, seed=3)
    with autograd_session():
        surrogates = Surrogates()
        setup = inpainting_setup(surrogates, surrogate, drawn[:, None])
        with surrogates.on_device(height=side, width=side, low_memory=False), torch.no_grad():
            mask = setup.at(photo)
            noisy = setup.model.noised(torch.zeros_like(noise), noise, 0.7)
            sigma = setup.model.denoiser.sigma(0.7, noise)
            ours = setup.predict(mask, setup.left(Observation(photo), mask))(noisy, 0.7)
            with pytest.raises(ValueError, match="The mask of what is repainted is"):
                setup.at(torch.zeros(1, 3, 100, 200))
    with torch.inference_mode():
        prompt, pixels = surrogate.positive, photo.movedim(1, -1)
        given, *_ = nodes.InpaintModelConditioning().encode(prompt, prompt, pixels, surrogate.vae, drawn, noise_mask=False)
        guider = comfy.samplers.CFGGuider(surrogate.model)
        guider.set_conds(given, given)
        guider.set_cfg(1.0)
        sampler = comfy.samplers.KSAMPLER(lambda model, x, sigmas, **options: model(x, sigmas[:1], **options.get("extra_args", {})))
        theirs = guider.sample(noise, torch.zeros_like(noise), sampler, torch.stack([sigma[0], sigma[0] * 0]))
    theirs = surrogate.model.model.process_latent_in(theirs)
    assert float((ours - theirs).abs().max()) < 1e-4 * float(theirs.abs().max())


def test_what_is_decoded_keeps_its_gradient_outside_of_the_range(surrogate: DiffusionSurrogate) -> None:
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates
    from stillguard.nodes.bridge.surrogates.vae import autoencoder_view

    with autograd_session():
        surrogates = Surrogates()
        vae = autoencoder_view(surrogates, surrogate.vae)
        with surrogates.on_device(height=SIDE, width=SIDE, low_memory=False):
            latent = 20 * randn(1, 4, SIDE // 8, SIDE // 8, seed=1)
            whole, clamped = vae.decode(latent, clamped=False), vae.decode(latent)
    assert float(whole.min()) < 0
    assert float(whole.max()) > 1
    assert torch.allclose(whole.clamp(0, 1), clamped, atol=1e-6)


@pytest.mark.parametrize("low_memory", [False, True])
def test_a_pass_takes_what_was_counted(surrogate: DiffusionSurrogate, photo: Tensor, low_memory: bool) -> None:
    from stillguard.engine.compute.memory import LiveBytes
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.inpainting import inpainting_pass, inpainting_setup
    from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates

    with autograd_session():
        surrogates = Surrogates()
        setup = inpainting_setup(surrogates, surrogate, mask_of()[:, None])
        counted = inpainting_pass(setup.model, setup.vae.vae, steps=3).footprint(SIDE, SIDE, low_memory=low_memory)
        seen = Observation(photo.clone().requires_grad_(), low_memory=low_memory)
        with surrogates.on_device(height=SIDE, width=SIDE, low_memory=low_memory), LiveBytes() as count, surrogates.step():
            latents = left = randn(1, 4, SIDE // 8, SIDE // 8, seed=3).requires_grad_()
            predict = setup.predict(mask_of()[:, None], left)
            for index in range(3):
                (latents,) = seen.features(setup.model, index, lambda latents=latents: (predict(latents, 0.5),))
            latents.square().mean().backward()
            seen.release()
    assert counted.peak == pytest.approx(count.peak, rel=0.15)


def protected(surrogate: DiffusionSurrogate, photo: Tensor, method: dict[str, Any], **inputs: Any) -> Tensor:
    from stillguard.nodes.protect.inpainting import InpaintingBaseline

    usual = {
        "image": photo.movedim(1, -1),
        "diffusion_surrogate": surrogate,
        "repaint_mask": mask_of(),
        "method": method,
        "steps": 2,
        "seed": 3,
        "working_size": SIDE,
        "memory": "fast",
    }
    with torch.inference_mode():
        return execute(InpaintingBaseline, **{**usual, **inputs}).movedim(-1, 1).clone()


def by_hand(name: str) -> tuple[dict[str, Any], str, Any, Any]:
    """The preset's settings, and the loss, the space and the update that they stand for."""
    pixels = {"method": name, "budget": 8.0, "step": 2.0}
    if name == "DiffusionGuard":
        return {**pixels, "mask_varies": "more is repainted"}, "early noise", RGB(8.0, start_from="clean"), Sign(2.0)
    if name == "PhotoGuard":
        return pixels, "repainted", RGB(8.0, start_from="clean"), Sign(2.0)
    return {"method": name, "radius": 2.3, "step": 0.8}, "repainted", RGBL2(2.3, start_from="clean"), Normalised(0.8)


@pytest.mark.parametrize("name", ["DiffusionGuard", "PhotoGuard", "PhotoGuard (L2)"])
def test_the_preset_is_its_loss_in_its_space_and_leaves_what_is_repainted(surrogate: DiffusionSurrogate, photo: Tensor, name: str) -> None:
    from stillguard.nodes.bridge.protect.run import Settings, protect_images, space_spec

    method, loss, space, update = by_hand(name)
    settings = Settings(space_spec(space), update, None, SIDE, 3, 3, low_memory=False)
    with torch.inference_mode():
        expected, *_ = protect_images(photo.movedim(1, -1), (specs(surrogate)[loss],), settings, mask=1 - mask_of(), node_id=None)
    result = protected(surrogate, photo, method, steps=3)
    assert torch.equal(result, expected.movedim(-1, 1))
    repainted = mask_of()[0] >= 0.5
    assert torch.equal(result[..., repainted], photo[..., repainted])
    kept = ((result - photo) * 255).round()[..., ~repainted]
    if "radius" in method:
        assert 1.0 < float(kept.square().mean().sqrt()) <= 2.3 + 1e-4
    else:
        assert 4 <= float(kept.abs().max()) <= 8


def test_another_way_to_vary_the_mask_gives_another_picture(surrogate: DiffusionSurrogate, photo: Tensor) -> None:
    method, *_ = by_hand("DiffusionGuard")
    made = [protected(surrogate, photo, {**method, "mask_varies": way}) for way in ("more is repainted", "more or less", "as it is")]
    assert len({hash(tuple(picture.flatten().tolist())) for picture in made}) == 3


def test_half_precision_keeps_the_gradients(photo: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU that is fast with it; what the model is told of the photo passes through it too."""
    from stillguard.nodes.bridge.memory import precision

    exact, _ = gradients(specs(surrogate_of("SDXL")), photo)
    monkeypatch.setattr(precision, "gradient_dtype", lambda device: torch.float16)
    half, _ = gradients(specs(surrogate_of("SDXL", torch.float16)), photo)
    for name, gradient in exact.items():
        assert 0 < float((half[name] - gradient).norm() / gradient.norm()) < 0.05, name


@pytest.mark.parametrize("name", ["early noise", "repainted", "repainted, target"])
def test_a_few_steps_make_the_loss_better(surrogate: DiffusionSurrogate, photo: Tensor, name: str) -> None:
    """At one look: from one noise to another, random networks carry little over."""
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates

    spec = specs(surrogate)[name]
    with autograd_session():
        surrogates = Surrogates()
        objective = Objective((Term(name, spec.weight, spec.make(surrogates)),))
        with surrogates.on_device(height=SIDE, width=SIDE, low_memory=False), surrogates.step():
            space, draws = RGB(8.0, start_from="clean"), repeat(SeededDraws(5))
            ran = list(protect(photo, objective, space=space, update=Sign(2.0), steps=5, mask=1 - mask_of()[:, None], draws=draws))
    losses = [step.losses[name] for step in ran[1:]]
    gained = [(value - losses[0]) * spec.weight for value in losses[1:]]
    assert gained == sorted(gained)
    assert gained[0] > 0


def test_the_published_ball_is_what_the_page_says() -> None:
    from stillguard.nodes.protect.inpainting import PUBLISHED_RADIUS, PUBLISHED_STEP

    signed = torch.full((3, 512, 512), PUBLISHED_RADIUS / 255, dtype=torch.float64) * 2
    assert float(signed.norm()) == pytest.approx(16)
    assert pytest.approx(PUBLISHED_RADIUS / 16) == PUBLISHED_STEP


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"kind": "sd15"}, "The diffusion surrogate's model does not repaint a part of a picture as Stable Diffusion's inpainting models do"),
    ({"kind": "x4"}, "The diffusion surrogate's model does not repaint"),
    ({"repaint_mask": torch.zeros(1, SIDE, SIDE)}, "The repaint mask is empty"),
    ({"repaint_mask": torch.ones(1, SIDE, SIDE)}, "The repaint mask covers the whole picture"),
    ({"repaint_mask": mask_of().repeat(2, 1, 1)}, "There are 2 repaint masks, and a loss has one"),
    ({"repaint_mask": mask_of()[:, :40]}, "The repaint mask is 64x40 but the picture is 64x64: resize the mask to the picture."),
    ({"target": torch.zeros(1, 8, 8, 3)}, "DiffusionGuard leads an editor to no target: disconnect `target`, or choose PhotoGuard."),
    ({"vae": SimpleNamespace(latent_channels=16, latent_dim=2)}, "The VAE makes latents of 16 channels and the model reads 4"),
    ({"vae": SimpleNamespace(latent_channels=4, latent_dim=2, output_channels=4)}, "This VAE is one of something other than pictures"),
]


@pytest.mark.parametrize(("change", "sentence"), MISTAKES)
def test_mistakes(surrogate: DiffusionSurrogate, photo: Tensor, change: dict[str, Any], sentence: str) -> None:
    from stillguard.nodes.surrogates.diffusion_models import DiffusionSurrogateNode
    from testkit import tiny_image_model

    def given(vae: Any = surrogate.vae, kind: str | None = None, **others: Any) -> Tensor:
        model = surrogate.model if kind is None else tiny_image_model(kind)
        chosen = DiffusionSurrogateNode.execute(model, vae, image_prompt()).args[0]
        return protected(chosen, photo, by_hand("DiffusionGuard")[0], **others)

    with pytest.raises(ValueError, match="^" + re.escape(sentence)) as raised:
        given(**change)
    assert ". " not in str(raised.value).replace("1.5", "")
