"""Core's diffusion models of pictures as surrogates: asked as core's sampler asks them, with gradients, read inside by losses."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch
from image_models import KINDS, image_latents, image_model, image_prompt
from stillguard.engine import Objective, Observation, Term
from stillguard.engine.compute.saved import in_place_allowed
from stillguard.engine.draws import SeededDraws
from stillguard.engine.observation import Features
from stillguard.engine.surrogates.denoiser import EVERY, Tap
from stillguard.engine.surrogates.picture_setup import PictureSetup
from stillguard.engine.surrogates.tiny_autoencoder import SHIPPED
from torch import Tensor
from torch.nn import functional as F
from video_models import load_vae, randn

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from stillguard.nodes.bridge.surrogates.denoiser import Conditioning
    from stillguard.nodes.bridge.surrogates.diffusion import DiffusionSurrogate

SIDE = 128
pytestmark = pytest.mark.usefixtures("comfy")


def prompt(seed: int, **options: object) -> Conditioning:
    return [[randn(1, 7, 16, seed=seed), options]]


@pytest.fixture(scope="module")
def surrogate(comfy: None) -> DiffusionSurrogate:
    from stillguard.nodes.surrogates.diffusion_models import DiffusionSurrogateNode
    from testkit import tiny_image_model

    with torch.inference_mode():
        model, vae = tiny_image_model("sd15"), load_vae(SHIPPED)
        return DiffusionSurrogateNode.execute(model, vae, prompt(0), prompt(1)).args[0]


@pytest.fixture
def photo(astronaut: Tensor) -> Tensor:
    return astronaut[..., 40 : 40 + SIDE, 60 : 60 + SIDE]


@dataclass(frozen=True, eq=False)
class Read:
    """The mean square of what taps read, and of the estimate's distance from the latents."""

    setup: PictureSetup
    taps: tuple[Tap, ...] = ()

    @property
    def surrogates(self) -> tuple[object, ...]:
        return self.setup.surrogates

    def features(self, seen: Observation) -> Features:
        latent = self.setup.latent(seen)
        return self.setup.estimate(seen, seen.draws.normal("noise", tuple(latent.shape)).to(latent), 0.6, taps=self.taps)

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        estimate, *read = self.features(adversarial)
        return F.mse_loss(estimate, self.setup.latent(adversarial)) + sum(tensor.square().mean() for tensor in read)


TAPS = (Tap("output", 2), Tap("attention", 0), Tap("output", 0))


def look(picture: Tensor, *, low_memory: bool = False) -> Observation:
    return Observation(picture, draws=SeededDraws(5), low_memory=low_memory)


def gradient(surrogate: DiffusionSurrogate, photo: Tensor, *, low_memory: bool, width: float | None = None) -> tuple[Tensor, float]:
    """Of the taps' loss; and the slope along its sign by differences of this half width."""
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.diffusion import diffusion_setup
    from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates

    slope = 0.0
    with autograd_session():
        surrogates = Surrogates()
        loss = Read(diffusion_setup(surrogates, surrogate), TAPS)
        with surrogates.on_device(height=SIDE, width=SIDE, low_memory=low_memory):
            clean, leaf = Observation(photo.clone()), photo.clone().requires_grad_()
            with surrogates.step():
                Objective((Term("read", 1.0, loss),)).backward(clean, look(leaf, low_memory=low_memory))
            if width is not None:
                with torch.no_grad():
                    up, down = (float(loss(clean, look(photo + side * width * leaf.grad.sign()))) for side in (1, -1))
                slope = (up - down) / (2 * width)
    return leaf.grad, slope


