"""One run inside ComfyUI's process: spaces without a budget, and what is left when a run is cancelled."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from stillguard.engine import RGB, RGBL2, Objective, Observation, Sign, Term, WorkingSize
from stillguard.engine.learning import undone
from stillguard.engine.observation import Cut, uncut
from stillguard.engine.picture import LEVELS, amplified
from stillguard.engine.residency import one_at_a_time
from stillguard.engine.spaces.space import as_file
from torch import Tensor, nn


class Waves:
    surrogates = ()

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        return torch.sin(30 * adversarial.image).mean()


class Learning(Waves):
    def __init__(self, weight: nn.Parameter) -> None:
        self.weight = weight

    @contextlib.contextmanager
    def training(self, generator: torch.Generator) -> Iterator[None]:
        with undone([self.weight]):
            yield

    def between(self, index: int, clean: Observation, picture: Observation) -> tuple[object, ...]:
        self.weight.data += 1
        return ()


def test_without_a_budget_the_result_is_measured_and_shown(comfy: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from stillguard.nodes.bridge import progress
    from stillguard.nodes.bridge.protect import run
    from stillguard.nodes.bridge.protect.loss_spec import LossSpec

    losses = (LossSpec("waves", 1.0, lambda surrogates: Waves()),)
    previews: list[float | None] = []
    monkeypatch.setattr(progress, "amplified", lambda *pictures, budget: previews.append(budget) or amplified(*pictures, budget=budget))
    photo = torch.rand(1, 48, 40, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 48, 40)
    mask[:, 10:30] = 1
    settings = run.Settings(run.space_spec(RGBL2(3.0)), Sign(2.0), None, 64, 4, 1, low_memory=False)
    with torch.inference_mode():
        protected, shown, budget = run.protect_images(photo, losses, settings, mask=mask, node_id=None)
    change = ((protected * LEVELS).round() - (photo * LEVELS).round()).abs()
    assert budget == float(change.max()) > 3
    assert float((shown - 0.5).abs().max()) == 0.5
    assert not change[:, 30:].any()
    assert previews
    assert set(previews) == {None}
    with pytest.raises(ValueError, match="A mask is empty"):
        run.protect_images(photo, losses, settings, mask=mask * 0, node_id=None)


def test_a_cancelled_run_leaves_surrogates_as_they_were(comfy: None) -> None:
    """At once, although the error that cancels still holds the loop."""
    from stillguard.nodes.bridge.protect import run

    class Cancelled(Exception):
        pass

    class Progress:
        def report(self, step: object, **_: object) -> None:
            seen.append(float(weight))
            if step.index == 2:
                raise Cancelled

    weight, seen = nn.Parameter(torch.zeros(()), requires_grad=False), list[float]()
    objective = Objective((Term("learning", 1.0, Learning(weight)),))
    settings = run.Settings(run.space_spec(RGB()), Sign(), None, 64, 4, 1, low_memory=False)
    surrogates = SimpleNamespace(step=contextlib.nullcontext)
    pictures = run._Pictures(torch.rand(1, 3, 40, 40), None, None)
    steps = run._Steps(pictures, objective, RGB(), settings, WorkingSize(64), surrogates)
    with pytest.raises(Cancelled) as held:
        steps.run(Progress(), before=0)
    assert seen == [1, 2]
    assert held.value.__traceback__ is not None
    assert float(weight) == 0


class Holder(nn.Module):
    """A decoder as a model of which it is the part that takes turns."""

    def __init__(self, diary: list[str]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.decoder, self.size = nn.ConvTranspose2d(4, 3, 8, stride=8).requires_grad_(False), nn.Parameter(torch.ones(()))
        self.decoder.register_forward_hook(lambda *_: diary.append("decoder"))


@dataclass(frozen=True, eq=False)
class Decoded:
    """What a decoder adds to the picture, by its latent: without a budget in pixels."""

    holder: Holder
    budget: None = None
    unit: float = 0.02

    @property
    def surrogates(self) -> tuple[object, ...]:
        return (self.holder,)

    def at(self, index: int) -> Decoded:
        return self

    def start(self, clean: Tensor, mask: Tensor | None, generator: torch.Generator) -> tuple[Tensor, ...]:
        return (torch.zeros(1, 4, clean.shape[2] // 8, clean.shape[3] // 8),)

    def inside(self, clean: Tensor, mask: Tensor | None, generator: torch.Generator) -> tuple[Tensor, ...]:
        return (self.start(clean, mask, generator)[0] + 0.1,)

    def variables(self, clean: Tensor, mask: Tensor | None, picture: Tensor) -> tuple[Tensor, ...]:
        weight = self.holder.decoder.weight
        return (nn.functional.conv2d(picture - clean, weight, stride=8) / weight.square().sum((1, 2, 3)).view(-1, 1, 1),)

    def render(self, clean: Tensor, mask: Tensor | None, variables: tuple[Tensor, ...], cut: Cut = uncut) -> Tensor:
        return clean + self.holder.decoder(variables[0]) * self.holder.size - self.holder.decoder(torch.zeros_like(variables[0]))

    def project(self, clean: Tensor, mask: Tensor | None, variables: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return variables

    def result(self, clean: Tensor, mask: Tensor | None, variables: tuple[Tensor, ...]) -> Tensor:
        return as_file(clean, mask, self.render(clean, mask, variables))


def test_a_space_that_renders_with_a_network_which_a_loss_trains(comfy: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same picture in both memories, up to rounding, from another one's start; what trains takes no turn, and is undone."""
    from stillguard.nodes.bridge.memory.devices import patched
    from stillguard.nodes.bridge.protect import run
    from stillguard.nodes.bridge.protect.loss_spec import LossSpec
    from stillguard.nodes.bridge.surrogates import run_surrogates as residents
    from stillguard.nodes.bridge.surrogates import turns
    from stillguard.nodes.bridge.surrogates.resident import Resident

    photo = torch.rand(1, 48, 40, 3, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25
    begun = (photo + 0.1).clamp(0, 1)
    diary, staying, holders, results = list[str](), list[object](), list[Holder](), []

    def resident(single: bool) -> Resident[Holder]:
        holder = Holder(diary)
        holders.append(holder)
        return Resident("The decoder", holder, patched(holder), network=holder.decoder, trained=[holder.decoder.bias])

    def space(surrogates: residents.Surrogates, index: int) -> Decoded:
        return Decoded(surrogates.get("decoder", resident).view)

    def loss(surrogates: residents.Surrogates) -> Learning:
        return Learning(surrogates.get("decoder", resident).view.decoder.bias)

    def watched(networks: object, device: object, *, trained: list[nn.Parameter]) -> contextlib.AbstractContextManager[None]:
        staying.extend(trained)
        return one_at_a_time(networks, device, trained=trained)

    monkeypatch.setattr(turns, "one_at_a_time", watched)
    for low_memory in (False, True):
        monkeypatch.setattr(residents, "takes_turns", lambda low_memory=low_memory: low_memory)
        losses = (LossSpec("learning", 1.0, loss),)
        settings = run.Settings(run.SpaceSpec(None, space), Sign(1.0), None, 64, 3, 1, low_memory=low_memory)
        with torch.inference_mode():
            results.append(run.protect_images(photo, losses, settings, mask=None, node_id=None, start=begun))
    (fast, _, budget), (low, _, _) = results
    assert diary
    assert [id(parameter) for parameter in staying] == [id(holders[1].decoder.bias)]
    assert all(torch.equal(holder.decoder.bias, Holder([]).decoder.bias) for holder in holders)
    assert float((fast - low).abs().max()) <= 1.01 / LEVELS
    assert budget == float(((fast * LEVELS).round() - (photo * LEVELS).round()).abs().max()) > 1
    # What the first stage added is still seen: without it the run ends elsewhere.
    with torch.inference_mode():
        other, *_ = run.protect_images(photo, losses, settings, mask=None, node_id=None)
    assert float((other - fast).abs().max()) > 2 / LEVELS


@pytest.mark.parametrize("rule", ["momentum sign", "sign", "adam", "adamw"])
def test_the_schedule_of_the_node_reaches_the_rule(comfy: None, rule: str) -> None:
    from stillguard.nodes.protect.protect import _update

    def last_of_twenty(schedule: str) -> float:
        variable, gradient = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
        ascend = _update({"update": rule, "step": 1.0, "decay": 0.5, "weight_decay": 0.0}, schedule).begin((variable,), unit=1.0, steps=20)
        moved = [(variable := ascend((variable,), (gradient,))[0]).clone() for _ in range(20)]
        return float(moved[-1] - moved[-2])

    assert last_of_twenty("constant") == pytest.approx(1, rel=1e-3)
    assert last_of_twenty("linear") == pytest.approx(1 - 0.99 * 19 / 20, rel=1e-3)
