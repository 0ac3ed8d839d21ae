"""What it costs to be watched: ratios to the same loop unwatched, and the time of a diagnosis."""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn

import rislab
from rislab.checkup import diagnosis
from rislab.checkup.loop_watch import Watch
from rislab.model.curriculum import NO_CURRICULUM
from rislab.model.losses import compute_loss
from tests.benchmarks.common import alone, compare


def loop(preset: str, size: int) -> Callable[[int | None], Watch | None]:
    """A loop over 80 micro-batches of 64 scenes, in windows of `size`; run with `every` of watch(), or unwatched."""
    data = rislab.simulate(rislab.SceneConfig.preset(preset), 64 * 80, seed=0)
    batches = [data[first : first + 64] for first in range(0, len(data), 64)]

    def run(every: int | None) -> Watch | None:
        torch.manual_seed(0)
        model = rislab.CovarianceNet.build(data.config)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
        seen = None if every is None else rislab.watch(model, optimizer, accumulation_steps=size, every=every)
        with nullcontext() if seen is None else seen:
            for first in range(0, len(batches), size):
                optimizer.zero_grad(set_to_none=True)
                for batch in batches[first : first + size]:
                    output = model(batch.snapshots, batch.codes, batch.channel)
                    (compute_loss(output, batch, NO_CURRICULUM).total / size).backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
        return seen

    return run


@pytest.mark.parametrize("preset", ["classroom", "full"])
@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize(("every", "target"), [(1, 2.4), (20, 1.15)])
def test_a_watched_loop(benchmark: Any, preset: str, size: int, every: int, target: float) -> None:
    """Against the same loop unwatched; 80 micro-batches are 80 or 20 windows."""
    run = loop(preset, size)
    compare(benchmark, lambda: run(every), lambda: run(None), target, unit=80)


def test_a_diagnosis(benchmark: Any) -> None:
    """What findings() takes after all 80 windows of a toy loop; the target is a second."""
    seen = loop("classroom", 1)(1)
    assert seen is not None
    alone(benchmark, seen.findings, 1000.0)


def plain_loop(width: int, batch: int, steps: int) -> Callable[[Callable[..., Any]], float]:
    """A loop over one batch; run with what watches it, it gives its CPU seconds."""

    def run(watch: Callable[..., Any]) -> float:
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        inputs, targets = torch.randn(batch, width), torch.randint(10, (batch,))
        criterion = nn.CrossEntropyLoss()
        began = time.process_time()
        with watch(model, optimizer, loss=criterion):
            for _ in range(steps):
                optimizer.zero_grad()
                criterion(model(inputs), targets).backward()
                optimizer.step()
        return time.process_time() - began

    return run


@pytest.mark.parametrize(
    ("every", "width", "batch", "target"),
    [(None, 512, 256, 1.10), (None, 64, 16, 1.5), (1, 512, 256, 1.5), (1, 64, 16, 2.5)],
)
def test_a_watch_over_a_thousand_steps(
    benchmark: Any, every: int | None, width: int, batch: int, target: float
) -> None:
    """CPU time in turn, bare and watched; beside it, the same loop under torch.profiler."""
    torch.set_num_threads(1)
    run = plain_loop(width, batch, 1000)
    bare: list[float] = []
    watched: list[float] = []
    for _ in range(3):
        bare.append(run(lambda *_, **__: nullcontext()))
        watched.append(run(lambda *given, **named: rislab.watch(*given, every=every, **named)))
    profiled = run(lambda *_, **__: torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]))
    ratio = statistics.median(mine / theirs for mine, theirs in zip(watched, bare, strict=True))
    benchmark.extra_info |= {"ratio": ratio, "target": target}
    benchmark.pedantic(lambda: None, rounds=1)
    print(
        f"\n{benchmark.name}: {min(bare):.3f} ms a step bare, {min(watched):.3f} ms watched; ratio {ratio:.3g}, "
        f"target ≤ {target}; torch.profiler {profiled / min(bare):.3g}"
    )


def test_each_observer_alone(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one observer adds to a watch that has none, over 300 steps of a small network; no target."""
    run, make = plain_loop(64, 16, 300), diagnosis.standard_observers
    names = ["none", *(type(one).__name__ for one in make()), "all"]
    least = dict.fromkeys(names, math.inf)
    for _ in range(3):
        for name in names:
            monkeypatch.setattr(
                diagnosis,
                "standard_observers",
                lambda name=name: [one for one in make() if name in ("all", type(one).__name__)],
            )
            least[name] = min(least[name], run(rislab.watch))
    benchmark.extra_info |= least
    benchmark.pedantic(lambda: None, rounds=1)
    print("".join(f"\n{name:22} {1e6 * (least[name] - least['none']) / 300:+7.1f} µs a step" for name in names))


MEMORY = """
import contextlib, sys, torch
from torch import nn
from rislab.checkup.process_watch import ProcessWatch
watched, width, size, steps = sys.argv[1] == "watched", *map(int, sys.argv[2:])
model = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
with ProcessWatch(every=1) if watched else contextlib.nullcontext() as watch:
    for _ in range(steps):
        optimizer.zero_grad()
        for _ in range(size):
            inputs = torch.randn(4, width)
            (nn.functional.mse_loss(model(inputs), inputs.sum(1, keepdim=True)) / size).backward()
        optimizer.step()
if watched:
    watch.findings()
# Not that of getrusage(), which a process takes over from the one that started it.
[peak] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(int(peak) / 1024)
"""


@pytest.mark.parametrize(("width", "size", "steps"), [(2290, 16, 5), (16, 1, 1000), (16, 1, 10_000)])
def test_memory_of_a_watch(benchmark: Any, width: int, size: int, steps: int) -> None:
    """Peak memory of a process that is watched, over that of one that is not; at most 4 × the weights and 64 MB."""

    def peak(kind: str) -> float:
        command = [sys.executable, "-c", MEMORY, kind, str(width), str(size), str(steps)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])

    weights = (2 * width * width + 3 * width + 1) * 4 / 2**20
    more, target = peak("watched") - peak("bare"), 4 * weights + 64
    benchmark.extra_info |= {"megabytes": more, "target": target}
    benchmark.pedantic(lambda: None, rounds=1)
    print(f"\n{benchmark.name}: {more:.1f} MB more, {weights:.1f} MB of weights; target ≤ {target:.0f} MB")
