"""Whether the model explains the data, and which mistake of convention the residual shows."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rislab.cli.own_data import position_table
from rislab.data.geometry import ArrayGeometry
from rislab.data.measurement import Measurement
from rislab.errors import InputError
from rislab.music.likelihood import polish, rss
from rislab.music.localisation import locate
from rislab.music.residual import STATIC, convention_changes, convention_hint, residual
from rislab.music.sparse import sparse
from tests.data.own_arrays import CASES, Case, grid, phases

SURFACE = CASES["surface, one antenna"]
TWO = CASES["surface, four antennas"]


def test_what_is_left_is_what_the_noise_brought() -> None:
    measurement = TWO.draw(1, 15.0)
    left = residual(measurement, polish(measurement, sparse(measurement, 2)))
    assert 0.8 < left.over_noise < 1.2
    assert left.explained > 0.9
    assert left.verdict().startswith("the model explains the data down to the noise")
    torch.testing.assert_close(left.fitted + left.snapshots, measurement.snapshots[0])
    assert left.share == pytest.approx(
        float(left.snapshots.abs().square().sum() / measurement.snapshots.abs().square().sum())
    )


@pytest.mark.parametrize("sources", [0, -1, 1.5])
def test_a_number_of_sources_that_is_none_is_refused(sources: Any) -> None:
    with pytest.raises(InputError, match=f"sources is {sources}; allowed: a whole number in"):
        locate(SURFACE.draw(1, 10.0), sources)


def test_changes_make_their_tensors_where_the_measurement_is() -> None:
    measurement = SURFACE.draw(1, 20.0).leading(8)
    measurement = measurement.changed(
        codes=torch.polar(torch.ones(1, 8, 1), torch.ones(1, 8, 1)).expand_as(measurement.codes)
    )
    names = set(convention_changes(measurement))
    # A tensor that is made without a device is "meta" here, and mixes with the others no more than with those on a GPU.
    with torch.device("meta"):
        changes = convention_changes(measurement)
    assert changes.keys() == names and len([name for name in names if "degrees" in name]) == 1


@pytest.mark.slow
def test_noise_is_not_explained() -> None:
    measurement = SURFACE.draw(1, -60.0)
    for other in (measurement, measurement.changed(noise_power=None)):
        left = residual(other, sparse(other, 1))
        assert abs(left.explained) < 0.1
        assert left.verdict().startswith("the model does not explain the data")


@pytest.mark.slow
def test_a_source_that_is_left_over_is_told() -> None:
    measurement = TWO.draw(1, 25.0)
    left = residual(measurement, polish(measurement, sparse(measurement, 1)))
    assert "in part" in left.verdict() and "times the noise" in left.verdict()
    blind = measurement.changed(noise_power=None)
    left = residual(blind, polish(blind, sparse(blind, 1)))
    assert np.isnan(left.over_noise) and left.further > left.further_chance
    assert "in part" in left.verdict()


@pytest.mark.slow
def test_each_mistake_is_named_where_the_residual_shows_it() -> None:
    case = dataclasses.replace(SURFACE, elements=grid(4, 4, 0.05), snapshots=80)
    measurement = case.draw(1, 20.0).to(dtype=torch.float32)
    assert convention_hint(measurement, 1) == ""
    changes = convention_changes(measurement)
    del changes[STATIC]
    mirrored = {name for name in changes if name.startswith("the elements of codes and channel")}
    turned = {"one later": "one earlier", "one earlier": "one later"}
    for name, wrong in changes.items():
        hint = convention_hint(wrong, 1)
        if name in mirrored:
            # The same surface seen in a mirror or from the side: its places are, and nothing else is.
            assert hint == ""
            continue
        for own, other in turned.items():
            if name.endswith(own):
                name = name.replace(own, other)
                break
        # A square surface that is transposed is a mirror too.
        alternative = name.replace("the codes", "the channel") if "column by column" in name else name
        assert name in hint or alternative in hint or name.replace("the channel", "the codes") in hint
        assert hint.startswith("the residual falls from ") and "\n" not in hint


@pytest.mark.slow
def test_codes_in_other_forms_are_recognised() -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (200, 36))
    base = SURFACE.draw(1, 30.0)
    fields = base.array.steering(*torch.tensor(SURFACE.places[0]))
    # What was applied, what was written down, and what is said of it.
    whole = rng.integers(0, 360, (200, 36))
    for applied, written, said in (
        (1.0 - 2 * bits, bits, "the codes 0 and 1 stand for the factors 1 and −1"),
        (1.0 - bits, bits, "the codes 0 and 1 change places"),
        (np.exp(1j * np.deg2rad(whole)), np.exp(1j * whole), "were degrees taken for radians"),
        (np.exp(1j * np.deg2rad(whole)), np.deg2rad(whole), "the codes are phases in radians"),
    ):
        clean = torch.as_tensor(applied, dtype=torch.complex128) * fields @ base.channel[0].mT
        own = Measurement(clean, written, base.channel[0], base.array, symbols="constant")
        assert said in convention_hint(own, 1)


@pytest.mark.slow
def test_bits_for_signs_are_named_where_the_noise_is_known() -> None:
    """They leave a seventh of the energy, which nobody would doubt without a noise power."""
    array, rng = CASES["surface, one antenna"], np.random.default_rng(0)
    bits = (rng.random((60, 36)) < 0.5).astype(float)
    vector = phases(array.elements, array.wavelength, array.places[0], False)
    channel = rng.standard_normal((2, 36)) + 1j * rng.standard_normal((2, 36))
    clean = (1 - 2 * bits) * vector @ channel.T
    noise = 1e-3 * (rng.standard_normal(clean.shape) + 1j * rng.standard_normal(clean.shape))
    located = locate(Measurement(clean + noise, bits, channel, array.geometry(), 2e-6, symbols="constant"), 1)
    assert "the codes 0 and 1 stand for the factors 1 and −1" in located.hint


@pytest.mark.slow
def test_a_path_past_the_surface_is_named() -> None:
    measurement = SURFACE.draw(1, 20.0)
    wrong = measurement.changed(snapshots=measurement.snapshots + 3 * measurement.snapshots.abs().max())
    assert STATIC in convention_hint(wrong, 1)
    assert convention_hint(measurement.centred(), 1) == ""


@pytest.mark.slow
def test_square_tables_may_be_transposed() -> None:
    case = Case(grid(4, 4, 0.05), 0.1, np.array([(0.3, -0.2, 0.6)]), antennas=16, snapshots=16)
    measurement = case.draw(1, 20.0)
    for name in (
        "the channel is transposed",
        "the channel is transposed and conjugated",
        "the codes are transposed",
        "the snapshots are transposed",
    ):
        assert name in convention_hint(convention_changes(measurement)[name], 1)


def test_an_array_without_a_surface_shows_a_conjugate_in_the_near_field() -> None:
    case = CASES["linear array, near field"]
    measurement = case.draw(1, 20.0)
    assert set(convention_changes(measurement)) == {"the snapshots are conjugated"}
    wrong = measurement.changed(snapshots=measurement.snapshots.conj().resolve_conj())
    assert "the snapshots are conjugated" in convention_hint(wrong, 2)
    flat = Measurement.direct(measurement.snapshots, dataclasses.replace(measurement.array, wavefront="planar"))
    assert "the waves are spherical and not planar" in convention_hint(flat, 2)


def test_numbers_of_sources_have_one_range() -> None:
    measurement = CASES["circular array, planar"].draw(1, 20.0)
    for sources in (0, 99):
        with pytest.raises(InputError, match=rf"sources is {sources}; allowed: a whole number in \[1, 8\]"):
            locate(measurement, sources)
    single = Case(grid(4, 4, 0.05), 0.1, np.array([(0.3, 0.0, 1.0)]), antennas=2, snapshots=1).draw(1, 20.0)
    for number in (None, 1):
        with pytest.raises(InputError, match="snapshots is 1; allowed: more"):
            locate(single, number)


@pytest.mark.slow
def test_a_measurement_is_located_with_its_errors_and_notes() -> None:
    found = locate(TWO.draw(1, 20.0))
    assert found.counted and len(found.rows()) == 2 and found.hint == ""
    for row in found.rows():
        place = min(TWO.places, key=lambda each: abs(np.rad2deg(each[0]) - row["azimuth"]))
        assert abs(row["azimuth"] - np.rad2deg(place[0])) < 5 * row["azimuth_error"]
        assert abs(row["range"] - place[2]) < 5 * row["range_error"]
    assert found.rows()[0]["power_db"] >= found.rows()[1]["power_db"]
    planar = locate(CASES["circular array, planar"].draw(1, 20.0), 2)
    assert all(np.isnan(row["range"]) for row in planar.rows()) and not planar.counted
    assert {"plane waves have no range", "elevation is known, not estimated"} <= set(planar.notes)


@pytest.mark.slow
def test_what_a_number_hides_is_noted() -> None:
    far = Case(grid(6, 6, 0.07), 0.1, np.array([(0.3, -0.2, 1e6)]), antennas=4)
    notes = " ".join(locate(far.draw(1, 20.0), 1).notes)
    assert "range of source 1 is not known" in notes
    assert "elements stand 0.7 wavelengths apart" in notes
    narrow = Case(grid(6, 6, 0.05), 0.1, np.array([(0.3, -0.2, 1.0)]), antennas=4, view={"azimuth": (-0.5, 0.1)})
    assert any("azimuth of source 1 lies at the end" in note for note in locate(narrow.draw(1, 20.0), 1).notes)


def test_an_array_that_is_not_as_described_is_noted() -> None:
    """Units, a dead antenna, and gains that nobody calibrated: more sources than are tried would be needed."""
    elements = np.c_[np.zeros(6), 0.05 * np.arange(6), np.zeros(6)]
    line = Case(elements, 0.1, np.array([(0.3, 0.0, 1.0)]), planar=True, snapshots=64)
    measurement = line.draw(1, 20.0)
    assert "tells no directions: are all lengths in metres" in " ".join(_notes_of(measurement, elements, 100.0))
    millimetres = _notes_of(measurement, 1e3 * elements, 0.1)[0]
    assert "neighbours stand 500 wavelengths apart, 0.5 if their positions are in millimetres" in millimetres
    uneven = 50 * (elements + np.c_[np.zeros((6, 2)), 0.001 * np.arange(6) ** 2])
    assert "wavelengths apart, 0.5 if their positions are in centimetres" in _notes_of(measurement, uneven, 0.05)[0]
    real = measurement.snapshots.real.to(torch.complex128)
    # Half a wavelength with 3e8 m/s for the speed of light.
    assert not any("grating" in note for note in _notes_of(measurement, elements, 0.09993))
    assert any("snapshots are real" in note for note in locate(measurement.changed(snapshots=real), most=2).notes)
    alive = torch.tensor([1, 1, 0, 1, 1, 1])
    assert any("antenna 2 (counted from 0)" in note for note in _notes_of(measurement, elements, 0.1, alive))
    faint = "antenna 2 (counted from 0) received less than 15 %"
    deaf = torch.tensor([1, 1, 0.1, 1, 1, 1])
    assert any(faint in note for note in _notes_of(measurement, elements, 0.1, deaf))
    assert not any("antenna" in note for note in _notes_of(measurement, elements, 0.1))
    gains = torch.polar(torch.ones(6), torch.tensor([0.0, 2.0, -1.0, 2.5, -2.0, 1.0]))
    assert any("no more than 2 sources were tried" in note for note in _notes_of(measurement, elements, 0.1, gains))
    assert not any("were tried" in note for note in locate(measurement, most=2).notes)


@pytest.mark.parametrize("turn", [0.0, 0.5 * np.pi])
def test_a_line_says_what_it_cannot_tell(turn: float) -> None:
    """Which side of it, the other angle, and a range beyond its near field; no number stands for what is not known."""
    elements = 0.05 * (np.arange(8) - 3.5)[:, None] * np.array([np.cos(turn), np.sin(turn), 0.0])
    measurement = Case(elements, 0.1, np.array([(turn - 1.1, 0.0, 1e6)]), snapshots=64).draw(1, 20.0)
    located = locate(measurement, 1)
    assert any("a place mirrored at the line fits as well" in note for note in located.notes)
    assert not any("is known, not estimated" in note or "lies at the end" in note for note in located.notes)
    assert located.rows()[0]["range_error"] > located.rows()[0]["range"]
    row = position_table(located).splitlines()[2]
    assert "not known" in row and "e+" not in row and "0 (known)" in row


@pytest.mark.parametrize("normal", [0, 2])
def test_a_plane_says_that_its_sides_look_alike(normal: int) -> None:
    """The source is below, or behind, a ring of elements, and the mirror image of its place is what is found."""
    turns = 2 * np.pi * np.arange(10) / 10
    elements = np.roll(np.stack([np.cos(turns), np.sin(turns), 0 * turns], 1) * 0.08, normal + 1, 1)
    behind = np.array([(0.6, -0.5, 1e6) if normal == 2 else (np.pi - 0.6, 0.5, 1e6)])
    measurement = Case(elements, 0.1, behind, snapshots=64).draw(1, 20.0)
    located = locate(measurement, 1)
    image = (0.6, 0.5)
    assert located.estimate.azimuth[0, 0] == pytest.approx(image[0], abs=0.05)  # errors at 20 dB are some 0.01
    assert located.estimate.elevation[0, 0] == pytest.approx(image[1], abs=0.05)
    assert any("a place mirrored at the plane fits as well" in note for note in located.notes)
    # A place that is searched on purpose is no doubt, and a surface has one side.
    asked = Measurement.direct(measurement.snapshots, measurement.array, elevation=(-0.5, 1.0))
    assert not any("mirrored at the plane" in note for note in locate(asked, 1).notes)
    surface = Measurement(measurement.snapshots, 2 * measurement.codes, 1j * measurement.channel, measurement.array)
    assert not any("mirrored at the plane" in note for note in locate(surface, 1).notes)


def _notes_of(measurement: Measurement, elements: Any, wavelength: float, gains: Tensor | None = None) -> list[str]:
    snapshots = measurement.snapshots if gains is None else measurement.snapshots * gains
    return locate(Measurement.direct(snapshots, ArrayGeometry(elements, wavelength, "planar")), most=2).notes


@pytest.mark.slow
def test_the_energy_that_is_left_is_the_rss() -> None:
    measurement = TWO.draw(1, 15.0)
    estimate = sparse(measurement, 2)
    left = residual(measurement, estimate)
    assert float(left.snapshots.abs().square().sum()) == pytest.approx(float(rss(measurement, estimate)))
