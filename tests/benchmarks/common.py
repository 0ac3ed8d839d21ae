"""Timing shared by the benchmarks: ours and a reference in turn, or ours alone against a stated time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

ROUNDS = 9


def seconds(run: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    began = clock()
    run()
    return clock() - began


def compare(
    benchmark: Any,
    ours: Callable[[], Any],
    reference: Callable[[], Any],
    target: float | None,
    unit: float = 1.0,
    reference_unit: float | None = None,
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Time both in turn after a warm-up; the figure is the median of the ratios pair by pair.

    Args:
        target: largest ratio wanted, None where none is set. unit: how many scenes (or windows) one call of ours
            works on. reference_unit: the same of the reference, if it differs. clock: time.process_time where both have
            one thread, as the machine may be shared.
    """
    units = unit, reference_unit or unit
    ours(), reference()
    pairs = [(seconds(ours, clock) / units[0], seconds(reference, clock) / units[1]) for _ in range(rounds)]
    ratios = sorted(mine / theirs for mine, theirs in pairs)
    benchmark.extra_info["ratio"] = statistics.median(ratios)
    benchmark.extra_info["target"] = target
    benchmark.pedantic(ours, rounds=3, iterations=1)
    medians = [1e3 * statistics.median(column) for column in zip(*pairs, strict=True)]
    print(
        f"\n{benchmark.name}: {medians[0]:.3f} ms against {medians[1]:.3f} ms; ratio {statistics.median(ratios):.4g} "
        f"({ratios[0]:.4g}–{ratios[-1]:.4g}), " + ("no target" if target is None else f"target ≤ {target}")
    )


def alone(benchmark: Any, ours: Callable[[], Any], target: float, unit: float = 1.0) -> None:
    """Time ours after a warm-up; `target` is in milliseconds for one of `unit`."""
    ours()
    times = sorted(1e3 * seconds(ours) / unit for _ in range(ROUNDS))
    benchmark.extra_info["milliseconds"] = statistics.median(times)
    benchmark.extra_info["target"] = target
    benchmark.pedantic(ours, rounds=3, iterations=1)
    print(
        f"\n{benchmark.name}: {statistics.median(times):.3f} ms ({times[0]:.3f}–{times[-1]:.3f}), target ≤ {target} ms"
    )
