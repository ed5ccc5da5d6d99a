"""Low-rank adapters on core's own layers."""

from __future__ import annotations

import pytest
import torch
from image_models import image_latents, image_model, image_prompt
from stillguard.engine.compute.saved import in_place_allowed
from stillguard.engine.draws import SeededDraws
from stillguard.engine.surrogates.lora import Adapters, adaptable
from video_models import randn

pytestmark = pytest.mark.usefixtures("comfy")


@pytest.mark.parametrize("kind", ["sd15", "SDXL"])
def test_attention_and_feed_forward_of_every_block_learn(kind: str) -> None:
    from testkit import tiny_image_model

    network = (tiny_image_model("sd15") if kind == "sd15" else image_model(kind)).model.diffusion_model
    names = list(adaptable(network))
    blocks = [name for name, part in network.named_modules() if type(part).__name__ == "BasicTransformerBlock"]
    layers = [f"attn{one}.{layer}" for one in (1, 2) for layer in ("to_q", "to_k", "to_v", "to_out.0")]
    assert blocks
    assert sorted(names) == sorted(f"{block}.{layer}" for block in blocks for layer in (*layers, "ff.net.0.proj"))


def test_layers_that_cast_their_own_weights() -> None:
    """As core runs a model in more bits than its file has."""
    import comfy.ops

    layer = comfy.ops.manual_cast.Linear(8, 6, dtype=torch.bfloat16).requires_grad_(False)
    layer.weight.data, layer.bias.data = randn(6, 8, seed=0).bfloat16(), randn(6, seed=1).bfloat16()
    adapters = Adapters({"layer": layer}, rank=2)
    adapters.begin(SeededDraws(0))
    down, up = adapters.matrices["layer"]
    up.data = randn(6, 2, seed=2)
    x = randn(3, 8, seed=3)
    with adapters.applied():
        found = layer(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, x @ (layer.weight.float() + up @ down).mT + layer.bias.float())


@pytest.mark.parametrize("kind", ["SDXL", "Qwen"])
def test_recomputation_gives_the_same_gradients(kind: str) -> None:
    """Through a UNet, and through a transformer whose attention bears the same name."""
    from stillguard.nodes.bridge.autograd import autograd_session
    from stillguard.nodes.bridge.surrogates.denoiser import DifferentiableDenoiser, owned

    with autograd_session(), in_place_allowed():
        model = image_model(kind)
        denoiser, noisy = DifferentiableDenoiser(model), image_latents(model, 10)
        told = denoiser.conditioned(owned(image_prompt()), noisy)
        adapters = Adapters(adaptable(denoiser.network), rank=2)
        adapters.begin(SeededDraws(0))
        for index, parameter in enumerate(adapters.parameters):
            parameter += 0.1 * randn(*parameter.shape, seed=index)
            parameter.requires_grad_(True)
        found = []
        for denoiser.checkpointing in (False, True):
            (estimate,) = denoiser.estimate(noisy, 0.6, told, adapters=adapters)
            slopes = torch.autograd.grad(estimate.square().mean(), adapters.parameters, materialize_grads=True)
            found.append(torch.cat([slope.flatten() for slope in slopes]))
        assert not any(part._forward_hooks for part in denoiser.network.modules())
    assert float(found[0].norm()) > 0
    assert float((found[1] - found[0]).norm()) < 1e-5 * float(found[0].norm())
