"""Low-rank adapters against a network whose weights were changed by the same product; nothing of them stays."""

from __future__ import annotations

import copy

import pytest
import torch
from stillguard.engine.draws import SeededDraws
from stillguard.engine.surrogates.lora import Adapters, adaptable
from torch import Tensor, nn
from torch.func import functional_call


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_q, self.to_k = nn.Linear(width, width, bias=False), nn.Linear(width, width)
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Dropout(0.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.to_out(torch.tanh(self.to_q(x)) * self.to_k(x))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj_in, self.attn = nn.Linear(5, 6), Attention(6)
        self.blocks = nn.ModuleList([Attention(6)])

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks[0](self.attn(self.proj_in(x)))


NAMES = [f"{block}.{layer}" for block in ("attn", "blocks.0") for layer in ("to_q", "to_k", "to_out.0")]


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network().eval().requires_grad_(False)


def adapters(network: Network, *, up: float = 0.5) -> Adapters:
    made = Adapters(adaptable(network), rank=2, scale=0.7)
    made.begin(SeededDraws(3))
    with torch.no_grad():
        for index, (_, matrix) in enumerate(made.matrices.values()):
            matrix.copy_(up * torch.randn(matrix.shape, generator=torch.Generator().manual_seed(index)))
    return made


def merged(network: Network, made: Adapters) -> dict[str, Tensor]:
    weights = dict(network.named_parameters())
    return {f"{name}.weight": weights[f"{name}.weight"] + made.scale * up @ down for name, (down, up) in made.matrices.items()}


def test_layers_of_attention_are_found_in_order(network: Network) -> None:
    assert list(adaptable(network)) == NAMES
    assert adaptable(network, kinds=("GEGLU",)) == {}
    assert adaptable(network)["attn.to_q"] is network.attn.to_q


def test_outputs_and_gradients_are_those_of_changed_weights(network: Network) -> None:
    made, x = adapters(network), torch.randn(4, 5).requires_grad_()
    for parameter in made.parameters:
        parameter.requires_grad_(True)
    wanted = [x, *made.parameters]
    with made.applied():
        ours = network(x)
    theirs = functional_call(network, merged(network, made), x)
    torch.testing.assert_close(ours, theirs)
    slopes = [torch.autograd.grad(output.square().sum(), wanted) for output in (ours, theirs)]
    for mine, oracle in zip(*slopes, strict=True):
        torch.testing.assert_close(mine, oracle)


def test_they_begin_without_effect_and_follow_their_draws(network: Network) -> None:
    x = torch.randn(4, 5)
    first, same, other = (Adapters(adaptable(network), rank=2) for _ in range(3))
    for made, seed in ((first, 1), (same, 1), (other, 2)):
        with made.applied():
            assert torch.equal(network(x), network(x) * 1)
        made.begin(SeededDraws(seed))
        before = network(x)
        with made.applied():
            assert torch.equal(network(x), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters, same.parameters, strict=True))
    assert not torch.equal(first.parameters[0], other.parameters[0])
    # Of deviation 1 / rank, as wide as many numbers tell.
    wide = Adapters({"wide": nn.Linear(4000, 3)}, rank=4)
    wide.begin(SeededDraws(0))
    assert float(wide.parameters[0].std()) == pytest.approx(1 / 4, rel=0.02)
    assert [tuple(matrix.shape) for matrix in wide.parameters] == [(4, 4000), (3, 4)]


def test_nothing_of_them_stays_even_after_an_error(network: Network) -> None:
    x, state, before = torch.randn(4, 5), copy.deepcopy(network.state_dict()), None
    before, hooked = network(x), [len(part._forward_hooks) for part in network.modules()]
    made = adapters(network)
    with made.applied():
        assert not torch.equal(network(x), before)
    with pytest.raises(RuntimeError, match="mat1 and mat2"), made.applied():
        network(torch.randn(4, 3))
    assert torch.equal(network(x), before)
    assert [len(part._forward_hooks) for part in network.modules()] == hooked
    torch.testing.assert_close(network.state_dict(), state, rtol=0, atol=0)


def test_other_matrices_take_their_place_inside(network: Network) -> None:
    """As recomputation needs it: of a part of the network, whether the others are applied at that time or not."""
    made, x = adapters(network), torch.randn(4, 6)
    inside = made.within(network.blocks[0])
    assert list(inside) == [name for name in NAMES if name.startswith("blocks")]
    twice = {name: (down, 2 * up) for name, (down, up) in inside.items()}
    doubled = adapters(network, up=1.0)
    with doubled.applied():
        expected = network.blocks[0](x)
    with made.applied(twice):
        assert torch.equal(network.blocks[0](x), expected)
        assert made.within(network.blocks[0])["blocks.0.to_q"][1] is twice["blocks.0.to_q"][1]
    with made.applied():
        usual = network.blocks[0](x)
        with made.applied(twice):
            assert torch.equal(network.blocks[0](x), expected)
        assert torch.equal(network.blocks[0](x), usual)


def test_weights_that_autograd_must_not_keep_stay_untouched() -> None:
    """Inference tensors, as ComfyUI leaves a model's weights: what an adapter trains by does not go through them."""
    with torch.inference_mode():
        layer = nn.Linear(5, 6).requires_grad_(False)
    assert layer.weight.is_inference()
    made = Adapters({"layer": layer}, rank=2)
    made.begin(SeededDraws(0))
    made.parameters[1].requires_grad_(True)
    x = torch.randn(4, 5)
    with made.applied():
        layer(x).sum().backward()
    down = made.parameters[0]
    torch.testing.assert_close(made.parameters[1].grad, (x @ down.mT).sum(0).expand(6, -1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_they_compute_as_their_layer_does(network: Network, dtype: torch.dtype) -> None:
    made = adapters(network)
    network.to(dtype)
    with made.applied():
        assert network(torch.randn(4, 5, dtype=dtype)).dtype == dtype
    assert {parameter.dtype for parameter in made.parameters} == {torch.float32}
