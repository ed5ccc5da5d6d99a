"""What protection does to animations that the laboratory's networks make of people they never saw.

    nox -s benchmarks -- effect --data PAIRS --out FOLDER --lpips VGG16 [--people 40] [--presets NAME ...] [--workers 2] [--figure SVG]

For each held-out pair the first photo is protected at 128 pixels and moved into the second one's pose before and after, from the same
noise: by the animator that it was protected from, and by two victims of other architectures with another autoencoder, which no
preset may see. The figures are PSNR in dB of the changed against the clean animation, lower is more effect, with 95 % intervals of the
mean by bootstrap over pairs. Each person's figures are kept in FOLDER, preset by preset, so that a run which was stopped goes on, and a
new preset joins those that were measured. All on small networks: the mechanism, not a promise.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench import cpu_shim

cpu_shim.install()

from stillguard.engine.weights.catalogue import LAB, VICTIMS  # noqa: E402
from stillguard.lab.dots import dot_plot  # noqa: E402
from stillguard.lab.effect import Laboratory, Person, Plan, clean_figures, figures  # noqa: E402
from stillguard.lab.pairs import Pair, load_pairs  # noqa: E402
from stillguard.lab.presets import PRESETS  # noqa: E402

Rows = list[dict[str, Any]]
NOISE, CLEAN = "random noise", "clean"
THOROUGH = (NOISE, "Dormant", "Dormant, no EoT")
BUDGETS = (NOISE, "Dormant")


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean and the 95 % bootstrap interval of it."""
    sample = np.array(values)
    means = np.random.default_rng(0).choice(sample, (5000, len(sample))).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(sample.mean()), float(low), float(high)


class Kept:
    """One person's figures on disk, by preset, each with what it was measured with; others than asked for are measured anew."""

    def __init__(self, file: Path, keys: dict[str, str]) -> None:
        self._file, self._keys = file, keys
        self._found: dict[str, dict[str, Any]] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}

    @property
    def rows(self) -> dict[str, Rows]:
        return {preset: found["rows"] for preset, found in self._found.items() if self._keys.get(preset) == found["key"]}

    def add(self, preset: str, rows: Rows) -> None:
        self._found[preset] = {"key": self._keys[preset], "rows": rows}
        partial = self._file.with_suffix(".partial")
        partial.write_text(json.dumps(self._found), encoding="utf-8")
        partial.replace(self._file)


@dataclass(frozen=True)
class Job:
    """A person, another one, and how each preset is measured with them."""

    pair: Pair
    other: Pair
    wanted: list[str]
    plan: Plan
    networks: Path
    victims: Path
    out: Path

    def kept(self) -> Kept:
        files = sorted([*self.networks.glob("*.safetensors"), *self.victims.glob("*.safetensors")])
        networks = hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()[:16]
        common = f"{networks} {self.other.number} {self.plan.budget} {self.plan.steps}"
        keys = {name: f"{common} {name in self.plan.thorough} {name in self.plan.budgets}" for name in self.wanted}
        return Kept(self.out / f"{self.pair.number:03}.json", keys)

    def missing(self) -> list[str]:
        rows = self.kept().rows
        return [name for name in self.wanted if name not in rows]


def measure(job: Job) -> None:
    """What is missing of one person's figures."""
    torch.set_num_threads(1)
    laboratory, kept = Laboratory(job.networks, job.victims), job.kept()
    person, stranger = Person(laboratory, job.pair), Person(laboratory, job.other)
    for preset in job.missing():
        measured = clean_figures(person) if preset == CLEAN else figures(laboratory, person, stranger, preset, job.plan)
        kept.add(preset, [asdict(figure) for figure in measured])
    print(f"pair {job.pair.number:03} is measured", flush=True)


def gathered(people: list[Rows]) -> dict[str, dict[str, Rows]]:
    """what -> animator -> the row of each person who has it, in the order of the first person's, who has all."""
    found: dict[str, dict[str, Rows]] = {}
    for rows in people:
        for row in rows:
            found.setdefault(row["what"], {}).setdefault(row["animator"], []).append(row)
    return found


def table(people: list[Rows]) -> str:
    found = gathered(people)
    animators = list(next(iter(found.values())))
    lines = [f"| picture | people | {' | '.join(f'{name}, dB' for name in animators)} | likeness, {animators[0]} | photo, dB |"]
    lines.append("|---" * (len(animators) + 4) + "|")
    for what, values in found.items():
        cells = ["{:.1f} [{:.1f}, {:.1f}]".format(*interval([r["psnr"] for r in values[name]])) for name in animators]
        first = values[animators[0]]
        likeness = "{:.2f} [{:.2f}, {:.2f}]".format(*interval([r["likeness"] for r in first]))
        lines.append(f"| {what} | {len(first)} | {' | '.join(cells)} | {likeness} | {np.mean([r['photo'] for r in first]):.1f} |")
    return "\n".join(lines)


