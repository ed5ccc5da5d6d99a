"""Packs share one process: what others put in place of diffusers' functions does not reach our networks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adm_files import small_adm
from stillguard.engine.animators.lab_victims.unet import VictimUNet
from stillguard.engine.animators.pose_animator import load_pose_animator
from stillguard.engine.compute import unpatched
from stillguard.engine.purify.adm import load_adm
from stillguard.engine.surrogates.reference_net import load_reference_net
from stillguard.engine.weights.catalogue import LAB
from torch import Tensor, nn


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def reference(folder: Path) -> tuple[nn.Module, Callable[[Any, Tensor], Tensor]]:
    net = load_reference_net(LAB / "stillguard_lab_reference_unet.safetensors")
    return net, lambda net, z: torch.cat([f.flatten() for f in net(z, 0, randn(1, 1, net.context_dim))])


def animator(folder: Path) -> tuple[nn.Module, Callable[[Any, Tensor], Tensor]]:
    files = (LAB / f"stillguard_lab_{part}.safetensors" for part in ("denoising_unet", "motion_module", "pose_guider"))

    def run(net: Any, z: Tensor) -> Tensor:
        noisy, pose = z[:, :, None].expand(-1, -1, 2, -1, -1), net.guide(randn(2, 3, 128, 128))
        return net.denoise(noisy, 10, randn(1, 1, net.context_dim), pose)

    return load_pose_animator(*files), run


def adm(folder: Path) -> tuple[nn.Module, Callable[[Any, Tensor], Tensor]]:
    return load_adm(small_adm(folder)), lambda net, z: net(z[:, :3], torch.tensor([5]))


def victim(folder: Path) -> tuple[nn.Module, Callable[[Any, Tensor], Tensor]]:
    torch.manual_seed(0)
    net = VictimUNet()
    nn.init.normal_(net.unet.conv_out.weight)
    return net, lambda net, z: net.predict(torch.cat([z, z], 1), torch.tensor([0.5]), torch.cat([z, z], 1), randn(1, 3, 128, 128))


def gradient(net: nn.Module, run: Callable[[Any, Tensor], Tensor]) -> Tensor:
    latent = randn(1, 4, 16, 16).requires_grad_()
    run(net, latent).square().mean().backward()
    return latent.grad


def in_place(self: Any, hidden_states: Tensor) -> Tensor:
    """Upstream MimicMotion's and StableAnimator's GEGLU.forward."""
    hidden_states, gate = self.proj(hidden_states).chunk(2, dim=-1)
    return hidden_states.mul_(self.gelu(gate))


def broken(*args: object, **kwargs: object) -> None:
    raise AssertionError("another pack's function ran in a network of ours")


def patch_everything(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> int:
    """Every method, special ones included, of every class from diffusers that the network has parts of."""
    found = 0
    things = [thing for part in net.modules() for thing in (part, vars(part).get("processor"))]
    for kind in {kind for thing in things for kind in type(thing).__mro__ if kind.__module__.startswith("diffusers.")}:
        published = getattr(sys.modules[kind.__module__], kind.__name__)
        for name in [
            name for name in vars(published) if name in ("forward", "__call__", "gelu", "head_to_batch_dim", "get_attention_scores")
        ]:
            monkeypatch.setattr(published, name, in_place if (kind.__name__, name) == ("GEGLU", "forward") else broken)
            found += 1
    return found


@pytest.mark.parametrize("make", [reference, animator, adm, victim])
def test_patches_before_and_after_loading_change_nothing(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, run = make(tmp_path)
    before = gradient(net, run)
    assert patch_everything(net, monkeypatch) > 5
    assert torch.equal(gradient(net, run), before)
    unpatched._own.cache_clear()
    # As in a process where the patch came before the first network of ours.
    assert torch.equal(gradient(*make(tmp_path)), before)


def test_others_networks_keep_what_was_patched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers.models.activations import GEGLU

    reference(tmp_path)
    monkeypatch.setattr(GEGLU, "forward", lambda self, hidden: hidden * 2)
    assert torch.equal(GEGLU(4, 4)(randn(1, 4)), randn(1, 4) * 2)


def test_attention_is_pytorchs_while_it_has_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", broken)
    q = randn(1, 1, 3, 4).requires_grad_()
    with unpatched.own_attention():
        nn.functional.scaled_dot_product_attention(q, q, q).sum().backward()
    assert nn.functional.scaled_dot_product_attention is broken
    assert bool(q.grad.any())