def test_the_gradient_is_finite_differences_and_the_same_in_low_memory_with_turns(
    surrogate: DiffusionSurrogate, photo: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stillguard.nodes.bridge.surrogates import run_surrogates as residents

    fast, difference = gradient(surrogate, photo, low_memory=False, width=3e-4)
    assert difference == pytest.approx(float(fast.abs().sum()), rel=0.03)
    monkeypatch.setattr(residents, "takes_turns", lambda: True)
    low, _ = gradient(surrogate, photo, low_memory=True)
    assert float((low - fast).norm() / fast.norm()) < 1e-4


def with_patches(surrogate: DiffusionSurrogate) -> DiffusionSurrogate:
    """As a LoRA's loader leaves a model: the same one, and what is to be added to its weights."""
    from dataclasses import replace

    model = surrogate.model.clone()
    weights = {key: value for key, value in model.model.state_dict().items() if key.endswith("attn1.to_q.weight")}
    assert set(model.add_patches({key: ("diff", (randn(*value.shape, seed=6),)) for key, value in weights.items()})) == set(weights)
    return replace(surrogate, model=model)


@pytest.mark.parametrize("patched", [False, True])
def test_the_model_answers_what_core_gets_of_it_and_blocks_give_what_hooks_see(
    surrogate: DiffusionSurrogate, photo: Tensor, patched: bool
) -> None:
    """Under both prompts: core's own guider is the oracle, and hooks of PyTorch on the user's model."""
    import comfy.model_management
    import comfy.samplers
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.diffusion import diffusion_setup
    from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates

    surrogate = with_patches(surrogate) if patched else surrogate
    with autograd_session():
        surrogates = Surrogates()
        setup = diffusion_setup(surrogates, surrogate)
        with surrogates.on_device(height=SIDE, width=SIDE, low_memory=False), torch.no_grad():
            seen = look(photo)
            estimate, *read = Read(setup, TAPS).features(seen)
            latent = setup.latent(seen)
            noise = seen.draws.normal("noise", tuple(latent.shape))
            noisy, sigma = setup.model.noised(latent, noise, 0.6), setup.model.denoiser.sigma(0.6, latent)
            assert float(setup.model.denoiser.sigma(1.0, latent)) == pytest.approx(float(surrogate.model.model.model_sampling.sigma_max))
            negative = setup.estimate(seen, noise, 0.6, negative=True)[0]
    for conditioning, ours in ((surrogate.positive, estimate), (surrogate.negative, negative)):
        seen_by_hooks: list[Tensor] = []
        blocks = surrogate.model.model.diffusion_model.input_blocks
        hook = blocks[2][-1].register_forward_hook(lambda module, inputs, output: seen_by_hooks.append(output.clone()))  # noqa: B023
        guider = comfy.samplers.CFGGuider(surrogate.model)
        guider.set_conds(conditioning, conditioning)
        guider.set_cfg(1.0)
        sampler = comfy.samplers.KSAMPLER(lambda model, x, sigmas, **options: model(x, sigmas[:1], **options.get("extra_args", {})))
        with torch.inference_mode():
            # One call of the model, whose answer is what the sampler gives; it noises latents of nothing.
            theirs = guider.sample(noisy / sigma, torch.zeros_like(noisy), sampler, torch.stack([sigma[0], sigma[0] * 0]))
        hook.remove()
        theirs = surrogate.model.model.process_latent_in(theirs)
        assert float((ours - theirs).abs().max()) < 1e-4 * float(theirs.abs().max())
        if ours is estimate:
            assert torch.allclose(read[0], seen_by_hooks[0].flatten(2).mT, rtol=1e-4, atol=1e-5)
    comfy.model_management.unload_all_models()
    # Block 2 ends with a level's downsampling.
    assert [read[index].shape for index in (2, 0)] == [(1, (SIDE // 8) ** 2, 32), (1, (SIDE // 16) ** 2, 32)]
    assert torch.allclose(read[1].sum(-1), torch.ones(()), atol=1e-5)


def test_one_copy_serves_every_surrogate_of_a_model(surrogate: DiffusionSurrogate) -> None:
    from dataclasses import replace

    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.diffusion import diffusion_setup
    from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates

    with autograd_session():
        surrogates = Surrogates()
        first, other = (diffusion_setup(surrogates, one) for one in (surrogate, replace(surrogate, positive=prompt(2))))
        assert first is diffusion_setup(surrogates, surrogate)
        assert first.model is not other.model
        assert first.model.denoiser is other.model.denoiser
        assert first.vae is other.vae


def test_a_pass_takes_what_was_counted(surrogate: DiffusionSurrogate, photo: Tensor) -> None:
    from stillguard.engine.compute.memory import LiveBytes
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.diffusion import diffusion_pass, diffusion_setup
    from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates

    with autograd_session():
        surrogates = Surrogates()
        setup = diffusion_setup(surrogates, surrogate)
        counted = diffusion_pass(setup.model, setup.vae).footprint(SIDE, SIDE, low_memory=False)
        with surrogates.on_device(height=SIDE, width=SIDE, low_memory=False), LiveBytes() as count, surrogates.step():
            noisy = randn(1, 4, SIDE // 8, SIDE // 8, seed=3).requires_grad_()
            setup.model.estimate(noisy, 0.6)[0].square().mean().backward()
    assert counted.peak == pytest.approx(count.peak, rel=0.15)


@pytest.mark.parametrize("kind", ["sd15", "SDXL", "Flux"])
def test_the_lowest_level_is_the_least_noise_of_the_schedule(kind: str) -> None:
    """Which core calls none: losses that divide by it, as the training loss does, would be no numbers at the first of 1000 timesteps."""
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.denoiser import DifferentiableDenoiser
    from testkit import tiny_image_model

    with autograd_session():
        model = tiny_image_model("sd15") if kind == "sd15" else image_model(kind)
        denoiser, sampling = DifferentiableDenoiser(model), model.model.model_sampling
        sigmas = [float(denoiser.sigma(level, torch.zeros(1))) for level in (0.0, EVERY[1], EVERY[-1])]
    assert sigmas[0] == pytest.approx(float(sampling.sigma_min))
    assert 0 < sigmas[0] < sigmas[1] < sigmas[2] == pytest.approx(float(sampling.sigma_max))
    assert denoiser.output_scale(0.0) > 0


def view_of(kind: str) -> tuple[Any, Any, Any]:
    """Inside `autograd_session`: the surrogates of a run, a small model as one of them, and its place 10x10 in latents."""
    from stillguard.nodes.bridge.surrogates.denoiser import denoiser_resident, owned
    from stillguard.nodes.bridge.surrogates.diffusion import DifferentiableDiffusionModel
    from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates

    surrogates, model = Surrogates(), image_model(kind)
    prompt = owned(image_prompt())
    view = DifferentiableDiffusionModel(denoiser_resident(surrogates, model).view, prompt, prompt)
    return surrogates, view, image_latents(model, 10)


@pytest.mark.parametrize("kind", KINDS)
def test_low_memory_gives_the_same_gradient_through_any_transformer(kind: str) -> None:
    """Many of core's blocks add to their inputs in place, which what is computed again must not see."""
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.taps import tapped_blocks

    with autograd_session():
        surrogates, view, latents = view_of(kind)
        outputs = [Tap("output", block) for block in range(len(tapped_blocks(view.denoiser.network, "output")))]
        for taps in ([], [*outputs, Tap("attention", 0)]):
            found = []
            for low_memory in (False, True):
                with surrogates.on_device(height=80, width=80, low_memory=low_memory), surrogates.step():
                    leaf = latents.clone().requires_grad_()
                    estimate, *read = view.estimate(leaf, 0.6, taps=taps)
                    sum((tensor.square().mean() for tensor in read), estimate.square().mean()).backward()
                    found.append(leaf.grad)
            assert float(found[0].norm()) > 0
            assert float((found[1] - found[0]).norm()) < 1e-5 * float(found[0].norm())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "SDXL"])
def test_outputs_are_the_pictures_tokens(kind: str) -> None:
    """The first corner of the estimate comes from one token of what the last block gives, which is the tap's first."""
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.taps import tapped_blocks

    with autograd_session():
        surrogates, view, latents = view_of(kind)
        blocks = tapped_blocks(view.denoiser.network, "output")
        given: list[Tensor] = []

        def keep(module: object, inputs: object, output: Any) -> None:
            given[:] = [part for part in (output if isinstance(output, tuple) else (output,)) if part is not None]

        with surrogates.on_device(height=80, width=80, low_memory=False), surrogates.step():
            blocks[-1].register_forward_hook(keep)
            taps = [Tap("output", block) for block in range(len(blocks))]
            estimate, *read = view.estimate(latents.requires_grad_(), 0.6, taps=taps)
            slopes = torch.autograd.grad(estimate[..., :2, :2].sum(), given, allow_unused=True)
    assert [tuple(tokens.shape[:2]) for tokens in read] == [(1, 25)] * len(blocks)
    (tokens, slope), *others = [(part, slope) for part, slope in zip(given, slopes, strict=True) if slope is not None and slope.any()]
    assert not others
    (place,) = slope[0].abs().sum(-1).nonzero()
    assert torch.equal(read[-1][0, 0], tokens[0, int(place)])


def test_what_was_counted_does_not_stay() -> None:
    """SDXL is told sizes, which core computes: without values while memory is counted."""
    from types import SimpleNamespace

    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.diffusion import diffusion_pass

    with autograd_session():
        surrogates, view, latents = view_of("SDXL")
        vae: Any = SimpleNamespace(multiple=8, socket=SimpleNamespace(latent_channels=4, latent_dim=2))
        diffusion_pass(view, vae).footprint(80, 80, low_memory=False)
        with surrogates.on_device(height=80, width=80, low_memory=False), torch.no_grad():
            assert torch.isfinite(view.estimate(latents, 0.6)[0]).all()


def test_a_prompt_for_all_steps_is_not_refused(surrogate: DiffusionSurrogate) -> None:
    """As some of core's nodes write it down."""
    from stillguard.nodes.surrogates.diffusion_models import DiffusionSurrogateNode

    whole = prompt(0, start_percent=0.0, end_percent=1.0, guidance=None)
    assert DiffusionSurrogateNode.execute(surrogate.model, surrogate.vae, whole).args[0].positive is whole


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("vae", "The VAE makes latents of 16 channels and the model reads 4"),
        ("weights", "The model's weights are quantised (float8_e4m3fn)"),
        ("control", "What is connected to `positive` carries a ControlNet"),
        ("gligen", "What is connected to `positive` carries places of GLIGEN"),
        ("range", "What is connected to `positive` carries a range of steps"),
        ("parts", "What is connected to `negative` has 2 parts"),
    ],
)
def test_mistakes(surrogate: DiffusionSurrogate, change: str, sentence: str) -> None:
    from types import SimpleNamespace

    from stillguard.nodes.surrogates.diffusion_models import DiffusionSurrogateNode
    from testkit import tiny_image_model

    model: ModelPatcher = tiny_image_model("sd15")
    given: dict[str, Any] = {"model": model, "vae": surrogate.vae, "positive": prompt(0), "negative": prompt(1)}
    if change == "vae":
        given["vae"] = SimpleNamespace(latent_channels=16, latent_dim=2)
    elif change == "weights":
        weight = model.model.diffusion_model.out[2].weight
        weight.requires_grad_(False).data = weight.data.to(torch.float8_e4m3fn)
    elif change == "control":
        given["positive"] = prompt(0, control=object())
    elif change == "gligen":
        given["positive"] = prompt(0, gligen=("position", object(), []))
    elif change == "range":
        given["positive"] = prompt(0, start_percent=0.0, end_percent=0.5)
    else:
        given["negative"] = [*prompt(0), *prompt(1)]
    with pytest.raises(ValueError, match="^" + re.escape(sentence)):
        DiffusionSurrogateNode.execute(**given)


@pytest.mark.parametrize("kind", ["SDXL", "Flux"])
def test_half_precision_keeps_the_gradient(surrogate: DiffusionSurrogate, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, with a gradient as small as a mean over many values makes it; kernels of the CPU compute in fp16 too."""
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.memory import precision
    from stillguard.nodes.bridge.surrogates.denoiser import DifferentiableDenoiser

    monkeypatch.setattr(precision, "gradient_dtype", lambda device: torch.float16)
    found = []
    with autograd_session():
        for dtype in (torch.float32, torch.float16):
            model = image_model(kind, dtype)
            denoiser = DifferentiableDenoiser(model)
            assert denoiser.model.get_dtype_inference() == dtype
            noisy = image_latents(model, 8).requires_grad_()
            with in_place_allowed():
                estimate, *_ = denoiser.estimate(noisy, 0.6, denoiser.conditioned(image_prompt(), noisy.detach()))
                (1e-7 * estimate.square().mean()).backward()
            found.append(noisy.grad)
    exact, half = found
    assert float(torch.cosine_similarity(exact.flatten(), half.flatten(), dim=0)) > 0.99