def beside_noise(people: list[Rows]) -> str:
    """Paired: how many dB further from the clean animation than noise of the same budget after the same treatment."""
    lines = []
    for what in dict.fromkeys(row["what"] for row in people[0]):
        noise = NOISE + next((what[what.index(mark) :] for mark in (", after ", ", budget ") if mark in what), "")
        cells = []
        for animator in dict.fromkeys(row["animator"] for row in people[0]):
            found = [{row["what"]: row["psnr"] for row in rows if row["animator"] == animator} for rows in people]
            if noise in found[0]:
                pairs = [row[noise] - row[what] for row in found if noise in row and what in row]
                cells.append("{:.1f} [{:.1f}, {:.1f}]".format(*interval(pairs)))
        if cells and not what.startswith((NOISE, CLEAN)):
            lines.append(f"| {what} | {' | '.join(cells)} |")
    return "\n".join(lines)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of pairs; without one nothing can be measured")
    parser.add_argument("--out", type=Path, help="folder for each person's figures")
    parser.add_argument("--people", type=int, default=40, help="held-out pairs, at least 2")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--budget", type=float, default=8.0)
    parser.add_argument("--presets", nargs="+", choices=list(PRESETS), default=list(PRESETS), help="beside random noise")
    parser.add_argument("--thorough", nargs="+", choices=list(PRESETS), default=list(THOROUGH), help="also under countermeasures and so on")
    parser.add_argument("--thorough-people", type=int, help="how many of the people for --thorough and --budgets, by default all")
    parser.add_argument("--budgets", nargs="+", choices=list(PRESETS), default=list(BUDGETS), help="also with budgets 4 and 16")
    parser.add_argument("--networks", type=Path, default=LAB, help="folder of the surrogate's networks, by default those that ship")
    parser.add_argument("--victims", type=Path, default=VICTIMS, help="folder of the victims, by default those that ship")
    parser.add_argument("--lpips", type=Path, help="VGG16 weights of LPIPS, for presets with the penalty")
    parser.add_argument("--figure", type=Path, help="where to draw it, an SVG")
    parser.add_argument("--workers", type=int, default=1, help="people at a time")
    return parser.parse_args()


def main() -> None:
    given = options()
    if given.data is None or given.out is None:
        print("effect: give the folder of pairs with --data, and one for the figures with --out.")
        return
    wanted = [CLEAN, NOISE, *(name for name in given.presets if name != NOISE)]
    if given.lpips is None:
        wanted = [name for name in wanted if "LPIPS" not in name]
        print("effect: presets with the LPIPS penalty are left out; name the VGG16 weights with --lpips.")
    given.out.mkdir(parents=True, exist_ok=True)
    pairs = load_pairs(given.data, side=128, held_out=True)[: max(2, given.people)]
    # Neighbours by number are often the same person.
    others = [pairs[(index + len(pairs) // 2) % len(pairs)] for index in range(len(pairs))]
    jobs = []
    for index, (pair, other) in enumerate(zip(pairs, others, strict=True)):
        further = given.thorough_people is None or index < given.thorough_people
        extra = {"thorough": tuple(given.thorough), "budgets": tuple(given.budgets)} if further else {}
        plan = Plan(given.budget, steps=given.steps, lpips=given.lpips, **extra)
        jobs.append(Job(pair, other, wanted, plan, given.networks, given.victims, given.out))
    with multiprocessing.get_context("spawn").Pool(max(1, given.workers)) as pool:
        for _ in pool.imap_unordered(measure, [job for job in jobs if job.missing()]):
            pass
    kept = [job.kept().rows for job in jobs]
    show([[row for name in wanted for row in rows[name]] for rows in kept], given)


def show(people: list[Rows], given: argparse.Namespace) -> None:
    print(f"{len(people)} held-out pairs, budget {given.budget:g}, {given.steps} steps\n{table(people)}")
    print(f"\nfurther from the clean animation than random noise of the same budget after the same treatment, dB\n{beside_noise(people)}")
    if given.figure is not None:
        rows = {what: {name: interval([r["psnr"] for r in rows]) for name, rows in by.items()} for what, by in gathered(people).items()}
        title = f"PSNR of the animation against the clean one, dB (lower: more effect); up to {len(people)} pairs"
        given.figure.write_text(dot_plot(title, {what: row for what, row in rows.items() if CLEAN not in what}), encoding="utf-8")


if __name__ == "__main__":
    main()
