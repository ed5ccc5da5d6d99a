"""`python -m bench.versions`: one line that names what the tests run with."""

from __future__ import annotations

import platform
from importlib.metadata import version

from .comfyui import VERSION

PACKAGES = ("torch", "torchvision", "torchaudio", "numpy", "transformers", "diffusers", "lpips", "pytest", "playwright")


def main() -> None:
    print(f"Python {platform.python_version()}, ComfyUI {VERSION}, " + ", ".join(f"{name} {version(name)}" for name in PACKAGES))


if __name__ == "__main__":
    main()
