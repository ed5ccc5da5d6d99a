"""The first minutes on a GPU: whether it computes what the CPU does, how fast it is, and what it takes of memory.

    nox -s benchmarks -- first_gpu                       on CUDA, at most 8 minutes; without CUDA as below
    nox -s benchmarks -- first_gpu --small --device cpu  the same at toy size, to try the script

Needs no weights and no network: every network is random. Each part prints as it ends, and one that fails does not hide the others. The
exit status is 1 when the device computes something else than the CPU, when copies of weights race, or when a part fails. Read `correct` and
`races` first, then `speed` and `low memory`.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import statistics
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import dormant_step
import torch
from bench import weights
from dormant_step import FULL, SMALL, WEIGHTS, Ours, Plain, Scene
from safetensors.torch import save_file
from stillguard.engine import Observation
from stillguard.engine.draws import SeededDraws
from stillguard.engine.residency import one_at_a_time
from stillguard.engine.transforms import JPEG, GaussianBlur, GaussianNoise, ResizeBack
from torch import Tensor, nn

MINUTES = 8
# Of a gradient's norm. In fp32 two devices differ by the order in which they add up; a race or a wrong kernel differs by far more.
TOLERANCE, RACE = 1e-3, 1e-4
TFLOP = {"ours": 29.9, "plain": 44.1}  # of a step at full size and 512 px: the least that it takes, and the official order of work


@dataclass
class Report:
    """What is printed, with the time since the start, and whether anything was wrong."""

    began: float = field(default_factory=time.monotonic)
    wrong: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        print(f"[{self.seconds():4.0f} s] {text}", flush=True)

    def seconds(self) -> float:
        return time.monotonic() - self.began

    def compare(self, name: str, expected: Tensor, found: Tensor, *, tolerance: float | None = TOLERANCE) -> float:
        """Print how far a gradient is from the expected one; beyond the tolerance it counts as wrong, and None is for information."""
        expected, found = (tensor.detach().double().cpu().flatten() for tensor in (expected, found))
        error = float((found - expected).norm() / expected.norm().clamp_min(1e-300)) if bool(expected.any()) else float(found.norm())
        cosine = float(torch.cosine_similarity(expected, found, dim=0))
        signs = 100 * float((expected.sign() == found.sign()).double().mean())
        verdict = "" if tolerance is None else "  correct" if error <= tolerance else "  WRONG"
        self.say(f"  {name:46} error {error:8.1e}  cosine {cosine:8.5f}  equal signs {signs:6.2f} %{verdict}")
        if verdict.endswith("WRONG"):
            self.wrong.append(name)
        return error

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A failure inside is printed and counts as wrong, and what comes after runs all the same."""
        self.say(name)
        try:
            yield
        except Exception as error:
            self.say(f"  FAILED, {type(error).__name__}: {str(error).splitlines()[0][:300] if str(error) else ''}")
            traceback.print_exc(limit=-3)
            self.wrong.append(name)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@dataclass(frozen=True)
class Machine:
    """Where it runs, and at which size."""

    device: torch.device
    small: bool

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def pixels(self) -> int:
        return 64 if self.small else 512

    def scene(self, dtype: torch.dtype) -> Scene:
        """At the size that is timed; the same numbers for every dtype up to rounding."""
        return Scene(SMALL if self.small else FULL, self.pixels, str(self.device), dtype)

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def held(self) -> str:
        """Memory of the device, as torch counts it."""
        if not self.cuda:
            return "memory is counted on CUDA only"
        peak, reserved = torch.cuda.max_memory_allocated(self.device), torch.cuda.max_memory_reserved(self.device)
        return f"peak {peak / 1e9:.2f} GB in all, reserved {reserved / 1e9:.2f} GB"

    def forget(self) -> None:
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)


def use_tf32(wanted: bool) -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = wanted


def random_vgg(folder: Path) -> Path:
    """A random VGG16 in torchvision's names: LPIPS costs the same, and no file has to travel."""
    path, generator, state, before = folder / "random_vgg16.safetensors", torch.Generator().manual_seed(0), {}, 3
    layers = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    for layer, width in zip(layers, (64, 64, 128, 128, *(256,) * 3, *(512,) * 6), strict=True):
        state[f"features.{layer}.weight"] = torch.randn(width, before, 3, 3, generator=generator) * (2 / (9 * before)) ** 0.5
        state[f"features.{layer}.bias"], before = torch.zeros(width), width
    save_file(state, path)
    return path


def unets(scene: Scene) -> list[nn.Module]:
    return [*(net.unet for net in scene.nets.values()), scene.animator.unet]


def moved(scene: Scene, device: torch.device) -> Scene:
    """A scene that was made on the CPU, on another device: the same numbers on both."""
    for network in (*scene.nets.values(), scene.animator, scene.lpips, scene.vae.vae.network, scene.clip.network):
        network.to(device)
    for name in ("text", "pose", "clean", "start"):
        setattr(scene, name, getattr(scene, name).to(device))
    return scene


