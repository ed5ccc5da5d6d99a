"""Peak memory of CPU tensors, read from the allocator's own events."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator

import torch


@contextlib.contextmanager
def peak_bytes() -> Iterator[Callable[[], int]]:
    """The call that it yields tells, afterwards, the most bytes that were allocated inside on top of what was there before."""
    gc.collect()
    peak = 0
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        yield lambda: peak
    held = 0
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
