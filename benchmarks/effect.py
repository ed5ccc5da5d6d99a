"""What protection does to animations that the laboratory's networks make of people they never saw.

    nox -s benchmarks -- effect --data PAIRS --out FOLDER [--people 40] [--steps 40] [--budget 8] [--presets NAME ...] [--workers 2]

For each held-out pair the first photo is protected at 128 pixels and moved into the second one's pose before and after, from the same
noise: by the animator that it was protected from, and by two victims of other architectures with another autoencoder, which no
preset may see. The figures are PSNR in dB of the changed against the clean animation, lower is more effect, with 95 % intervals of the
mean by bootstrap over people. Each person's figures are kept in FOLDER, so that a run which was stopped goes on.
All on small networks: the mechanism, not a promise.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench import cpu_shim

cpu_shim.install()

from stillguard.engine.weights.catalogue import LAB  # noqa: E402
from stillguard.lab.effect import Laboratory, Person, Plan, figures  # noqa: E402
from stillguard.lab.pairs import Pair, load_pairs  # noqa: E402
from stillguard.lab.presets import PRESETS  # noqa: E402

Rows = list[dict[str, Any]]


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean and the 95 % bootstrap interval of it."""
    sample = np.array(values)
    means = np.random.default_rng(0).choice(sample, (5000, len(sample))).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(sample.mean()), float(low), float(high)


def measure(job: tuple[Pair, Pair, Plan, Path, Path]) -> None:
    """One person's figures into a file of its own."""
    pair, other, plan, networks, kept = job
    torch.set_num_threads(1)
    laboratory = Laboratory(networks)
    rows = [asdict(figure) for figure in figures(laboratory, Person(laboratory, pair), Person(laboratory, other), plan)]
    partial = kept.with_suffix(".partial")
    partial.write_text(json.dumps({"plan": describe(plan), "rows": rows}))
    partial.replace(kept)
    print(kept.name, flush=True)


def describe(plan: Plan) -> str:
    return f"{plan.presets} {plan.thorough} {plan.budget} {plan.other_budgets} {plan.steps}"


def table(people: list[Rows]) -> str:
    """Rows in the order of the first person's; all have the same."""
    animators = list(dict.fromkeys(row["animator"] for row in people[0]))
    values = {(row["what"], row["animator"]): [] for row in people[0]}  # type: dict[tuple[str, str], Rows]
    for rows in people:
        for row in rows:
            values[row["what"], row["animator"]].append(row)
    lines = [f"| picture | {' | '.join(f'{name}, dB' for name in animators)} | likeness, {animators[0]} | photo, dB |"]
    lines.append("|---" * (len(animators) + 3) + "|")
    for what in dict.fromkeys(row["what"] for row in people[0]):
        cells = ["{:.1f} [{:.1f}, {:.1f}]".format(*interval([r["psnr"] for r in values[what, name]])) for name in animators]
        first = values[what, animators[0]]
        likeness = "{:.2f} [{:.2f}, {:.2f}]".format(*interval([r["likeness"] for r in first]))
        lines.append(f"| {what} | {' | '.join(cells)} | {likeness} | {np.mean([r['photo'] for r in first]):.1f} |")
    return "\n".join(lines)


def beside_noise(people: list[Rows]) -> str:
    """Paired: how many dB further from the clean animation than random noise of the same budget."""
    lines = []
    for name in dict.fromkeys(row["what"] for row in people[0]):
        cells = []
        for animator in dict.fromkeys(row["animator"] for row in people[0]):
            found = [{row["what"]: row["psnr"] for row in rows if row["animator"] == animator} for rows in people]
            noise = "random noise" if "budget" not in name else f"random noise, {name.rpartition(', ')[2]}"
            cells.append("{:.1f} [{:.1f}, {:.1f}]".format(*interval([row[noise] - row[name] for row in found])))
        if "random noise" not in name and (name in PRESETS or "budget" in name):
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of pairs; without one nothing can be measured")
    parser.add_argument("--out", type=Path, default=Path("effect"), help="folder for each person's figures")
    parser.add_argument("--people", type=int, default=40)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--budget", type=float, default=8.0)
    parser.add_argument("--presets", nargs="+", choices=list(PRESETS), default=list(PRESETS), help="random noise first")
    parser.add_argument("--networks", type=Path, default=LAB, help="folder of trained networks, by default those that ship")
    parser.add_argument("--lpips", type=Path, help="VGG16 weights of LPIPS, for presets with the penalty")
    parser.add_argument("--workers", type=int, default=1, help="people at a time")
    return parser.parse_args()


def main() -> None:
    given = options()
    if given.data is None:
        print("effect: give the folder of pairs with --data.")
        return
    presets = tuple(name for name in given.presets if given.lpips or "LPIPS" not in name)
    plan = Plan(presets=presets, budget=given.budget, steps=given.steps, lpips=given.lpips)
    given.out.mkdir(parents=True, exist_ok=True)
    pairs = load_pairs(given.data, side=128, held_out=True)[: given.people]
    kept = [given.out / f"{pair.number:03}.json" for pair in pairs]
    jobs = [(pair, pairs[i - 1], plan, given.networks, kept[i]) for i, pair in enumerate(pairs) if not done(kept[i], plan)]
    with multiprocessing.get_context("spawn").Pool(given.workers) as pool:
        for _ in pool.imap_unordered(measure, jobs):
            pass
    people = [json.loads(file.read_text())["rows"] for file in kept]
    print(f"{len(people)} held-out people, budget {given.budget:g}, {given.steps} steps\n{table(people)}")
    print(f"\nfurther from the clean animation than random noise, dB\n{beside_noise(people)}")


def done(file: Path, plan: Plan) -> bool:
    return file.exists() and bool(json.loads(file.read_text())["plan"] == describe(plan))


if __name__ == "__main__":
    main()
