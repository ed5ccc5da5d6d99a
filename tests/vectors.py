"""`python tests/vectors.py DIR`: compare with numbers that the authors' own code made; exit 1 where one is missed.

DIR holds configs/, weights/ and vectors/ of one set, or a part of one, or the face animator's input.png and vectors.safetensors. What
kind of set it is shows in its files.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from bench import cpu_shim

cpu_shim.install()

from bench.paths import BenchError  # noqa: E402
from goldens import baselines, dormant, hallo, tha3  # noqa: E402
from goldens.folder import Folder, Row  # noqa: E402


class Set(NamedTuple):
    """A kind of set: does a folder hold it, and what is compared."""

    matches: Callable[[Folder], bool]
    checks: Callable[[Folder], Iterator[Row]]


KINDS = {"dormant": dormant, "baselines": baselines, "hallo": hallo, "tha3": tha3}
SETS = {name: Set(kind.matches, kind.checks) for name, kind in KINDS.items()}


def checks(path: Path) -> Iterator[Row]:
    """Every comparison that the folder permits. Raises SystemExit when it is not a set that is known here."""
    folder = Folder(path)
    found = [one for one in SETS.values() if one.matches(folder)]
    if not found:
        holds = "configs, weights and vectors, or with input.png and vectors.safetensors"
        raise SystemExit(f"{path} is none of the sets known here ({', '.join(SETS)}): give a folder with {holds}.")
    for one in found:
        yield from one.checks(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    missed = total = 0
    try:
        for row in checks(arguments.folder):
            total += 1
            missed += not row.passed
            print(f"{'ok  ' if row.passed else 'MISS'} {row.name:50} {row.error:9.2e} <= {row.tolerance:7.1e}  {row.kind}", flush=True)
    except BenchError as error:
        sys.exit(f"vectors: {error}")
    print(f"{total - missed} of {total} within tolerance")
    sys.exit(1 if missed or not total else 0)


if __name__ == "__main__":
    main()