def gradient(side: Ours | Plain, *, low_memory: bool = False) -> Tensor:
    leaf = (side.scene.clean + side.scene.start).requires_grad_()
    if isinstance(side, Ours):
        side.objective.backward(side.clean, Observation(leaf, draws=SeededDraws(0), low_memory=low_memory))
    else:
        side.backward(leaf, SeededDraws(0))
    return leaf.grad.detach()


def describe(report: Report, machine: Machine) -> None:
    if not machine.cuda:
        report.say(f"  torch {torch.__version__}, {machine.device}, {torch.get_num_threads()} threads")
        return
    free, total = torch.cuda.mem_get_info(machine.device)
    name = torch.cuda.get_device_name(machine.device)
    report.say(f"  torch {torch.__version__}, {name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free, bf16 {torch.cuda.is_bf16_supported()}")
    if machine.small:
        return
    matrix = torch.randn(8192, 8192, device=machine.device, dtype=torch.bfloat16)
    seconds = statistics.median(timed(machine, lambda: matrix @ matrix) for _ in range(10))
    report.say(f"  a product of bf16 matrices: {2 * 8192**3 / seconds / 1e12:.0f} TFLOP/s")


def timed(machine: Machine, action: Callable[[], object]) -> float:
    machine.wait()
    began = time.perf_counter()
    action()
    machine.wait()
    return time.perf_counter() - began


def check_terms(report: Report, machine: Machine) -> None:
    """Small networks in fp32 without TF32: the whole objective and each term on this device against the CPU."""
    use_tf32(False)
    pixels = 64 if machine.small else 128
    cpu, here = Scene(SMALL, pixels, "cpu", torch.float32), moved(Scene(SMALL, pixels, "cpu", torch.float32), machine.device)
    expected, ours = gradient(Ours(cpu)), Ours(here)
    fast = gradient(ours)
    report.compare("the whole objective", expected, fast)
    for term in WEIGHTS:
        report.compare(term, gradient(Ours(cpu, {term: 1.0})), gradient(Ours(here, {term: 1.0})))
    report.compare("the plain order of work", expected, gradient(Plain(here)))
    report.compare("once more (0: the device is deterministic)", fast, gradient(ours))
    here.animator.checkpointing = True
    report.compare("low memory, all resident", fast, gradient(ours, low_memory=True))
    use_tf32(True)
    report.compare("with TF32, torch's default for convolutions", expected, gradient(ours), tolerance=None)


def check_races(report: Report, machine: Machine) -> None:
    """Networks take turns on the device, copied in on a stream of their own: eight times the same gradient, and the weights back home."""
    use_tf32(False)
    scene = moved(Scene(SMALL, 64 if machine.small else 128, "cpu", torch.float32), machine.device)
    scene.animator.checkpointing = True
    ours = Ours(scene)
    resident = gradient(ours, low_memory=True)
    for unet in unets(scene):
        unet.to("cpu")
    with one_at_a_time(unets(scene), machine.device):
        ours = Ours(scene)
        found = [gradient(ours, low_memory=True) for _ in range(3 if machine.small else 8)]
    for index, turn in enumerate(found):
        report.compare(f"turn {index + 1} against all resident", resident, turn)
    races = sum(float((turn - found[0]).norm() / found[0].norm()) > RACE for turn in found)
    report.say(f"  races {races} of {len(found)}")
    homes = {parameter.device.type for unet in unets(scene) for parameter in unet.parameters()}
    pinned = machine.cuda and any(parameter.is_pinned() for unet in unets(scene) for parameter in unet.parameters())
    report.say(f"  afterwards weights are on {', '.join(sorted(homes))}{', still pinned' if pinned else ''}")
    if races or homes != {"cpu"} or pinned:
        report.wrong.append("networks that take turns")


def check_transformations(report: Report, machine: Machine) -> None:
    """Values and gradients against the CPU's."""
    generator = torch.Generator().manual_seed(0)
    picture, weight = torch.rand(1, 3, 192, 160, generator=generator), torch.randn(1, 3, 192, 160, generator=generator)
    for transform in (GaussianBlur(1.5), JPEG(50), GaussianNoise(0.02, 3), ResizeBack(0.6), ResizeBack(1.7)):
        values, gradients = [], []
        for device in (torch.device("cpu"), machine.device):
            leaf = picture.to(device, copy=True).requires_grad_()
            result = transform(leaf)
            (result * weight.to(device)).sum().backward()
            values.append(result)
            gradients.append(leaf.grad)
        name = type(transform).__name__
        # A coefficient that lies between two levels is rounded either way.
        tolerance = 0.02 if isinstance(transform, JPEG) else TOLERANCE
        report.compare(f"{name}, values", *values, tolerance=tolerance)
        report.compare(f"{name}, gradients", *gradients, tolerance=tolerance)


