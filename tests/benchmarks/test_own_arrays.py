"""Arrays of anyone at 15 dB: error over the bound at the estimate, and time, of sparse and polish; only printed."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

import rislab
from tests.data.own_arrays import CASES
from tests.music.test_own_arrays import sorted_places

SCENES, SNR_DB, SEED = 200, 15.0, 11


@pytest.mark.parametrize("name", CASES)
def test_errors_over_the_bound(benchmark: Any, name: str) -> None:
    case = CASES[name]
    measurement, count = case.draw(SCENES, SNR_DB, SEED), len(case.places)
    began = time.perf_counter()
    estimate = rislab.polish(measurement, rislab.sparse(measurement, count))
    milliseconds = 1e3 * (time.perf_counter() - began) / SCENES
    bound = rislab.crb(
        measurement, kind="stochastic" if case.symbols == "varying" else "deterministic", estimate=estimate
    )
    places, order = sorted_places(estimate, case)
    deviation = torch.stack([bound.azimuth, bound.elevation, bound.range], dim=-1)
    deviation = deviation.gather(1, order.unsqueeze(-1).expand(-1, -1, 3))
    ratio = ((places - torch.as_tensor(case.places)) / deviation).square().mean((0, 1)).sqrt()
    known = ratio[(deviation[0, 0] > 0) & (deviation[0, 0] < float("inf"))].tolist()
    benchmark.extra_info |= {"least": min(known), "most": max(known)}
    benchmark.pedantic(lambda: rislab.sparse(measurement[:8], count), rounds=1)
    told = ", ".join(
        f"{axis} {float(value):.3f}"
        for axis, value, known in zip(("azimuth", "elevation", "range"), ratio, deviation[0, 0].tolist(), strict=True)
        if 0 < known < float("inf")
    )
    print(f"\n{name}, K = {count}, {SNR_DB:g} dB, {SCENES} scenes: error / √CRB {told}; {milliseconds:.0f} ms a scene")
