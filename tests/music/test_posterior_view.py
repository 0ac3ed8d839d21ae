"""A posterior on the grid of a map: its mass is where the sources are, and beside it almost none."""

from __future__ import annotations

import torch

from rislab.music.posterior_view import drawn_directions
from rislab.music.scene_view import SceneExplorer, SceneSettings

SETTINGS = SceneSettings.of("classroom", snr_db=20.0, covariance="posterior", chosen=1)


def test_density_and_drawn_directions_stand_around_the_sources() -> None:
    explorer = SceneExplorer()
    analysis = explorer.analyse(SETTINGS)
    assert analysis.matching.recall == 1.0 and analysis.posterior is not None
    azimuth, elevation = (torch.rad2deg(axis) for axis in (analysis.grid.azimuth, analysis.grid.elevation))
    near = torch.zeros_like(analysis.music, dtype=torch.bool)
    for place in SETTINGS.places:
        near |= ((azimuth[:, None] - place[0]).abs() < 6) & ((elevation[None] - place[1]).abs() < 6)
    above = analysis.music - analysis.music.min()
    assert analysis.music.min() > 0 and float(above[near].sum() / above.sum()) > 0.9
    directions = torch.rad2deg(drawn_directions(analysis.posterior, 50))
    away = (directions[:, None] - torch.tensor([place[:2] for place in SETTINGS.places])).abs().amax(-1).amin(-1)
    assert directions.shape == (150, 2) and float((away < 6).double().mean()) > 0.9
    # The cut is of the chosen source, whatever slot it has.
    assert abs(float(analysis.ranges[analysis.cut["MUSIC"].argmax()]) - SETTINGS.places[1][2]) < 0.3
