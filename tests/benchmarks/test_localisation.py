"""What estimators find, count and promise on 200 scenes a cell, and time and memory of a surface; only printed."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import torch

import rislab
from rislab.data.covariance import nmse
from rislab.model import pretrained
from rislab.music.benchmark import learned_estimators, make_estimator, predicted_factor, search_grid
from rislab.music.metrics import match
from rislab.music.model_order import model_order
from rislab.music.posterior import sample_posterior
from tests.music.helpers import truth

SCENES, SEED, MOST = 200, 77, 5


def scenes(number: int, **fields: Any) -> rislab.SceneBatch:
    return rislab.simulate(rislab.SceneConfig.preset("full", **fields), number, seed=SEED, split="test")


Result = TypeVar("Result")


def timed(run: Callable[[], Result]) -> tuple[Result, float]:
    """A result and the processor time that it took, ms a scene."""
    began = time.process_time()
    result = run()
    return result, 1e3 * (time.process_time() - began) / SCENES


def report(benchmark: Any, words: str, **values: float) -> None:
    benchmark.extra_info.update(values)
    benchmark.pedantic(lambda: None, rounds=1)
    print(f"\n{benchmark.name}: {words}")


@pytest.mark.parametrize(("snr_db", "most"), [(0.0, 3), (5.0, 5)], ids=["0 dB, K up to 3", "5 dB, K up to 5"])
def test_sources_counted(benchmark: Any, snr_db: float, most: int) -> None:
    """Share of scenes in which model_order() has K right, separation 10°: the least of all K.

    Its time is held against that of the fit, which is given K.
    """
    torch.set_num_threads(1)
    cell = {"snr_db": snr_db, "separation": math.radians(10)}
    shares, counting, fitting = [], 0.0, 0.0
    for k in range(1, most + 1):
        batch = scenes(SCENES, sources=k, **cell)
        orders, once = timed(lambda batch=batch: model_order(batch, MOST))
        counting += once
        fitting += timed(lambda batch=batch, k=k: rislab.polish(batch, rislab.sparse(batch, k)))[1]
        shares.append(float((orders == k).double().mean()))
    words = f"right {', '.join(f'{share:.3f}' for share in shares)} for K = 1 … {most}"
    report(
        benchmark,
        f"{words}, {counting / fitting:.2f} × the time of the fit",
        right=min(shares),
        ratio=counting / fitting,
    )


def test_noise_has_no_source(benchmark: Any) -> None:
    """Share of scenes of noise alone, but for one source at −60 dB, in which model_order() answers 0."""
    batch = scenes(SCENES, sources=1, snr_db=-60.0)
    none = float((model_order(batch, MOST) == 0).double().mean())
    report(benchmark, f"none in {none:.3f}", none=none)


RECALLS = [("sparse + polish", 5), ("sparse + quick Bayes", 5), *(("sparse + Bayes", k) for k in (1, 3, 5))]


@pytest.mark.parametrize(("estimator", "sources"), RECALLS, ids=lambda value: str(value))
def test_recall_at_0_db(benchmark: Any, estimator: str, sources: int) -> None:
    """Recall and processor time a scene; of five sources the bound allows 0.627."""
    torch.set_num_threads(1)
    batch = scenes(SCENES, sources=sources, snr_db=0.0)
    estimate, milliseconds = timed(lambda: make_estimator(estimator)(batch, sources, search_grid(batch.config)))
    recall = match(estimate, batch).recall
    report(benchmark, f"recall {recall:.3f}, {milliseconds:.0f} ms a scene", recall=recall, milliseconds=milliseconds)


def test_line_of_sight(benchmark: Any) -> None:
    """Recall of sparse and polish below that of the likelihood from the true places; κ = 3 and 10, 10 and 20 dB."""
    torch.set_num_threads(1)
    gaps, times = {}, []
    for factor, snr_db, k in itertools.product((3.0, 10.0), (10.0, 20.0), (1, 2, 3)):
        batch = scenes(SCENES, sources=k, snr_db=snr_db, rician_factor=factor)
        estimate, milliseconds = timed(lambda batch=batch, k=k: rislab.polish(batch, rislab.sparse(batch, k)))
        best = match(rislab.polish(batch, truth(batch)), batch).recall
        gaps[f"κ = {factor:g}, {snr_db:g} dB, K = {k}"] = best - match(estimate, batch).recall
        times.append(milliseconds)
    where = max(gaps, key=lambda name: gaps[name])
    words = f"at most {gaps[where]:.3f} less ({where}), at most {max(times):.1f} ms a scene"
    report(benchmark, words, gap=gaps[where], milliseconds=max(times))


def test_learned_covariance(benchmark: Any) -> None:
    """The shipped weights: recall of MUSIC below sparse and polish at 10 and 20 dB, time, and NMSE at 15 dB."""
    torch.set_num_threads(1)
    model, _, _ = pretrained.load("shipped")
    learned, apart = learned_estimators(model)["learned + MUSIC"], math.radians(10)
    gaps, times = [], []
    for snr_db, k in itertools.product((10.0, 20.0), (1, 2, 3)):
        batch = scenes(SCENES, sources=k, snr_db=snr_db, separation=apart)
        grid = search_grid(batch.config)
        learned(batch[:1], k, grid)  # steering vectors of the grid are made at the first call
        estimate, milliseconds = timed(lambda batch=batch, k=k, grid=grid: learned(batch, k, grid))
        fit = rislab.polish(batch, rislab.sparse(batch, k))
        gaps.append(match(fit, batch).recall - match(estimate, batch).recall)
        times.append(milliseconds)
    errors = {}
    for law, k in (("free-space", 2), ("equal", 2), ("equal", 3)):
        batch = scenes(SCENES, sources=k, snr_db=15.0, separation=apart, power_law=law)
        errors[f"{law}-{k}"] = float(nmse(predicted_factor(model, batch), batch.factor()).mean())
    words = ", ".join(f"{name} {value:.4f}" for name, value in errors.items())
    words = f"recall at most {max(gaps):.3f} less, at most {max(times):.1f} ms a scene; NMSE {words}"
    report(benchmark, words, gap=max(gaps), milliseconds=max(times), **errors)


@pytest.mark.parametrize(("snr_db", "sources"), [(0.0, 1), (0.0, 3), (5.0, 5)], ids=["0 dB, 1", "0 dB, 3", "5 dB, 5"])
def test_regions_hold_the_sources(benchmark: Any, snr_db: float, sources: int) -> None:
    """Share of the sources that matched places have in their 90 % intervals of azimuth, elevation and range."""
    torch.set_num_threads(1)
    batch = scenes(SCENES, sources=sources, snr_db=snr_db)
    posterior = sample_posterior(batch, rislab.polish(batch, rislab.sparse(batch, sources)), seed=1)
    low, high = posterior.interval(0.9)
    places = torch.stack([batch.azimuth, batch.elevation, batch.range], dim=-1)
    # Of all sources, hit or not: regions that hold only what was hit would promise nothing.
    slot = match(posterior.expected_hits(), batch, tolerances=(9.0, 9.0, 99.0)).slot.unsqueeze(-1).expand(-1, -1, 3)
    held = (low.gather(1, slot) <= places) & (places <= high.gather(1, slot))
    shares = held.double().mean((0, 1)).tolist()
    words = ", ".join(
        f"{name} {share:.3f}" for name, share in zip(("azimuth", "elevation", "range"), shares, strict=True)
    )
    report(benchmark, words, least=min(shares), most=max(shares))


LARGE = """
import torch, rislab
torch.set_num_threads(1)
batch = rislab.simulate(rislab.SceneConfig.preset("full", ris_shape=(32, 32), sources=3, snr_db=10.0), 1, seed=77)
def status(field):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field))
before = status("VmRSS")
rislab.polish(batch, rislab.sparse(batch, 3))
print((status("VmHWM") - before) / 1024)
"""


def test_large_surface(benchmark: Any) -> None:
    """Sparse fit and polish of three sources before 32 × 32 elements at 10 dB: time a scene and memory.

    At the first call of a configuration its dictionary is computed.
    """
    torch.set_num_threads(1)
    batch = scenes(4, ris_shape=(32, 32), sources=3, snr_db=10.0)
    times = []
    for _ in range(3):
        began = time.process_time()
        rislab.polish(batch, rislab.sparse(batch, 3))
        times.append(1e3 * (time.process_time() - began) / len(batch))
    # Of one scene in a new process, its dictionary with it.
    done = subprocess.run([sys.executable, "-c", LARGE], check=True, capture_output=True, text=True)
    megabytes = float(done.stdout)
    words = f"{times[0]:.0f} ms a scene at the first call, then {min(times[1:]):.0f} ms, {megabytes:.0f} MB"
    report(benchmark, words, first=times[0], milliseconds=min(times[1:]), megabytes=megabytes)
