"""LPIPS against the lpips package's own forward pass with the same weights."""

from __future__ import annotations

from pathlib import Path

import lpips
import pytest
import torch
from safetensors.torch import load_file, save_file
from stillguard.engine.losses.dormant import LPIPSPenalty
from stillguard.engine.metrics import image
from stillguard.engine.observation import Observation
from stillguard.engine.surrogates.perceptual import PerceptualNetwork, load_perceptual_network
from torch import Tensor


@pytest.fixture(scope="module")
def noisy(astronaut: Tensor) -> Tensor:
    return (astronaut + torch.randn(astronaut.shape, generator=torch.Generator().manual_seed(0)) * 0.05).clamp(0, 1)


def test_equals_the_package(perceptual: PerceptualNetwork, vgg_file: Path, astronaut: Tensor, noisy: Tensor) -> None:
    oracle = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False).eval()
    convolutions = [m for m in oracle.net.modules() if isinstance(m, torch.nn.Conv2d)]
    state = load_file(vgg_file)
    numbers = sorted({int(key.split(".")[1]) for key in state})
    for number, convolution in zip(numbers, convolutions, strict=True):
        convolution.weight.data, convolution.bias.data = state[f"features.{number}.weight"], state[f"features.{number}.bias"]
    with torch.no_grad():
        expected = oracle(astronaut * 2 - 1, noisy * 2 - 1).flatten()
    torch.testing.assert_close(perceptual(astronaut, noisy), expected, rtol=1e-5, atol=1e-7)


def test_zero_for_equal_and_growing_with_noise(perceptual: PerceptualNetwork, astronaut: Tensor) -> None:
    noise = torch.randn(astronaut.shape, generator=torch.Generator().manual_seed(0))
    values = [float(perceptual(astronaut, (astronaut + noise * s).clamp(0, 1))) for s in (0, 0.02, 0.05, 0.1, 0.2)]
    assert values[0] == pytest.approx(0, abs=1e-9)
    assert values == sorted(values)
    assert values[-1] > 0.3


def test_gradient_is_finite_where_all_activations_are_zero(perceptual: PerceptualNetwork) -> None:
    """The package's own normalisation divides zero by zero there."""
    black = torch.zeros(1, 3, 64, 64, requires_grad=True)
    perceptual(black, torch.full((1, 3, 64, 64), 0.1)).sum().backward()
    assert bool(torch.isfinite(black.grad).all())


def test_penalty_is_zero_below_its_threshold(perceptual: PerceptualNetwork, astronaut: Tensor, noisy: Tensor) -> None:
    distance = float(perceptual(astronaut, noisy))
    clean, seen = Observation(astronaut), Observation(noisy)
    assert float(LPIPSPenalty(perceptual, threshold=distance + 0.01)(clean, seen)) == 0
    assert float(LPIPSPenalty(perceptual, threshold=distance - 0.01)(clean, seen)) == pytest.approx(0.01, abs=1e-5)


def test_accepts_torchvisions_own_file_and_refuses_others(vgg_file: Path, tmp_path: Path, astronaut: Tensor, noisy: Tensor) -> None:
    state = load_file(vgg_file)
    torch.save({**state, "classifier.0.weight": torch.zeros(2, 2)}, tmp_path / "vgg16-397923af.pth")
    ours, theirs = load_perceptual_network(vgg_file), load_perceptual_network(tmp_path / "vgg16-397923af.pth")
    assert torch.equal(ours(astronaut, noisy), theirs(astronaut, noisy))
    del state["features.28.bias"]
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other.safetensors is not a VGG16 file.*features.28.bias"):
        load_perceptual_network(tmp_path / "other.safetensors")


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    torch.save({"features.0.weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(Exception, match="holds program code instead of bare weights"):
        load_perceptual_network(tmp_path / "trap.pth")
    assert not (tmp_path / "ran").exists()


def test_what_listens_to_calls_of_the_network_hears_activations_too(perceptual: PerceptualNetwork, astronaut: Tensor) -> None:
    """ComfyUI's memory management brings a measure's network to its device when the network is called."""
    heard: list[int] = []
    hook = perceptual.register_forward_pre_hook(lambda module, inputs: heard.append(len(inputs)))
    image.lpips_measure(perceptual).see(astronaut[..., :64, :64])
    hook.remove()
    assert heard == [1]


@pytest.mark.parametrize("dtype", [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
def test_a_backbone_in_half_precision_gives_distances_in_fp32_and_nearly_their_gradient(
    perceptual: PerceptualNetwork, vgg_file: Path, astronaut: Tensor, noisy: Tensor, dtype: torch.dtype
) -> None:
    half = load_perceptual_network(vgg_file, dtype=dtype)
    first, second = astronaut[..., 32:64, 48:80], noisy[..., 32:64, 48:80]
    gradients = []
    for network in (perceptual, half):
        leaf = second.clone().requires_grad_()
        # As small as a mean over many pictures makes it: fp16 alone would lose it.
        (network(first, leaf).sum() * 1e-6).backward()
        gradients.append(leaf.grad.flatten())
    assert half(first, second).dtype == torch.float32
    assert float(half(first, second)) == pytest.approx(float(perceptual(first, second)), rel=0.01)
    assert float(torch.nn.functional.cosine_similarity(*gradients, dim=0)) > (0.999 if dtype == torch.float16 else 0.97)
