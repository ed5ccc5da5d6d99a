"""Update rules against official trajectories and against torch.optim."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from stillguard.engine.spaces import RGB
from stillguard.engine.update import Adam, AdamW, MomentumSign, Normalised, Schedule, Sign, Update
from torch import Tensor

UNIT = 1 / 255


@pytest.fixture
def gradients() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, 5, 7, generator=generator) * 10**-i for i in range(6)]


def test_momentum_sign_and_projection_follow_the_official_dormant_run(shared: Path) -> None:
    """The official code's own gradients of its first two iterations give its own perturbations (h_pgd of the check vectors)."""
    golden = shared / "vectors" / "golden" / "vectors"
    run, x = load_file(golden / "h_pgd.safetensors"), load_file(golden / "inputs.safetensors")["x"]
    clean, space = x / 2 + 0.5, RGB(budget=8)  # its "16" counts in [-1,1], which is 8 levels
    delta = (run["tiled.delta.00"] / 2,)
    ascend = MomentumSign(step=1.0, decay=0.5).begin(delta, unit=UNIT)
    for index in range(2):
        delta = space.project(clean, None, ascend(delta, (run[f"tiled.grad.{index:02}"],)))
        official = run[f"tiled.delta.{index + 1:02}"] / 2
        assert ((delta[0] - official).abs() > 1e-5).float().mean() <= 0.001


def test_momentum_normalises_each_picture_by_its_mean_absolute_gradient(gradients: list[Tensor]) -> None:
    """Equation 12 written out for one picture, in float64."""
    ascend = MomentumSign(step=2.0, decay=0.7).begin((torch.zeros_like(gradients[0]),), unit=UNIT)
    variables, momentum, expected = (torch.zeros_like(gradients[0]),), torch.zeros(3, 5, 7, dtype=torch.float64), torch.zeros(3, 5, 7)
    for gradient in gradients:
        variables = ascend(variables, (gradient,))
        momentum = 0.7 * momentum + gradient[1].double() / gradient[1].double().abs().mean()
        expected = expected + 2.0 * UNIT * momentum.sign().float()
    torch.testing.assert_close(variables[0][1], expected)


def test_momentum_does_not_depend_on_the_scale_of_gradients(gradients: list[Tensor]) -> None:
    def run(factor: float) -> Tensor:
        ascend, variables = MomentumSign().begin((gradients[0],), unit=UNIT), (gradients[0],)
        for gradient in gradients:
            variables = ascend(variables, (gradient * factor,))
        return variables[0]

    assert torch.equal(run(1.0), run(2.0**-40))


def test_sign_is_momentum_without_memory(gradients: list[Tensor]) -> None:
    start = (torch.zeros_like(gradients[0]),)
    plain, remembering = Sign(1.5).begin(start, unit=UNIT), MomentumSign(1.5, decay=0.0).begin(start, unit=UNIT)
    for gradient in gradients:
        assert torch.equal(plain(start, (gradient,))[0], remembering(start, (gradient,))[0])


def test_adam_is_torch_adam(gradients: list[Tensor]) -> None:
    parameter = torch.nn.Parameter(torch.zeros_like(gradients[0]))
    oracle = torch.optim.Adam([parameter], lr=3 * UNIT, eps=1e-12, maximize=True)
    variables = (torch.zeros_like(gradients[0]),)
    ascend = Adam(step=3.0).begin(variables, unit=UNIT)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        oracle.step()
        variables = ascend(variables, (gradient,))
    torch.testing.assert_close(variables[0], parameter.detach())


def test_adamw_is_torch_adamw_and_leaves_alone_what_has_no_gradient(gradients: list[Tensor]) -> None:
    start = torch.randn(gradients[0].shape, generator=torch.Generator().manual_seed(1))
    parameter = torch.nn.Parameter(start.clone())
    oracle = torch.optim.AdamW([parameter], lr=3 * UNIT, eps=1e-12, weight_decay=0.3, betas=(0.8, 0.99), maximize=True)
    variables = (start, start)
    ascend = AdamW(step=3.0, decay=0.3, betas=(0.8, 0.99)).begin(variables, unit=UNIT)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        oracle.step()
        variables = ascend(variables, (gradient, torch.zeros_like(gradient)))
    torch.testing.assert_close(variables[0], parameter.detach())
    assert torch.equal(variables[1], start)


SCHEDULERS = {
    "constant": lambda optimiser, steps: torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0),
    "linear": lambda optimiser, steps: torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.01, total_iters=steps),
    "cosine": lambda optimiser, steps: torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, eta_min=0.01 * 3 * UNIT),
}


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("rule", [MomentumSign, Sign, Normalised, Adam])
def test_step_sizes_decay_as_torchs_schedulers(gradients: list[Tensor], rule: type[Update], schedule: Schedule) -> None:
    """Of rules by sign, the distance is the size itself; Adam is compared with Adam. Beyond the announced steps, sizes stay."""
    parameter = torch.nn.Parameter(torch.zeros_like(gradients[0]))
    optimiser = torch.optim.Adam([parameter], lr=3 * UNIT, eps=1e-12, maximize=True)
    scheduler = SCHEDULERS[schedule](optimiser, 4)
    variables = (torch.zeros_like(gradients[0]),)
    ascend = rule(step=3.0, schedule=schedule).begin(variables, unit=UNIT, steps=4)
    for index in range(6):
        parameter.grad, before = gradients[index].clone(), variables[0]
        size = optimiser.param_groups[0]["lr"]
        optimiser.step()
        if index < 4:
            scheduler.step()
        variables = ascend(variables, (gradients[index],))
        if rule is Adam:
            torch.testing.assert_close(variables[0], parameter.detach(), rtol=1e-5, atol=1e-7)
        else:
            moved = (variables[0] - before).flatten(1).square().mean(1).sqrt()
            torch.testing.assert_close(moved, torch.full_like(moved, size), rtol=1e-4, atol=1e-8)


def test_the_normalised_step_follows_each_pictures_gradient_whatever_its_size(gradients: list[Tensor]) -> None:
    start = (torch.zeros_like(gradients[0]),)
    scales = torch.tensor([1e-30, 0.0]).view(2, 1, 1, 1)
    (stepped,) = Normalised(2.0).begin(start, unit=UNIT)(start, (gradients[0] * scales,))
    direction = gradients[0][0] / gradients[0][0].square().mean().sqrt()
    torch.testing.assert_close(stepped[0], 2 * UNIT * direction)
    assert not stepped[1].any()
