"""The conventions report: green on the correct package for every kind of scene, each with its number."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from rislab.data.geometry import ArrayGeometry
from rislab.data.scene_config import SceneConfig
from rislab.sanity import conventions


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"wavefront": "planar"},
        {"wavefront": "fresnel", "symbols": "constant"},
        {"symbols": "coherent", "power_law": "free-space", "codes": "dft", "rician_factor": 10.0},
        {"ris_shape": (4, 7), "wavelength": 0.05, "range": (0.3, 2.0), "codes": "hadamard", "channel_error": 0.1},
        # What is known, what a line cannot tell, and what is too far to be told.
        {"ris_shape": (1, 12)},
        {"ris_shape": (12, 1)},
        {"range": 2.0},
        {"elevation": 0.0},
        {"range": (1e6, 1e9)},
        {"spacing": 0.7},
        {"antennas": 1, "snapshots": 32},
    ],
)
def test_report_is_green_on_the_correct_house(changes: dict[str, Any]) -> None:
    report = conventions.check_conventions(SceneConfig.preset("classroom", **changes))
    assert [check.line() for check in report.checks if not check.passed] == []
    assert report.passed
    assert report.headline() == f"conventions: {len(report.checks)} of {len(report.checks)} checks hold"


@pytest.mark.slow
def test_report_is_green_on_the_full_preset_and_another_seed() -> None:
    assert conventions.check_conventions(SceneConfig.preset("full"), seed=3).passed


def test_report_displays_every_check_with_its_number() -> None:
    report = conventions.check_conventions()
    page = report._repr_html_()
    assert "green: conventions" in page
    for check in report.checks:
        assert f">{check.name}</td>" in page
        assert f"{check.value:.2g}" in page
    assert len(str(report).splitlines()) == 1 + len(report.checks)


def test_definition_is_the_steering_function_of_one_element_by_hand() -> None:
    config = SceneConfig.preset("classroom", ris_shape=(1, 2), wavelength=0.2)
    place = [torch.tensor([value]) for value in (0.3, -0.2, 1.5)]
    vector = conventions.steering_by_definition(config, *place)[0]
    # The second element sits at y = +λ/4.
    x, y, z = (1.5 * math.cos(-0.2) * math.cos(0.3), 1.5 * math.cos(-0.2) * math.sin(0.3), 1.5 * math.sin(-0.2))
    path = math.sqrt(x**2 + (y - 0.05) ** 2 + z**2) - 1.5
    assert complex(vector[1]) == pytest.approx(
        complex(math.cos(-math.tau / 0.2 * path), math.sin(-math.tau / 0.2 * path)) / math.sqrt(2), abs=1e-6
    )
    own = ArrayGeometry.surface((1, 2), 0.2, dtype=torch.float64).steering(*(value.double() for value in place))
    torch.testing.assert_close(own[0], vector)
