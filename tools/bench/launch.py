"""`python launch.py COMFYUI_FOLDER ARGS...`: ComfyUI's own `main.py` behind the CPU shim.

The process ends when its standard input closes, so a server never outlives a parent that was killed.
"""

from __future__ import annotations

import os
import runpy
import sys
import threading
from pathlib import Path


def _die_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    here = Path(__file__).resolve().parent
    main_py = Path(sys.argv[1]).resolve() / "main.py"
    # This folder must leave the path: its server.py and ComfyUI's have the same name.
    sys.path[0] = str(main_py.parent)
    sys.argv = [str(main_py), *sys.argv[2:]]
    threading.Thread(target=_die_with_parent, daemon=True).start()
    runpy.run_path(str(here / "cpu_shim.py"))["install"]()
    runpy.run_path(str(main_py), run_name="__main__")


if __name__ == "__main__":
    main()
