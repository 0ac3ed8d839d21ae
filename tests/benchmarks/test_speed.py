"""Speed as ratios measured in one run, ours and the reference in turn; `make bench` prints them, asserts no time."""

from __future__ import annotations

import statistics
import subprocess
import sys
from itertools import islice
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import rislab
from rislab.model.curriculum import NO_CURRICULUM
from rislab.model.losses import compute_loss
from rislab.sanity import overfit_ladder
from rislab.sanity.overfit_config import OverfitConfig
from rislab.training.loop import HALF
from tests.benchmarks.common import compare, seconds


def test_scenes_full_preset(benchmark: Any) -> None:
    """Against drawing as many numbers with torch, and the two matrix products of the measurement."""
    config = rislab.SceneConfig.preset("full", sources=3)
    count, m, n, l, k = 256, config.antennas, config.elements, config.snapshots, 3
    one = torch.complex64

    def reference() -> torch.Tensor:
        channel, noise = torch.randn(count, m, n, dtype=one), torch.randn(count, l, m, dtype=one)
        codes = torch.polar(torch.ones(()), 6.28 * torch.rand(count, l, n))
        symbols, vectors = torch.randn(count, l, k, dtype=one), torch.randn(count, k, n, dtype=one)
        return ((symbols @ vectors) * codes) @ channel.mT + noise

    compare(benchmark, lambda: rislab.simulate(config, count, seed=0), reference, 1.5, unit=count)


def bare_loop(model: nn.Module, data: rislab.SceneBatch, config: rislab.TrainConfig, windows: int) -> None:
    """What one writes without rislab.training.loop: same order of work, clip, averaging, autocast and optimiser."""
    rates = [(model.backbone, config.lr_backbone), (model.head, config.lr_head)]
    groups = [{"params": part.parameters(), "lr": rate} for part, rate in rates]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95), fused=config.precision != "fp16")
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema or 0.0))
    scaler = torch.amp.GradScaler("cpu", enabled=config.precision == "fp16")
    half = HALF.get(config.precision)
    order = torch.randperm(len(data)).split(config.micro_batch)
    size = config.accumulation_steps
    for window in range(windows):
        optimizer.zero_grad(set_to_none=True)
        for indices in order[window * size : (window + 1) * size]:
            batch = data[indices]
            with torch.autocast("cpu", dtype=half, enabled=half is not None):
                loss = compute_loss(model(batch.snapshots, batch.codes, batch.channel), batch, NO_CURRICULUM).total
            scaler.scale(loss / size).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm or 1.0)
        scaler.step(optimizer)
        scaler.update()
        average.update_parameters(model)


@pytest.mark.parametrize("preset", ["classroom", "full"])
@pytest.mark.parametrize(("accumulation_steps", "target"), [(1, 1.15), (4, 1.05)])
def test_loop_with_records(benchmark: Any, preset: str, accumulation_steps: int, target: float) -> None:
    """Windows only: the evaluations at the end of an epoch are work that a bare loop does not do."""
    windows = 16
    config = rislab.TrainConfig(epochs=1, micro_batch=64, accumulation_steps=accumulation_steps)
    data = rislab.simulate(rislab.SceneConfig.preset(preset), 64 * accumulation_steps * windows, seed=0)
    model = rislab.CovarianceNet.build(data.config)

    def ours() -> None:
        stream = rislab.fit(model, data, config)
        for _ in islice(stream, windows):
            pass
        stream.close()

    compare(benchmark, ours, lambda: bare_loop(model, data, config, windows), target, unit=windows)


def test_import(benchmark: Any) -> None:
    """`import rislab` against `import torch`, each in a new process; the target is 0.3 s more."""

    def run(module: str) -> None:
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)

    run("rislab"), run("torch")
    pairs = [(seconds(lambda: run("rislab")), seconds(lambda: run("torch"))) for _ in range(7)]
    extra = statistics.median(mine - theirs for mine, theirs in pairs)
    benchmark.extra_info["seconds_over_torch"] = extra
    benchmark.pedantic(lambda: run("rislab"), rounds=1, iterations=1)
    print(f"\n{benchmark.name}: import rislab takes {extra:.2f} s more than import torch, target ≤ 0.3")


def test_overfit_ladder(benchmark: Any) -> None:
    """The whole ladder, classroom preset; the target is 60 s."""
    took = seconds(lambda: list(overfit_ladder.ladder(OverfitConfig())))
    benchmark.extra_info["seconds"] = took
    benchmark.pedantic(lambda: None, rounds=1, iterations=1)
    print(f"\n{benchmark.name}: {took:.1f} s, target ≤ 60")
