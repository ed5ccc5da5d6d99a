"""`nox -s demo`, `serve`, `tests`, `vectors`, `benchmarks` and `lint`, all in one environment that is filled once.

After the session's name, `-- ARGS` goes to the program: `nox -s tests -- tests/engine -x`, `nox -s demo -- --image me.jpg`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".nox" / "bench"
PYTHON = str(VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
STAMP = VENV / "requirements.sha256"
PINS = ROOT / "tools" / "bench"
# Where our scripts find the bench and what the tests share.
MODULES = os.pathsep.join([str(ROOT / "tests"), str(ROOT / "tools")])
# In this order: torch alone, so that nothing else chooses it; torchvision before what depends on it.
INSTALLS = [
    ["-r", str(PINS / "requirements-torch.txt")],
    ["-r", str(PINS / "requirements.txt")],
    ["--no-deps", "-r", str(PINS / "requirements-nodeps.txt")],
    ["-r", str(PINS / "requirements-vision.txt")],
    ["--no-deps", "-e", str(ROOT)],
]

# PyTorch's own index of builds without CUDA, as its installation page names it.
CPU_TORCH = "https://download.pytorch.org/whl/cpu"

nox.options.sessions = ["tests"]


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """Run the tests (all of them, or what is given after --) side by side; -- -n0 one after another."""
    environment(session)
    python(session, "-m", "bench.versions")
    python(session, "-m", "pytest", "-n", "auto", *session.posargs)


@nox.session(venv_backend="none")
def demo(session: nox.Session) -> None:
    """Protect an example portrait in a real ComfyUI and say where the pictures are; -- --image PATH for your own."""
    environment(session)
    python(session, "-m", "bench.demo", *session.posargs)


@nox.session(venv_backend="none")
def serve(session: nox.Session) -> None:
    """Start a real ComfyUI with this pack for your browser."""
    environment(session)
    python(session, "-m", "bench.serve", *session.posargs)


@nox.session(venv_backend="none")
def benchmarks(session: nox.Session) -> None:
    """Run a benchmark, -- NAME [ARGS]; without a name all of them with their defaults."""
    environment(session)
    name, *arguments = session.posargs or [""]
    for script in sorted((ROOT / "benchmarks").glob(f"{name or '*'}.py")):
        python(session, str(script), *arguments)


@nox.session(venv_backend="none")
def vectors(session: nox.Session) -> None:
    """Compare with numbers that the authors' own code made, -- FOLDER; without one the part that is committed."""
    environment(session)
    python(session, str(ROOT / "tests" / "vectors.py"), *(session.posargs or [str(ROOT / "tests" / "data" / "dormant")]))


@nox.session(venv_backend="none")
def lint(session: nox.Session) -> None:
    """Ruff everywhere, mypy strict on the engine and plain elsewhere."""
    environment(session)
    python(session, "-m", "ruff", "check", ".")
    python(session, "-m", "ruff", "format", "--check", ".")
    # The repository is the package, under whatever name it was cloned; mypy has to see it as `stillguard`.
    link = ROOT / ".bench" / "src" / "stillguard"
    link.parent.mkdir(parents=True, exist_ok=True)
    python(
        session,
        "-c",
        f"from pathlib import Path; from bench.server import link_folder; link_folder(Path({str(ROOT)!r}), Path({str(link)!r}))",
    )
    mypy = ["-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    # From another folder: beside the repository's own __init__.py mypy would find every module a second time.
    with session.chdir(link.parent):
        python(session, *mypy, "--strict", "--follow-imports=silent", "-p", "stillguard.engine", path=link.parent)
        python(session, *mypy, "-p", "stillguard.nodes", "-p", "stillguard.lab", path=link.parent)
        python(session, *mypy, "--strict", "--allow-untyped-calls", "--follow-imports=silent", "-p", "bench", path=ROOT / "tools")


def environment(session: nox.Session) -> None:
    """Make .nox/bench, or leave it as it is when the requirements have not changed since it was filled."""
    wanted = fingerprint()
    if STAMP.is_file() and STAMP.read_text(encoding="ascii") == wanted and Path(PYTHON).exists():
        return
    STAMP.unlink(missing_ok=True)
    session.run(sys.executable, "-m", "virtualenv", "--quiet", str(VENV), external=True)
    if sys.platform == "linux" and shutil.which("nvidia-smi") is None:
        # Elsewhere pip finds a CPU build by itself. Where this index is out of reach, the next command takes what pip finds.
        torch = ["--no-deps", "--retries", "0", "--index-url", CPU_TORCH, "-r", str(PINS / "requirements-torch.txt")]
        session.run(PYTHON, "-m", "pip", "install", *torch, external=True, silent=True, success_codes=[0, 1])
    for arguments in INSTALLS:
        session.run(PYTHON, "-m", "pip", "install", *arguments, external=True, silent=False)
    STAMP.write_text(wanted, encoding="ascii")


def fingerprint() -> str:
    """Of everything that decides what is installed: this interpreter, the pins, the package's own metadata."""
    digest = hashlib.sha256(f"{sys.version} {ROOT}".encode())
    for file in [*sorted(PINS.glob("requirements*.txt")), ROOT / "pyproject.toml", Path(__file__)]:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def python(session: nox.Session, *arguments: str, path: str | Path = MODULES) -> None:
    """Run the environment's Python. Ctrl-C leaves it half a minute, so that the demo can stop its server."""
    name = "MYPYPATH" if "mypy" in arguments else "PYTHONPATH"
    session.run(PYTHON, *arguments, env={name: str(path)}, external=True, interrupt_timeout=30, terminate_timeout=10)
