"""The configuration of scenes: bad fields are named, and it comes back from its mapping."""

from __future__ import annotations

import dataclasses
import math

import pytest

from rislab.data.scene_config import SceneConfig
from rislab.errors import InputError


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"antenas": 8},
            "antenas is not a field of SceneConfig, did you mean 'antennas'? allowed: wavelength, ris_shape",
        ),
        ({"antennas": 0}, "antennas is 0; allowed: a whole number in [1, 4096]"),
        ({"antennas": 8.0}, "antennas is 8.0"),
        ({"antennas": True}, "antennas is True"),
        ({"ris_shape": 12}, "ris_shape is 12"),
        ({"ris_shape": (0, 3)}, "ris_shape is 0"),
        ({"sources": (3, 1)}, "sources is (3, 1)"),
        ({"sources": (0, 1)}, "sources is 0"),
        ({"sources": (1.5, 2)}, "sources is 1.5"),
        ({"range": (0.0, 3.0)}, "range is 0.0"),
        ({"range": -1.0}, "range is -1.0"),
        ({"azimuth": (-2.0, 0.0)}, "azimuth is -2.0"),
        ({"snr_db": (math.nan, 3.0)}, "snr_db is nan"),
        ({"snr_db": "10"}, "snr_db is '10'"),
        ({"wavefront": "cylindrical"}, "wavefront is 'cylindrical'; allowed: 'spherical', 'fresnel', 'planar'"),
        ({"symbols": None}, "symbols is None"),
        ({"codes": "walsh"}, "codes is 'walsh'"),
        ({"phase_bits": 0}, "phase_bits is 0"),
        ({"rician_factor": -1.0}, "rician_factor is -1.0"),
        ({"dead_elements": 1.0}, "dead_elements is 1.0"),
        ({"wavelength": math.inf}, "wavelength is inf"),
    ],
)
def test_bad_fields_are_named_with_value_and_range(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        SceneConfig.from_dict(fields)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_configurations_survive_a_round_trip_and_cannot_be_changed() -> None:
    config = SceneConfig.preset("full", phase_bits=3, snr_db=10, sources=2)
    assert config.snr_db == (10, 10)
    assert config.sources == (2, 2)
    assert SceneConfig.from_dict(config.to_dict()) == config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.antennas = 3  # type: ignore[misc]
    with pytest.raises(InputError, match="preset is 'tiny'; allowed: 'full', 'classroom'"):
        SceneConfig.preset("tiny")
