"""What estimators find, count and promise on 200 scenes a cell, and the time of a large surface; only printed."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
import torch

import rislab
from rislab.music.benchmark import make_estimator, search_grid
from rislab.music.metrics import match
from rislab.music.model_order import model_order
from rislab.music.posterior import sample_posterior

SCENES, SEED, MOST = 200, 77, 5


def scenes(number: int, **fields: Any) -> rislab.SceneBatch:
    return rislab.simulate(rislab.SceneConfig.preset("full", **fields), number, seed=SEED, split="test")


def report(benchmark: Any, words: str, **values: float) -> None:
    benchmark.extra_info.update(values)
    benchmark.pedantic(lambda: None, rounds=1)
    print(f"\n{benchmark.name}: {words}")


@pytest.mark.parametrize(("snr_db", "most"), [(0.0, 3), (5.0, 5)], ids=["0 dB, K up to 3", "5 dB, K up to 5"])
def test_sources_counted(benchmark: Any, snr_db: float, most: int) -> None:
    """Share of scenes in which model_order() has K right, separation 10°: the least of all K."""
    torch.set_num_threads(1)
    cell = {"snr_db": snr_db, "separation": math.radians(10)}
    shares = [
        float((model_order(scenes(SCENES, sources=k, **cell), MOST) == k).double().mean()) for k in range(1, most + 1)
    ]
    report(benchmark, f"right {', '.join(f'{share:.3f}' for share in shares)} for K = 1 … {most}", right=min(shares))


@pytest.mark.parametrize("estimator", ["sparse + polish", "sparse + quick Bayes"])
def test_recall_of_five_at_0_db(benchmark: Any, estimator: str) -> None:
    """Recall and processor time a scene; the bound allows 0.627."""
    torch.set_num_threads(1)
    batch = scenes(SCENES, sources=5, snr_db=0.0)
    began = time.process_time()
    estimate = make_estimator(estimator)(batch, 5, search_grid(batch.config))
    milliseconds = 1e3 * (time.process_time() - began) / SCENES
    recall = match(estimate, batch).recall
    report(benchmark, f"recall {recall:.3f}, {milliseconds:.0f} ms a scene", recall=recall, milliseconds=milliseconds)


@pytest.mark.parametrize(("snr_db", "sources"), [(0.0, 1), (0.0, 3), (5.0, 5)], ids=["0 dB, 1", "0 dB, 3", "5 dB, 5"])
def test_regions_hold_the_sources(benchmark: Any, snr_db: float, sources: int) -> None:
    """Share of the sources that matched places have in their 90 % intervals of azimuth, elevation and range."""
    torch.set_num_threads(1)
    batch = scenes(SCENES, sources=sources, snr_db=snr_db)
    posterior = sample_posterior(batch, rislab.polish(batch, rislab.sparse(batch, sources)), seed=1)
    low, high = posterior.interval(0.9)
    truth = torch.stack([batch.azimuth, batch.elevation, batch.range], dim=-1)
    # Of all sources, hit or not: regions that hold only what was hit would promise nothing.
    slot = match(posterior.expected_hits(), batch, tolerances=(9.0, 9.0, 99.0)).slot.unsqueeze(-1).expand(-1, -1, 3)
    held = (low.gather(1, slot) <= truth) & (truth <= high.gather(1, slot))
    shares = held.double().mean((0, 1)).tolist()
    words = ", ".join(
        f"{name} {share:.3f}" for name, share in zip(("azimuth", "elevation", "range"), shares, strict=True)
    )
    report(benchmark, words, least=min(shares), most=max(shares))


def test_large_surface(benchmark: Any) -> None:
    """Sparse fit and polish of three sources before 32 × 32 elements at 10 dB: processor time a scene, first and later.

    At the first call of a configuration its dictionary is computed.
    """
    torch.set_num_threads(1)
    batch = scenes(4, ris_shape=(32, 32), sources=3, snr_db=10.0)
    times = []
    for _ in range(3):
        began = time.process_time()
        rislab.polish(batch, rislab.sparse(batch, 3))
        times.append(1e3 * (time.process_time() - began) / len(batch))
    words = f"{times[0]:.0f} ms a scene at the first call, then {min(times[1:]):.0f} ms"
    report(benchmark, words, first=times[0], milliseconds=min(times[1:]))
