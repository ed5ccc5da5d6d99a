"""Equations 9 and 10 on small networks in the public formats, and what the loop does with them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bench import animator_files
from bench.memory import peak_bytes
from stillguard.engine import Objective, Observation, Term, WorkingSize, protect
from stillguard.engine.animators.pose_animator import PoseAnimator, last_timesteps, load_pose_animator, noise_schedule
from stillguard.engine.draws import SeededDraws, seeded_draws
from stillguard.engine.losses.dormant import CLIPSemantic, FrameIncoherence, ReferenceFeature, VAELatent
from stillguard.engine.losses.posed import PosedClip, ReferenceSetup
from stillguard.engine.surrogates.reference_net import ReferenceNet, load_reference_net
from support import RandomEncoder
from torch import Tensor
from torch.nn import functional as F

WORKING = WorkingSize(longest=128)
VAE, CLIP = RandomEncoder(0), RandomEncoder(1, channels=32)
TEXT = torch.randn(1, 7, 32, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("dormant")
    return {**animator_files.animate_anyone(folder), "magic_animate": animator_files.magic_animate(folder)}


@pytest.fixture(scope="module")
def net(files: dict[str, Path]) -> ReferenceNet:
    return load_reference_net(files["reference_unet"])


@pytest.fixture(scope="module")
def animator(files: dict[str, Path]) -> PoseAnimator:
    return load_pose_animator(files["denoising_unet"], files["motion_module"], files["pose_guider"])


@pytest.fixture(scope="module")
def frames(net: ReferenceNet, animator: PoseAnimator) -> FrameIncoherence:
    pose = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(3))
    signal = noise_schedule().alphas_cumprod
    return FrameIncoherence(PosedClip(animator, ReferenceSetup(net, VAE, CLIP, unconditional=True), pose, signal, last_timesteps()))


@pytest.fixture(scope="module")
def objective(frames: FrameIncoherence, files: dict[str, Path]) -> Objective:
    """All of Eq 13 but the penalty."""
    magic = ReferenceSetup(load_reference_net(files["magic_animate"]), VAE, TEXT)
    return Objective(
        (
            Term("latent", 10.0, VAELatent(VAE)),
            Term("semantic", 10.0, CLIPSemantic(CLIP)),
            Term("reference", 100.0, ReferenceFeature(frames.clip.reference)),
            Term("frames", 1.0, frames),
            Term("magic", 100.0, ReferenceFeature(magic, last_timesteps())),
        )
    )


@pytest.fixture(scope="module")
def clean(astronaut: Tensor) -> Tensor:
    """Large enough that the deepest level has more than one position: GroupNorm over two numbers is a step function."""
    return astronaut[..., 0:128, 64:192]


@pytest.fixture(scope="module")
def perturbed(clean: Tensor) -> Tensor:
    noise = torch.rand(clean.shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return (clean + noise * 8 / 255).clamp(0, 1)


def gradient(objective: Objective, clean: Tensor, perturbed: Tensor, *, low_memory: bool = False) -> Tensor:
    leaf = perturbed.clone().requires_grad_()
    objective.backward(Observation(clean), Observation(leaf, draws=SeededDraws(9), low_memory=low_memory))
    return leaf.grad


def error(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_consistency_is_the_mean_over_all_pairs(frames: FrameIncoherence, clean: Tensor, perturbed: Tensor) -> None:
    """And alignment the mean over frames, in the plain words of Eq 10."""
    seen = Observation(perturbed, draws=SeededDraws(9))
    target = VAE.encode(clean) * 0.18215
    predicted = frames.clip.frames_of(Observation(clean), seen).unbind(dim=2)
    aligned = sum(F.mse_loss(frame, target) for frame in predicted) / 5
    pairs = [F.mse_loss(a, b) for a, b in itertools.combinations(predicted, 2)]
    expected = 2.0 * aligned + 3.0 * sum(pairs) / len(pairs)
    weighted = replace(frames, alignment=2.0, consistency=3.0)
    assert float(weighted(Observation(clean), seen)) == pytest.approx(float(expected), rel=1e-5)


def test_gradient_of_the_whole_objective_agrees_with_finite_differences(objective: Objective, clean: Tensor, perturbed: Tensor) -> None:
    slope = gradient(objective, clean, perturbed)
    direction = slope / slope.abs().max()

    def value(step: float) -> float:
        seen = Observation(perturbed + step * direction, draws=SeededDraws(9))
        reference = Observation(clean)
        return sum(term.weight * float(term.loss(reference, seen)) for term in objective.terms)

    with torch.no_grad():
        measured = (value(1e-3) - value(-1e-3)) / 2e-3
    assert measured == pytest.approx(float((slope * direction).sum()), rel=0.01)


def test_low_memory_and_checkpointing_give_the_same_gradient(
    objective: Objective, animator: PoseAnimator, clean: Tensor, perturbed: Tensor
) -> None:
    fast = gradient(objective, clean, perturbed)
    assert error(gradient(objective, clean, perturbed, low_memory=True), fast) < 1e-5
    animator.checkpointing = True
    try:
        assert error(gradient(objective, clean, perturbed, low_memory=True), fast) < 1e-5
    finally:
        animator.checkpointing = False


def test_checkpointing_saves_memory(frames: FrameIncoherence, animator: PoseAnimator, clean: Tensor, perturbed: Tensor) -> None:
    """Guards the test above: it is really on."""
    peaks = []
    for wanted in (False, True):
        animator.checkpointing = wanted
        try:
            with peak_bytes() as peaked:
                gradient(Objective((Term("frames", 1.0, frames),)), clean, perturbed)
        finally:
            animator.checkpointing = False
        peaks.append(peaked())
    assert peaks[1] < 0.6 * peaks[0]


def test_every_term_takes_part(objective: Objective, clean: Tensor, perturbed: Tensor) -> None:
    whole = gradient(objective, clean, perturbed)
    for left_out in objective.terms:
        rest = Objective(tuple(term for term in objective.terms if term is not left_out))
        assert error(gradient(rest, clean, perturbed), whole) > 1e-6, left_out.name


def test_clean_features_are_computed_once_for_each_timestep_and_shared_ones_once_a_step(
    objective: Objective, net: ReferenceNet, clean: Tensor
) -> None:
    calls: list[int] = []
    handle = net.register_forward_pre_hook(lambda module, inputs: calls.append(inputs[1]))
    try:
        list(protect(clean, objective, working_size=WORKING, steps=3))
    finally:
        handle.remove()
    # AnimateAnyone's net is asked at 0 only: once for the clean picture, and once a step for Eq 9 and Eq 10 together.
    assert calls == [0] * 4


def test_terms_draw_the_same_timestep_and_steps_different_ones(objective: Objective, animator: PoseAnimator, clean: Tensor) -> None:
    magic = next(term.loss for term in objective.terms if term.name == "magic")
    seen: dict[str, list[int]] = {"magic": [], "animator": []}

    def note(module: torch.nn.Module, inputs: tuple[Tensor, int]) -> None:
        seen["magic"].append(inputs[1])

    handles = [
        magic.setup.net.register_forward_pre_hook(note),
        animator.unet.register_forward_pre_hook(lambda module, inputs: seen["animator"].append(int(inputs[1]))),
    ]
    try:
        list(protect(clean, objective, working_size=WORKING, steps=8, seed=4))
    finally:
        for handle in handles:
            handle.remove()
    assert set(seen["animator"]) == set(seen["magic"]) <= set(last_timesteps())
    assert len(set(seen["animator"])) > 2


def test_draws_follow_from_the_seed_and_differ_by_purpose_and_step() -> None:
    first, second = next(seeded_draws(1)), seeded_draws(1)
    same, later = next(second), next(second)
    assert torch.equal(first.normal("frames", (8,)), same.normal("frames", (8,)))
    assert torch.equal(same.normal("frames", (8,)), same.normal("frames", (8,)))
    assert not torch.equal(same.normal("frames", (8,)), same.normal("other", (8,)))
    assert not torch.equal(same.normal("frames", (8,)), later.normal("frames", (8,)))
    drawn = [SeededDraws(seed).integer("timestep", 10) for seed in range(300)]
    assert set(drawn) == set(range(10))


def test_the_unconditional_row_is_only_extra(net: ReferenceNet, clean: Tensor) -> None:
    seen = Observation(clean)
    both = ReferenceSetup(net, VAE, CLIP, unconditional=True)
    alone = ReferenceSetup(net, VAE, CLIP)
    for pair, single in zip(both.features(seen, 0), alone.features(seen, 0), strict=True):
        assert pair.shape[0] == 2
        torch.testing.assert_close(pair[1:], single, atol=1e-4, rtol=1e-4)
    for name, feature in both.bank(seen, 0).items():
        torch.testing.assert_close(feature, alone.bank(seen, 0)[name], atol=1e-4, rtol=1e-4)


def test_guidance_one_leaves_the_unconditional_row_out(frames: FrameIncoherence, animator: PoseAnimator, clean: Tensor) -> None:
    calls: list[int] = []
    handle = animator.unet.register_forward_pre_hook(lambda module, inputs: calls.append(1))
    try:
        for guidance in (3.5, 1.0):
            replace(frames, clip=replace(frames.clip, guidance=guidance))(Observation(clean), Observation(clean, draws=SeededDraws(1)))
    finally:
        handle.remove()
    assert len(calls) == 3


def test_the_loss_grows(objective: Objective, clean: Tensor) -> None:
    steps = list(protect(clean, objective, working_size=WORKING, steps=12, seed=2))
    for name in ("reference", "magic", "latent"):
        assert steps[-1].losses[name] > 1.5 * steps[1].losses[name], name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_points_the_same_way(
    files: dict[str, Path], frames: FrameIncoherence, clean: Tensor, perturbed: Tensor, dtype: torch.dtype
) -> None:
    clip = replace(
        frames.clip,
        animator=load_pose_animator(files["denoising_unet"], files["motion_module"], files["pose_guider"], dtype=dtype),
        reference=replace(frames.clip.reference, net=load_reference_net(files["reference_unet"], dtype=dtype)),
    )
    low = replace(frames, clip=clip)
    exact, rough = (gradient(Objective((Term("frames", 1e-3, loss),)), clean, perturbed) for loss in (frames, low))
    assert float(F.cosine_similarity(exact.flatten() * 1e6, rough.flatten() * 1e6, dim=0)) > (0.98 if dtype == torch.bfloat16 else 0.999)


def test_what_cannot_be_frames_is_said_in_one_sentence(frames: FrameIncoherence) -> None:
    with pytest.raises(ValueError, match="choose 2 or more"):
        replace(frames.clip, frames=1)
    with pytest.raises(ValueError, match="There are 3 pose pictures for 5 frames"):
        replace(frames.clip, pose=frames.clip.pose.expand(3, -1, -1, -1))
    with pytest.raises(ValueError, match="give more of them"):
        replace(frames.clip, pose=frames.clip.pose.expand(4, -1, -1, -1), drawn=True)
