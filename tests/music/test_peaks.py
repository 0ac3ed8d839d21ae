"""Peaks: forecasts spare work and lose nothing."""

from __future__ import annotations

import pytest
import torch

from rislab.data.covariance import sample_factor
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
    monkeypatch.setattr(peaks, "MARGIN", 1e9)
    monkeypatch.setattr(peaks, "SLOPE", -1.0)
    every = music_spectrum(batch.factor(), sources, grid).peaks
    assert torch.equal(few.active, every.active)
    basis, array = torch.linalg.svd(batch.factor(), full_matrices=False).U, grid.array.to(dtype=torch.float64)
    beams = [(one.steering(array).mH @ basis).abs().square().sum(-1) for one in (few, every)]
    assert float((beams[1] - beams[0])[few.active].max()) < 1e-6


@pytest.mark.parametrize("shape", [(7, 5, 4), (7, 5, 1), (6, 1, 5), (2, 2, 2), (1, 9, 1), (1, 1, 1)])
def test_no_cell_around_a_local_maximum_exceeds_it(shape: tuple[int, int, int]) -> None:
    # Few heights, so that there are plateaus, also across the ends of axes.
    values = torch.randint(0, 6, (3, *shape), generator=torch.Generator().manual_seed(0)).double()
    around = torch.nn.functional.max_pool3d(values.unsqueeze(1), 3, stride=1, padding=1).squeeze(1)
    assert torch.equal(peaks.local_maxima(values), values == around)


def test_refined_peaks_rest() -> None:
    config = SceneConfig.preset("classroom")
    batch = simulate(config, 20, seed=5).to(dtype=torch.float64)
    grid, basis = config.grid((49, 25, 12)), torch.linalg.svd(sample_factor(batch), full_matrices=False).U[..., :2]
    found = music_spectrum(basis, 2, grid).peaks
    points = torch.stack([found.azimuth, found.elevation, 1 / found.range], dim=-1).requires_grad_()
    vectors = grid.array.to(dtype=torch.float64).steering(points[..., 0], points[..., 1], 1 / points[..., 2])
    left = 1 - (vectors.conj() @ basis).abs().square().sum(-1)
    (slope,) = torch.autograd.grad(left.sum(), points)
    ends = [torch.stack([axis.min(), axis.max()]) for axis in (grid.azimuth, grid.elevation, 1 / grid.range)]
    inside = torch.stack(
        [(p > e[0] + 1e-9) & (p < e[1] - 1e-9) for p, e in zip(points.unbind(-1), ends, strict=True)], -1
    )
    inside &= found.active.unsqueeze(-1)
    assert inside.double().mean() > 0.7 and float(slope[inside].abs().max()) < 1e-6
