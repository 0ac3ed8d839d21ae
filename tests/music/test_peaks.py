"""Peaks: forecasts spare work and lose nothing."""

from __future__ import annotations

import pytest
import torch

from rislab.data.scene_config import SceneConfig
from rislab.data.simulation import simulate
from rislab.music import peaks
from rislab.music.spectra import music_spectrum
from tests.music.helpers import counted


@pytest.mark.parametrize(
    ("preset", "wavefront", "shape"), [("classroom", "spherical", (25, 13, 4)), ("full", "planar", (44, 26, 1))]
)
def test_starts_that_are_left_out_would_lead_to_no_other_peak(
    preset: str, wavefront: str, shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SceneConfig.preset(preset, wavefront=wavefront)
    batch = simulate(config, 40, seed=3).to(dtype=torch.float64)
    sources, grid = counted(batch), config.grid(shape)
    few = music_spectrum(batch.factor(), sources, grid).peaks
    # Nothing is believed of a forecast: every start is followed.
    monkeypatch.setattr(peaks, "UNSURE", 1e9)
    monkeypatch.setattr(peaks, "SLOPE", -1.0)
    every = music_spectrum(batch.factor(), sources, grid).peaks
    assert torch.equal(few.active, every.active)
    basis, array = torch.linalg.svd(batch.factor(), full_matrices=False).U, grid.array.to(dtype=torch.float64)
    beams = [(one.steering(array).mH @ basis).abs().square().sum(-1) for one in (few, every)]
    assert float((beams[1] - beams[0])[few.active].max()) < 1e-6
