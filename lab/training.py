"""What the training scripts of small networks share: a seeded, resumable loop whose schedule follows processor time."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Loss = Callable[[nn.Module, torch.Generator], Tensor]
Network = TypeVar("Network", bound=nn.Module)


def learning_rate(progress: float, *, peak: float) -> float:
    """Linear warm-up over the first 2 %, then cosine to zero; progress is the share of the training time used."""
    return peak * min(progress / 0.02, 1.0) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def mixed(device: torch.device, *, wanted: bool = True) -> torch.autocast:
    """bf16 where the device has matrix units for it; a CPU without them takes many times longer with it than in fp32."""
    # AMX, the matrix units of Intel's CPUs; PyTorch uses no others.
    units = device.type != "cpu" or torch.cpu._is_amx_tile_supported()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=wanted and units)


def device_of(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


def shipped(average: dict[str, Tensor], network: Network) -> tuple[dict[str, Tensor], Network]:
    """The weights as files of the pack hold them, fp16 and without counters, and a new network in eval mode with just these."""
    state = {key: value.cpu().half().contiguous() for key, value in average.items() if value.is_floating_point()}
    network.load_state_dict({key: value.float() for key, value in state.items()}, strict=False)
    return state, network.eval()


class Optimisers:
    """AdamW, or Muon (Jordan et al. 2024) for large weights as matrices [out, rest] and AdamW for the others."""

    def __init__(self, parameters: Iterable[nn.Parameter], *, muon_from: int | None, weight_decay: float) -> None:
        """muon_from: of the first two dimensions, from which on Muon has a weight."""
        every = list(parameters)
        large = [p for p in every if muon_from is not None and p.ndim >= 2 and min(p.shape[:2]) >= muon_from]
        chosen = {id(parameter) for parameter in large}
        # torch's Muon takes matrices only: these share the weights' memory.
        self._matrices = [(parameter, nn.Parameter(parameter.detach().flatten(1))) for parameter in large]
        rest = [p for p in every if id(p) not in chosen]
        self._each: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, lr=0.0, betas=(0.9, 0.99), weight_decay=weight_decay)]
        if large:
            matrices = [matrix for _, matrix in self._matrices]
            self._each.append(torch.optim.Muon(matrices, lr=0.0, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"))

    def step(self, rate: float) -> None:
        for parameter, matrix in self._matrices:
            matrix.grad = None if parameter.grad is None else parameter.grad.flatten(1)
        for optimiser in self._each:
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()

    def state_dict(self) -> list[dict[str, Any]]:
        return [optimiser.state_dict() for optimiser in self._each]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for optimiser, state in zip(self._each, states, strict=True):
            optimiser.load_state_dict(state)


class Training:
    """Everything that a checkpoint holds: weights, running average, optimisers' and random state, steps and seconds used."""

    def __init__(
        self,
        network: nn.Module,
        *,
        seed: int,
        half_life: int = 150,
        muon_from: int | None = None,
        weight_decay: float = 0.01,
        clip: float = 1.0,
        device: str = "cpu",
    ) -> None:
        """half_life: of the running average, in steps. muon_from: see Optimisers. clip: the gradient's largest norm."""
        self.network, self.seed, self._half_life, self._clip = network.to(device), seed, half_life, clip
        self.generator = torch.Generator().manual_seed(seed)
        self.optimisers = Optimisers(network.parameters(), muon_from=muon_from, weight_decay=weight_decay)
        self.average = {key: value.clone() for key, value in network.state_dict().items()}
        self.steps, self.seconds = 0, 0.0

    def step(self, loss: Loss, *, progress: float, peak: float) -> float:
        """One update with `loss(network, generator)`, at this share of the whole training."""
        began = self._now()
        self.network.zero_grad(set_to_none=True)
        value = loss(self.network, self.generator)
        value.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self._clip)
        self.optimisers.step(learning_rate(progress, peak=peak))
        self.steps += 1
        keep = min(0.5 ** (1 / self._half_life), self.steps / (self.steps + 10))
        for key, now in self.network.state_dict().items():
            if now.is_floating_point():
                self.average[key].lerp_(now, 1 - keep)
        shown = float(value.detach())
        self.seconds += self._now() - began
        return shown

    def _now(self) -> float:
        on_cpu = device_of(self.network).type == "cpu"
        return time.process_time() / torch.get_num_threads() if on_cpu else time.perf_counter()

    def load(self, path: Path) -> None:
        """Raises SystemExit where the file is no checkpoint of this network."""
        try:
            saved = torch.load(path, map_location=device_of(self.network), weights_only=True)
            self.network.load_state_dict(saved["network"])
            self.optimisers.load_state_dict(saved["optimisers"])
            self.generator.set_state(saved["generator"].cpu())
            self.average, self.steps, self.seconds, self.seed = (saved[key] for key in ("average", "steps", "seconds", "seed"))
        except (OSError, RuntimeError, KeyError, TypeError, ValueError, EOFError, UnpicklingError) as error:
            raise SystemExit(
                f"{path} is damaged or another network's checkpoint: delete it to train anew, or name another file with --checkpoint."
            ) from error

    def save(self, path: Path) -> None:
        """Replace the checkpoint whole, so that an interrupted save leaves the one before."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        state = {"network": self.network.state_dict(), "optimisers": self.optimisers.state_dict(), "generator": self.generator.get_state()}
        progress = {"average": self.average, "steps": self.steps, "seconds": self.seconds, "seed": self.seed}
        torch.save({**state, **progress}, partial)
        partial.replace(path)

    def facts(self, **more: str) -> dict[str, str]:
        """For the metadata of a shipped file."""
        return {"steps": str(self.steps), "minutes": f"{self.seconds / 60:.0f}", "seed": str(self.seed), **more}


def arguments(description: str | None, *, minutes: float, peak: float) -> argparse.ArgumentParser:
    """The options that every script has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with NNN_0.jpg, NNN_1.jpg and poses.npz")
    parser.add_argument("--checkpoint", type=Path, required=True, help="training state, made and continued")
    parser.add_argument("--out", type=Path, required=True, help="folder for the fp16 files to ship")
    parser.add_argument("--minutes", type=float, default=minutes, help="processor time over the number of threads; on a GPU, time")
    parser.add_argument("--steps", type=int, help="train so many steps instead of minutes: then equal seeds give equal curves")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda, cuda:1 ...")
    parser.add_argument("--save-every", type=float, default=5, help="minutes between checkpoints")
    parser.add_argument("--learning-rate", type=float, default=peak)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def share_done(training: Training, given: argparse.Namespace) -> float:
    """Of the steps or minutes asked for."""
    share: float = training.steps / given.steps if given.steps else training.seconds / (given.minutes * 60)
    return share


def run(training: Training, loss: Loss, given: argparse.Namespace, ship: Callable[[Training, Path], str]) -> None:
    """Train until the minutes or steps are used, from the checkpoint where there is one; `ship` writes files and says how good they are."""
    if given.checkpoint.exists():
        training.load(given.checkpoint)
    saved, recent = training.seconds, None
    while (done := share_done(training, given)) < 1:
        value = training.step(loss, progress=done, peak=given.learning_rate)
        recent = value if recent is None else 0.98 * recent + 0.02 * value
        if training.steps % 50 == 0:
            print(f"step {training.steps}  {training.seconds / 60:.2f} min  loss {recent:.4f}", flush=True)
        if training.seconds - saved > given.save_every * 60 and share_done(training, given) < 1:
            saved = training.seconds
            training.save(given.checkpoint)
            print(f"step {training.steps}  {ship(training, given.out)}", flush=True)
    training.save(given.checkpoint)
    print(f"step {training.steps}  {ship(training, given.out)}", flush=True)
