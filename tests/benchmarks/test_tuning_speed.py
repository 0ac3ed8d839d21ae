"""Searching with two workers against two independent searches, each of half the trials, on the same machine."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rislab.training.streaming_config import LearningConfig
from rislab.tuning.search import run_search
from rislab.tuning.space import Range
from rislab.tuning.tuning_config import TuningConfig

TRIALS = 8


@pytest.mark.benchmark(group="search")
def test_two_workers_against_two_copies(benchmark: Callable[..., object], tmp_path: Path) -> None:
    """≥ 0.9: two workers on one study lose little to two that know nothing of each other."""
    base = LearningConfig(preset="classroom", scenes=512, epochs=4, validation=64)
    space = {"lr": Range(1e-3, 1e-2, log=True)}
    config = TuningConfig(base=base, space=space, trials=TRIALS, eval_scenes=256, pruner="none")

    def seconds(name: str, trials: int, workers: int) -> float:
        began = time.perf_counter()
        chosen = dataclasses.replace(config, trials=trials)
        for _ in run_search(tmp_path / name, chosen, workers=workers, skip_ladder=True, confirm=0):
            pass
        return time.perf_counter() - began

    def copies(turn: int) -> float:
        began = time.perf_counter()
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda half: seconds(f"copy {turn} {half}", TRIALS // 2, 1), range(2)))
        return time.perf_counter() - began

    rows = []
    for turn in range(2):
        one, two, apart = seconds(f"one {turn}", TRIALS, 1), seconds(f"two {turn}", TRIALS, 2), copies(turn)
        rows.append((one, two, apart))
    one, two, apart = (min(column) for column in zip(*rows, strict=True))
    print(f"\n{TRIALS} trials: one worker {one:.1f} s, two {two:.1f} s, two copies {apart:.1f} s")
    print(f"speed-up {one / two:.2f}, of the copies {one / apart:.2f}: {apart / two:.2f} of it (≥ 0.9 asked)")
    benchmark.pedantic(lambda: None, rounds=1)