def measure_speed(report: Report, machine: Machine, dtype: torch.dtype) -> Tensor:
    """Fast mode, our order of work and the official one. Returns our gradient."""
    use_tf32(True)
    machine.forget()
    scene = machine.scene(dtype)
    for name, side in (("ours", Ours), ("plain", Plain)):
        machine.forget()
        steps = dormant_step.running(side, scene)
        seconds = statistics.median(timed(machine, lambda steps=steps: next(steps)) for _ in range(2 if machine.small else 9))
        speed = "" if machine.small else f", {TFLOP[name] / seconds:.1f} TFLOP/s of {TFLOP[name]} TFLOP"
        report.say(f"  {name:6} {seconds:.3f} s a step{speed}, {machine.held()}")
        del steps
    return gradient(Ours(scene)).cpu()


def measure_low_memory(report: Report, machine: Machine, dtype: torch.dtype, fast: Tensor | None) -> None:
    """Networks take turns and activations are recomputed."""
    scene = machine.scene(dtype)
    for unet in unets(scene):
        unet.to("cpu")
    scene.animator.checkpointing = True
    machine.forget()
    began = time.perf_counter()
    with one_at_a_time(unets(scene), machine.device):
        report.say(f"  weights were pinned in {time.perf_counter() - began:.1f} s")
        ours, found = Ours(scene), []
        seconds = [timed(machine, lambda: found.append(gradient(ours, low_memory=True))) for _ in range(2 if machine.small else 6)]
    speed = "" if machine.small else f", {TFLOP['ours'] / min(seconds[1:]):.1f} TFLOP/s"
    report.say(f"  {min(seconds[1:]):.3f} s a step (the first {seconds[0]:.3f}){speed}, {machine.held()}")
    if fast is not None:
        report.compare("gradient against fast mode", fast, found[-1], tolerance=TOLERANCE if dtype == torch.float32 else None)


def measure_precision(report: Report, machine: Machine) -> None:
    """Each precision against fp32 without TF32, at the size that is timed. Encoders are not scaled here, as the nodes' are in fp16."""
    precisions = [("fp32", torch.float32, False), ("fp32 with TF32", torch.float32, True)]
    precisions += [("bf16", torch.bfloat16, True), ("fp16", torch.float16, True)]
    expected = None
    for name, dtype, tf32 in precisions[: 3 if machine.small else None]:
        if report.seconds() > MINUTES * 60 * 0.85:
            report.say(f"  no time is left for {name}")
            continue
        use_tf32(tf32)
        scene = machine.scene(dtype)
        scene.animator.checkpointing = True
        found = gradient(Ours(scene), low_memory=True).cpu()
        del scene
        machine.forget()
        if expected is None:
            expected = found
        else:
            report.compare(name, expected, found, tolerance=None)


def run(machine: Machine) -> int:
    """0 where everything was right."""
    report, dtype, fast = Report(), torch.float32 if machine.small else torch.bfloat16, None
    parts: list[tuple[str, Callable[[], Any]]] = [
        ("machine", lambda: describe(report, machine)),
        ("correct: each term on this device against the CPU", lambda: check_terms(report, machine)),
        ("races: networks that take turns", lambda: check_races(report, machine)),
        ("transformations", lambda: check_transformations(report, machine)),
    ]
    for name, act in parts:
        with report.part(name):
            act()
    with report.part(f"speed: fast mode, {machine.pixels} px, {dtype}"):
        fast = measure_speed(report, machine, dtype)
    with report.part(f"low memory: {machine.pixels} px, {dtype}"):
        measure_low_memory(report, machine, dtype, fast)
    with report.part("precision: against fp32"):
        measure_precision(report, machine)
    report.say(f"wrong: {', '.join(report.wrong)}" if report.wrong else "everything was right")
    return 1 if report.wrong else 0


def stop_late() -> None:
    """What was printed so far stays, and the status says that it is not all."""
    print(f"{MINUTES} minutes are over: what is above is what there was time for.", flush=True)
    os._exit(2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="toy networks at 64 px, as without CUDA")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cuda, cuda:1, cpu")
    given = parser.parse_args()
    machine = Machine(torch.device(given.device), given.small or given.device == "cpu")
    timer = threading.Timer(MINUTES * 60, stop_late)
    timer.daemon = True
    timer.start()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(weights, "lpips_backbone", return_value=random_vgg(Path(folder))))
        # Random networks see too little of a difference for the hinge at the published threshold.
        stack.enter_context(mock.patch.object(dormant_step, "THRESHOLD", 0.0))
        if machine.small:
            # Clean features are kept for each timestep, and one step of each comes before those that are timed.
            stack.enter_context(mock.patch.object(dormant_step, "TIMESTEPS", dormant_step.TIMESTEPS[-1:]))
        status = run(machine)
    sys.exit(status)


if __name__ == "__main__":
    main()
