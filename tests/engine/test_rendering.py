"""A space whose picture networks make: the same gradients in low memory, where they take their turns like any network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from pretend_gpu import CUDA, PretendGPU
from stillguard.engine import Adam, EoT, Objective, Observation, Term, protect
from stillguard.engine.losses.dormant import CLIPSemantic, VAELatent
from stillguard.engine.observation import Cut, uncut
from stillguard.engine.picture import largest_change, to_levels
from stillguard.engine.residency import one_at_a_time
from stillguard.engine.spaces.space import as_file
from stillguard.engine.transforms import ResizeBack
from torch import Tensor, nn

Variables = tuple[Tensor, ...]


class Layer(nn.Module):
    """Frozen, and noted in a diary whenever it runs."""

    def __init__(self, layer: nn.Module, diary: list[Layer]) -> None:
        super().__init__()
        self.layer, self.diary = layer.requires_grad_(False), diary

    def forward(self, x: Tensor) -> Tensor:
        self.diary.append(self)
        return torch.tanh(self.layer(x))

    def encode(self, image: Tensor) -> Tensor:
        return self(image)

    def embed(self, image: Tensor) -> Tensor:
        return self(image).mean((2, 3))

    @property
    def weight(self) -> Tensor:
        return self.layer.weight


@dataclass(frozen=True, eq=False)
class Latent:
    """One denoising step and a decoder, shown as what they change: a latent has no budget in pixels."""

    encoder: Layer
    denoiser: Layer
    decoder: Layer
    budget: None = None
    unit: float = 0.02

    @property
    def surrogates(self) -> tuple[object, ...]:
        return (self.denoiser, self.decoder)

    def at(self, index: int) -> Latent:
        return self

    def variables(self, clean: Tensor, mask: Tensor | None, picture: Tensor) -> Variables:
        latent = self.encoder.encode(picture)
        return (latent, latent)

    def start(self, clean: Tensor, mask: Tensor | None, generator: torch.Generator) -> Variables:
        return self.variables(clean, mask, clean)

    def inside(self, clean: Tensor, mask: Tensor | None, generator: torch.Generator) -> Variables:
        latent, origin = self.start(clean, mask, generator)
        return (latent + 0.1, origin)

    def render(self, clean: Tensor, mask: Tensor | None, variables: Variables, cut: Cut = uncut) -> Tensor:
        latent, origin = variables
        both = torch.cat([latent, origin.detach()])
        (denoised,) = cut(self.denoiser, "denoised", lambda: (both - 0.1 * self.denoiser(both),))
        now, before = self.decoder(denoised).chunk(2)
        return clean + 0.2 * (now - before) * (1 if mask is None else mask)

    def project(self, clean: Tensor, mask: Tensor | None, variables: Variables) -> Variables:
        return variables

    def result(self, clean: Tensor, mask: Tensor | None, variables: Variables) -> Tensor:
        return as_file(clean, mask, self.render(clean, mask, variables))


@pytest.fixture
def diary() -> list[Layer]:
    return []


@pytest.fixture
def networks(diary: list[Layer]) -> tuple[Layer, ...]:
    """Encoder, denoiser, decoder of the space, and the two networks of the losses."""
    torch.manual_seed(0)
    made = (
        nn.Conv2d(3, 4, 8, stride=8),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.ConvTranspose2d(4, 3, 8, stride=8),
        nn.Conv2d(3, 4, 8, stride=4),
        nn.Conv2d(3, 6, 4, stride=4),
    )
    return tuple(Layer(layer, diary) for layer in made)


@pytest.fixture
def objective(networks: tuple[Layer, ...]) -> Objective:
    *_, vae, clip = networks
    return Objective((Term("latent", 10.0, VAELatent(vae)), Term("semantic", 30.0, CLIPSemantic(clip))))


def photo() -> Tensor:
    return torch.rand(1, 3, 48, 40, generator=torch.Generator().manual_seed(1))


def gradient(space: Latent, objective: Objective, *, low_memory: bool, device: torch.device | None = None) -> Tensor:
    clean = photo().to(device)
    start = space.inside(clean, None, torch.Generator())
    leaves = tuple(variable.detach().requires_grad_() for variable in start)
    reference = Observation(clean)
    for _ in range(2):
        seen = Observation(
            lambda cut: space.render(clean, None, leaves, cut),
            surrogates=space.surrogates,
            transform=ResizeBack(0.5),
            low_memory=low_memory,
        )
        objective.backward(reference, seen)
        seen.discard()
    assert leaves[0].grad is not None
    assert leaves[1].grad is None
    return leaves[0].grad.cpu()


def plain(space: Latent, objective: Objective) -> Tensor:
    """One graph without any cut."""
    latent, origin = space.inside(photo(), None, torch.Generator())
    leaf, transform = latent.detach().requires_grad_(), ResizeBack(0.5)
    image = transform(space.render(photo(), None, (leaf, origin)))
    vae, clip = (term.loss.surrogates[0] for term in objective.terms)
    first, second = vae.encode(photo()), clip.embed(photo())
    value = 10 * ((vae.encode(image) - first) / first.std()).square().mean() + 30 * (clip.embed(image) - second).square().mean()
    value.backward()
    return 2 * leaf.grad


@pytest.mark.parametrize("low_memory", [False, True])
def test_the_gradient_is_that_of_one_graph(networks: tuple[Layer, ...], objective: Objective, low_memory: bool) -> None:
    space = Latent(*networks[:3])
    torch.testing.assert_close(gradient(space, objective, low_memory=low_memory), plain(space, objective), rtol=1e-5, atol=1e-8)


def test_low_memory_renders_again_and_fast_does_not(networks: tuple[Layer, ...], objective: Objective, diary: list[Layer]) -> None:
    space = Latent(*networks[:3])

    def passes(*, low_memory: bool) -> Sequence[int]:
        diary.clear()
        gradient(space, objective, low_memory=low_memory)
        return [diary.count(network) for network in space.surrogates]

    assert passes(low_memory=False) == [2, 2]
    assert passes(low_memory=True) == [4, 4]


def test_on_a_gpu_the_spaces_networks_take_turns(networks: tuple[Layer, ...], objective: Objective) -> None:
    """A graph through weights that have left raises there, as on a real one; the losses' networks run while the decoder is away."""
    space = Latent(*networks[:3])
    fast = gradient(space, objective, low_memory=False)
    away: list[bool] = []
    networks[3].register_forward_hook(lambda *_: away.append(networks[2].weight.data_ptr() in pinned))
    with PretendGPU(), one_at_a_time(networks, CUDA):
        pinned = [network.weight.data_ptr() for network in networks]
        turned = gradient(space, objective, low_memory=True, device=CUDA)
    torch.testing.assert_close(turned, fast, rtol=1e-6, atol=1e-9)
    assert away == [True, True, True]  # for the clean picture, and in each of two looks


@pytest.mark.parametrize("masked", [False, True])
def test_a_latent_run_is_the_same_in_low_memory_and_is_measured(networks: tuple[Layer, ...], objective: Objective, masked: bool) -> None:
    clean, space = photo(), Latent(*networks[:3])
    mask = torch.zeros(1, 1, 48, 40) if masked else None
    if mask is not None:
        mask[..., 20:] = 1
    scaled = Objective((*objective.terms, Term("scaled", 1.0, VAELatent(networks[3], scale=1.0), scaled=True)))

    def run(**where: bool) -> tuple[Tensor, float]:
        steps = list(protect(clean, scaled, space=space, update=Adam(1.0), eot=EoT(samples=2), steps=4, mask=mask, **where))
        return steps[-1].image, steps[-1].losses["latent"]

    (fast, grown), (low, same) = run(), run(low_memory=True)
    assert torch.equal(to_levels(fast), to_levels(low))
    assert grown == pytest.approx(same)
    assert largest_change(clean, fast) >= 1
    if masked:
        assert torch.equal(fast[..., :20], clean[..., :20])
