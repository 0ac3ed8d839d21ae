"""Peak memory of a call: the bytes of tensors that it holds at once."""

from __future__ import annotations

import gc
import itertools
import json
import os
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

MARK = "rislab window"
# torch has one profiler for a process.
_PROFILER = threading.Lock()


def peak_memory(device: torch.device, prepare: Callable[[], Callable[[], object]]) -> int:
    """Bytes of tensors that a call holds at once, beyond those that were there when it began.

    On CUDA the rise of torch.cuda.max_memory_allocated(). On a CPU the highest running sum over the allocations and
    frees that torch.profiler reports of this thread. Neither sees workspace that a library takes elsewhere.

    Args:
        device: where the tensors are.
        prepare: returns what is to be called. On a CPU it is watched too, so that a free is known by its allocation.
    """
    if device.type == "cuda":
        call = prepare()
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - held
    # The profiler would write its progress to the standard error output; this is its own switch.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    gc.collect()  # what waits to be freed was allocated unwatched
    with _PROFILER, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            call = prepare()
            with torch.profiler.record_function(MARK):
                call()
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    return _highest(events)


def start_profiler(device: torch.device) -> None:
    """Start torch's profiler; to be called in the thread that imported torch, since it complains of any other."""
    if device.type == "cpu":
        peak_memory(device, lambda: lambda: None)


def _highest(events: Sequence[Mapping[str, Any]]) -> int:
    """The highest sum of allocations and frees since the mark began, from the events of a trace."""
    mark = next(event for event in events if event["name"] == MARK)
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]")
    during = [size for at, size in changes if mark["ts"] <= at <= mark["ts"] + mark["dur"]]
    return max(itertools.accumulate(during, initial=0))
