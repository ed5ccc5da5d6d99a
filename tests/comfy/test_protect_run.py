"""One run inside ComfyUI's process: spaces without a budget, and what is left when a run is cancelled."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from stillguard.engine import RGB, RGBL2, Objective, Observation, Sign, Term, WorkingSize
from stillguard.engine.learning import undone
from stillguard.engine.picture import LEVELS, amplified
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
    from stillguard.nodes.bridge.protect.losses import LossSpec

    losses = (LossSpec("waves", 1.0, lambda surrogates: Waves()),)
    previews: list[float | None] = []
    monkeypatch.setattr(progress, "amplified", lambda *pictures, budget: previews.append(budget) or amplified(*pictures, budget=budget))
    photo = torch.rand(1, 48, 40, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 48, 40)
    mask[:, 10:30] = 1
    settings = run.Settings(RGBL2(3.0), Sign(2.0), None, 64, 4, 1, low_memory=False)
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
    settings = run.Settings(RGB(), Sign(), None, 64, 4, 1, low_memory=False)
    surrogates = SimpleNamespace(step=contextlib.nullcontext)
    steps = run._Steps(torch.rand(1, 3, 40, 40), objective, settings, WorkingSize(64), None, surrogates)
    with pytest.raises(Cancelled) as held:
        steps.run(Progress(), before=0)
    assert seen == [1, 2]
    assert held.value.__traceback__ is not None
    assert float(weight) == 0
