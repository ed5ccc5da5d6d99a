"""`python -m bench.serve`: a real ComfyUI with this pack and its weights in place, until Ctrl-C."""

from __future__ import annotations

import sys
import time

from .home import prepare_home
from .paths import BenchError
from .server import ComfyServer


def keep_open(server: ComfyServer) -> None:
    """Print the address and the server's log as it grows; returns at Ctrl-C, raises when the server ends by itself."""
    print(f"\nOpen {server.url} in a browser; Ctrl-C ends.\n", flush=True)
    try:
        with server.log.open(encoding="utf-8", errors="replace") as log:
            log.seek(0, 2)
            while server.process.poll() is None:
                print(log.read(), end="", flush=True)
                time.sleep(0.5)
    except KeyboardInterrupt:
        print("\nStopping.", flush=True)
        return
    raise server.failure("ComfyUI ended by itself")


def main() -> int:
    try:
        print("Starting ComfyUI ...", flush=True)
        with ComfyServer(prepare_home()) as server:
            keep_open(server)
    except BenchError as error:
        print(f"serve: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
