"""What it costs to be watched: ratios to the same loop unwatched, and the time of a diagnosis."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn

import rislab
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
