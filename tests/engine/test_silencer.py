"""The nullifying loss: its value, its gradient, what a step costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import talking
import torch
from diffusers import AutoencoderKL
from stillguard.engine import Objective, Observation, Sign, Term, protect
from stillguard.engine.animators.talking_head.head import TalkingHead, talking_head
from stillguard.engine.draws import SeededDraws
from stillguard.engine.losses.silencer import REFERENCE, SEVERAL, AudioNullifying
from stillguard.engine.surrogates.reference_net import ReferenceNet
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

Networks = tuple[ReferenceNet, TalkingHead]


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Networks:
    return talking.small(tmp_path_factory.mktemp("talking"))


@pytest.fixture(scope="module")
def picture() -> Tensor:
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))


def slope(loss: AudioNullifying, picture: Tensor, *, low_memory: bool = False, seed: int = 0) -> tuple[float, Tensor]:
    leaf = picture.clone().requires_grad_()
    seen = Observation(leaf, draws=SeededDraws(seed), low_memory=low_memory)
    losses = Objective((Term("silence", 1.0, loss),)).backward(Observation(picture), seen)
    assert leaf.grad is not None
    return float(losses["silence"]), leaf.grad


def assert_same(gradient: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))


class Still:
    """A head whose denoiser always says the same."""

    def __init__(self, head: TalkingHead) -> None:
        self._head, self.timesteps = head, list[int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._head, name)

    def denoise(self, noisy: Tensor, timestep: int, *told: Any, **named: Any) -> Tensor:
        self.timesteps.append(timestep)
        self.noisy = noisy
        return torch.full_like(noisy, 2.0)


@pytest.mark.parametrize(("window", "weighted"), [((250, 251), False), ((60, 61), True)])
def test_the_value_is_the_equations(networks: Networks, picture: Tensor, window: tuple[int, int], weighted: bool) -> None:
    """v from z_t and z_0 without the noise: v = (sqrt(s) z_t - z_0) / sqrt(1 - s)."""
    net, head = networks
    still, vae = Still(head), talking.LinearVAE()
    loss = talking.nullifying(net, still, vae, windows=(window,), sampled="nothing")
    with torch.no_grad():
        value = float(loss(Observation(picture), Observation(picture)))
    signal = float(talking.SIGNAL[window[0]])
    target = vae.encode(picture)[:, :, None] * 0.18215
    velocity = (signal**0.5 * still.noisy - target) / (1 - signal) ** 0.5
    ratio = signal / (1 - signal)
    weight = min(ratio + 1, 5) / (ratio + 1)
    assert (weight < 1) is weighted
    assert value == pytest.approx(weight * float((2 - velocity).square().mean()), rel=1e-4)


def test_timesteps_are_those_of_the_windows(networks: Networks, picture: Tensor) -> None:
    net, head = networks
    for windows in (REFERENCE, SEVERAL):
        still = Still(head)
        loss = talking.nullifying(net, still, talking.LinearVAE(), windows=windows)
        for seed in range(8):
            with torch.no_grad():
                loss(Observation(picture), Observation(picture, draws=SeededDraws(seed)))
        drawn = [still.timesteps[place :: len(windows)] for place in range(len(windows))]
        assert all(first <= min(own) < max(own) < end for own, (first, end) in zip(drawn, windows, strict=True))


@pytest.mark.parametrize("before", ["grey", "portrait"])
def test_several_windows_are_the_sum_of_each_by_itself(networks: Networks, picture: Tensor, before: str) -> None:
    """Differentiated one after the other; against terms of an objective, whose draws for the same place are the same."""
    net, head = networks
    windows = ((100, 101), (200, 201))
    loss = talking.nullifying(net, head, talking.LinearVAE(), windows=windows, before=before, dropped=0.0)
    value, gradient = slope(loss, picture)
    single = []
    for place in range(len(windows)):

        class Shifted(SeededDraws):
            """The draws of the place that the window has among several."""

            def normal(self, purpose: str, shape: tuple[int, ...], place: int = place) -> Tensor:
                return super().normal(purpose.replace(" 0", f" {place}"), shape)

        leaf = picture.clone().requires_grad_()
        alone = talking.nullifying(net, head, talking.LinearVAE(), windows=windows[place : place + 1], before=before, dropped=0.0)
        measured = Objective((Term("one", 1.0, alone),)).backward(Observation(picture), Observation(leaf, draws=Shifted(0)))
        assert leaf.grad is not None
        single.append((float(measured["one"]), leaf.grad))
    assert value == pytest.approx(sum(number for number, _ in single), rel=1e-5)
    assert_same(gradient, single[0][1] + single[1][1])


@pytest.mark.parametrize("sampled", ["nothing", "portrait", "everything"])
def test_low_memory_and_checkpointing_change_nothing(networks: Networks, picture: Tensor, sampled: str) -> None:
    net, head = networks
    loss = talking.nullifying(net, head, talking.LinearVAE(), sampled=sampled)
    value, gradient = slope(loss, picture)
    head.checkpointing = True
    try:
        again, recomputed = slope(loss, picture, low_memory=True)
    finally:
        head.checkpointing = False
    assert again == pytest.approx(value, rel=1e-6)
    assert_same(recomputed, gradient)
    assert gradient.abs().max() > 0


def test_silence_is_heard_as_often_as_it_is_told(networks: Networks, picture: Tensor) -> None:
    net, head = networks

    def value(dropped: float, speech: Tensor, seed: int = 0) -> float:
        loss = talking.nullifying(net, head, talking.LinearVAE(), audio=speech, dropped=dropped)
        with torch.no_grad():
            return float(loss(Observation(picture), Observation(picture, draws=SeededDraws(seed))))

    one, other = talking.speech(seed=0), talking.speech(seed=1)
    assert value(1.0, one) == value(1.0, other)
    assert value(0.0, one) != value(0.0, other)
    # A tenth of a second is two frames, and has no whole window.
    assert value(0.0, one[:2]) != value(0.0, one[:1])


def test_the_gradient_is_through_the_reference_alone_and_descends(networks: Networks, picture: Tensor) -> None:
    """Three steps lower the loss at draws that no step had."""
    net, head = networks
    loss = talking.nullifying(net, head, talking.LinearVAE(), sampled="nothing", windows=((250, 260),))
    steps = list(protect(picture, Objective((Term("silence", -1.0, loss),)), update=Sign(4.0), steps=3))

    def heldout(seen: Tensor) -> float:
        values = []
        for seed in range(4):
            with torch.no_grad():
                values.append(float(loss(Observation(picture), Observation(seen, draws=SeededDraws(1000 + seed)))))
        return sum(values)

    assert heldout(steps[-1].image) < heldout(picture)


def test_a_step_encodes_the_portrait_once_and_reads_it_once(networks: Networks, picture: Tensor) -> None:
    net, head = networks
    for sampled, rows in (("nothing", [1]), ("portrait", [1]), ("everything", [2, 1])):
        vae, read = talking.LinearVAE(), list[int]()
        hook = net.register_forward_pre_hook(lambda module, inputs, read=read: read.append(len(inputs[0])))
        try:
            loss = talking.nullifying(net, head, vae, sampled=sampled)
            clean = Observation(picture)
            for look in range(2):
                vae.rows.clear()
                read.clear()
                leaf = picture.clone().requires_grad_()
                Objective((Term("silence", 1.0, loss),)).backward(clean, Observation(leaf, draws=SeededDraws(look)))
        finally:
            hook.remove()
        assert vae.rows == [1]
        assert read == rows


FULL_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "norm_num_groups": 32,
}


class MetaVAE:
    def __init__(self) -> None:
        with torch.device("meta"):
            self.network = AutoencoderKL(**FULL_VAE).eval().requires_grad_(False)

    def encode(self, image: Tensor) -> Tensor:
        return self.network.encode(image * 2 - 1).latent_dist.mean


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["reference", "faithful"])
def test_a_full_size_step_costs_what_it_must(shared: Path, mode: str) -> None:
    """Operations of a step at 512x512 against the parts of flops.json, of which the minimal step is made."""
    vectors = shared / "vectors"
    keys = json.loads((vectors / "manifests" / "hallo_net.json").read_text())["keys"]
    net, head = talking_head({key: torch.empty(shape, device="meta") for key, (shape, _) in keys.items()}, "net.pth")
    told = {"audio": torch.zeros(9, 12, 768), "face": torch.zeros(1, 512), "region": torch.zeros(1, 1, 512, 512)}
    loss = talking.nullifying(net, head, MetaVAE(), **told, sampled="nothing", mode=mode)
    clean = Observation(torch.empty(1, 3, 512, 512, device="meta"))
    with torch.no_grad():  # what stays for the whole run
        loss(clean, Observation(torch.empty(1, 3, 512, 512, device="meta")))
    picture = torch.empty(1, 3, 512, 512, device="meta", requires_grad=True)
    with FlopCounterMode(display=False) as counted:
        Objective((Term("silence", -1.0, loss),)).backward(clean, Observation(picture, draws=SeededDraws(0)))
    parts = json.loads((vectors / "hallo" / "flops.json").read_text())
    denoiser = {"reference": "denoising_unet_f1_eval", "faithful": "denoising_unet_f1_train_graph"}[mode]
    least = sum(
        parts[part]["forward_TFLOP"] + parts[part]["backward_to_input_TFLOP"]
        for part in ("vae_encode_b1_reference", "reference_unet_b1", denoiser)
    )
    if mode == "reference":
        assert least == pytest.approx(parts["one_stage1_step_minimal"]["forward_plus_backward_TFLOP"], rel=1e-3)
    assert counted.get_total_flops() / 1e12 < 1.1 * least
