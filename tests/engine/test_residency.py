"""Networks that take turns: same result, and never more than two of them in memory."""

from __future__ import annotations

import pytest
import torch
from bench.memory import peak_bytes
from pretend_gpu import CUDA, PretendGPU, label
from stillguard.engine.objective import Objective, Term
from stillguard.engine.observation import Observation
from stillguard.engine.residency import on_device_together, one_at_a_time
from torch import Tensor, nn

CPU = torch.device("cpu")
BYTES = 4 * (1000 * 1000 + 1000)


class Wide(nn.Module):
    """Four megabytes of weights and hardly any activations; keeps a record of where its weights lie while it runs."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Linear(1000, 1000)
        self.layer.requires_grad_(False)
        self.used: set[int] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.used.add(self.layer.weight.data_ptr())
        return torch.tanh(self.layer(x))


class Read:
    """A loss that reads one network, after another one where given."""

    def __init__(self, net: Wide, before: Wide | None = None) -> None:
        self.net, self.before = net, before

    @property
    def surrogates(self) -> tuple[object, ...]:
        return (self.net,) if self.before is None else (self.net, self.before)

    def seen(self, observation: Observation) -> Tensor:
        def start() -> Tensor:
            return observation.image.flatten()[None, :1000]

        if self.before is None:
            return observation.features(self.net, "seen", lambda: (self.net(start()),))[0]
        first = observation.features(self.before, "seen", lambda: (self.before(start()),))
        return observation.features(self.net, "seen", lambda: (self.net(first[0]),))[0]

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        return (self.seen(adversarial) - self.seen(clean)).square().sum()


@pytest.fixture
def networks() -> list[Wide]:
    return [Wide(seed) for seed in range(4)]


@pytest.fixture
def objective(networks: list[Wide]) -> Objective:
    a, b, c, d = networks
    return Objective((Term("a", 1.0, Read(a)), Term("b", 1.0, Read(b, before=a)), Term("c", 2.0, Read(c)), Term("d", 1.0, Read(d))))


def steps(objective: Objective, count: int = 3) -> list[Tensor]:
    clean = torch.rand(1, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    reference, gradients = Observation(clean), []
    for number in range(count):
        leaf = (clean + 0.01 * (number + 1)).requires_grad_()
        objective.backward(reference, Observation(leaf, low_memory=True))
        gradients.append(leaf.grad)
    return gradients


def test_same_gradients_and_weights_back_where_they_were(networks: list[Wide], objective: Objective) -> None:
    expected = steps(objective)
    homes = [network.layer.weight.data_ptr() for network in networks]
    for network in networks:
        network.used.clear()
    with one_at_a_time(networks, CPU):
        moved = steps(objective)
    assert all(torch.equal(a, b) for a, b in zip(moved, expected, strict=True))
    assert [network.layer.weight.data_ptr() for network in networks] == homes
    assert not any(home in network.used for home, network in zip(homes, networks, strict=True))


def test_at_most_two_networks_are_in_memory(networks: list[Wide], objective: Objective) -> None:
    """The one at work and the one that is coming; all four would be twice as much."""
    with peak_bytes() as peaked, one_at_a_time(networks, CPU):
        steps(objective)
    assert 1.9 * BYTES < peaked() < 2.3 * BYTES


def test_of_two_networks_one_is_in_memory_and_what_is_foretold_is_so(networks: list[Wide]) -> None:
    """The other would be on its way all the time, and nothing would be saved."""
    few = networks[:2]
    objective = Objective(tuple(Term(str(place), 1.0, Read(network)) for place, network in enumerate(few)))
    with peak_bytes() as peaked, one_at_a_time(few, CPU):
        steps(objective)
    assert 0.9 * BYTES < peaked() < 1.3 * BYTES
    assert [on_device_together([1.0] * count) for count in range(5)] == [0, 1, 1, 2, 2]


def test_weights_are_back_after_an_interruption(networks: list[Wide]) -> None:
    home = networks[0].layer.weight.data_ptr()

    def interrupted() -> None:
        with one_at_a_time(networks, CPU):
            networks[0](torch.zeros(1, 1000))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert networks[0].layer.weight.data_ptr() == home
    assert not networks[0]._forward_pre_hooks


def test_the_right_network_is_fetched_ahead(networks: list[Wide], objective: Objective, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the third step on every copy was begun before it was needed, and none was for nothing."""
    from stillguard.engine import residency

    log: list[str] = []
    copies, take = residency._Turns._copies, residency._Turns.take

    def logged_take(self: residency._Turns, index: int, *rest: object) -> None:
        if index != self._current:
            log.append("ready" if self._coming is not None and self._coming[0] == index else "late")
        take(self, index, *rest)

    def logged_copies(self: residency._Turns, index: int) -> dict[str, Tensor]:
        log.append("copy")
        return copies(self, index)

    monkeypatch.setattr(residency._Turns, "take", logged_take)
    monkeypatch.setattr(residency._Turns, "_copies", logged_copies)
    with one_at_a_time(networks, CPU):
        steps(objective, 2)
        log.clear()
        steps(objective, 2)
    assert "late" not in log
    assert log.count("copy") == log.count("ready") > 8


def test_on_a_gpu_weights_come_home_and_pinned_memory_goes_back(networks: list[Wide]) -> None:
    before = [network.layer.weight.clone() for network in networks]
    with PretendGPU() as gpu:
        with one_at_a_time(networks, CUDA):
            for network in networks:
                network(torch.rand(1, 1000, device=CUDA))
            assert gpu.used > 0
            gpu.empty_host_cache.assert_not_called()
        gpu.empty_host_cache.assert_called_once()
        assert gpu.used == 0
        for network, weight in zip(networks, before, strict=True):
            assert label(network.layer.weight) == CPU
            assert torch.equal(network.layer.weight, weight)
