"""One measurement from its snapshots to places with standard errors, and to a word on whether to believe them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rislab.data.measurement import Measurement, default_field_of_view, unknown_axes
from rislab.errors import check_number
from rislab.music.crb import Bound, crb
from rislab.music.estimate import Estimate
from rislab.music.likelihood import bounds_box, check_identifiable, most_sources, points_of, polish
from rislab.music.model_order import model_order
from rislab.music.residual import Residual, convention_hint, residual
from rislab.music.sparse import sparse

# Most sources that are counted.
MOST = 5
# If less than this is explained, changes of convention are tried; more where the noise is known to be less.
EXPLAINED, EXPLAINED_OVER_NOISE = 0.85, 0.97
# A place nearer to the end of its axis than this share of the axis lies at it.
EDGE = 1e-6
# Half a wavelength, as it comes out with 3e8 m/s for the speed of light or a rounded frequency.
ROUNDED_HALF = 0.505
# If an array spans less than SMALL wavelengths, or its elements stand more than WIDE wavelengths apart, its unit is
# wrong; the likeliest unit is the one that brings the spacing of neighbours closest to HALF a wavelength.
SMALL, WIDE, HALF = 0.05, 10.0, 0.5
UNITS = {"centimetres": 0.01, "millimetres": 0.001}
# From an SNR of 8 dB on, an element that receives no wave has less than FAINT of the power of the others; with fewer
# snapshots than ENOUGH_SNAPSHOTS others fall below it by chance.
FAINT, ENOUGH_SNAPSHOTS = 0.15, 20


@dataclass(frozen=True, eq=False)
class Localisation:
    """What one measurement says."""

    estimate: Estimate  # [1,K]; strongest source first
    bound: Bound  # of the estimate, at the noise power that was given or that is left: standard errors
    residual: Residual  # what the sources leave
    counted: bool  # whether K was counted, or given
    hint: str  # see residual.convention_hint(); "" if the model explains the data
    notes: list[str]  # what else has to be known to read the numbers, one sentence each

    def rows(self) -> list[dict[str, float]]:
        """Place, standard errors and power of each source; degrees and metres, NaN where nothing is known."""
        rows = []
        for slot in range(self.estimate.azimuth.shape[1]):
            row: dict[str, float] = {}
            for name, unit in (("azimuth", 180 / math.pi), ("elevation", 180 / math.pi), ("range", 1.0)):
                deviation = float(getattr(self.bound, name)[0, slot]) * unit
                finite = math.isfinite(deviation)
                row[name] = float(getattr(self.estimate, name)[0, slot]) * unit if finite else math.nan
                row[f"{name}_error"] = deviation if finite else math.nan
            row["position_error"] = float(self.bound.position[0, slot])
            row["power_db"] = 10 * math.log10(max(float(self.estimate.power[0, slot]), 1e-300))
            rows.append(row)
        return rows


def locate(measurement: Measurement, sources: int | None = None, *, most: int = MOST) -> Localisation:
    """Find the sources of one measurement by a sparse fit and maximum likelihood, and judge the fit.

    Args:
        measurement: one.
        sources: K; counted by model_order() if None, at least 1.
        most: largest number that is counted.

    Raises:
        InputError: for more sources than can be identified.
    """
    check_number("measurements", len(measurement), 1, 1, integer=True)
    config = measurement.config
    largest = max(1, min(most_sources(measurement), config.elements - 1))
    check_identifiable(measurement, 1)
    if sources is not None:
        check_number("sources", sources, 1, largest, integer=True)
    limit = min(most, largest)
    number = int(model_order(measurement, limit)) if sources is None else sources
    notes = [] if number else ["no source was counted: this is the strongest that noise may look like"]
    number = max(number, 1)
    estimate = _by_power(polish(measurement, sparse(measurement, number)))
    left = residual(measurement, estimate)
    # Where the model explains nearly nothing, the bound means little; it is shown all the same.
    kind = "stochastic" if config.symbols == "varying" else "deterministic"
    bound = crb(measurement, kind=kind, estimate=estimate)
    if sources is None and number == limit > 1:
        notes.append(
            f"no more than {limit} sources were tried, and as many were counted: others, errors of the array, waves of "
            "another form or noise that differs between antennas may be among them"
        )
    notes += _notes(measurement, estimate, bound)
    least = EXPLAINED if measurement.noise_power is None else EXPLAINED_OVER_NOISE
    doubtful = not (left.explained > least or left.over_noise <= 1.5)
    hint = convention_hint(measurement, number) if doubtful else ""
    return Localisation(estimate, bound, left, sources is None, hint, notes)


def _by_power(estimate: Estimate) -> Estimate:
    order = torch.where(estimate.active, estimate.power, -1.0).argsort(dim=1, descending=True)
    return Estimate(*(values.gather(1, order) for values in vars(estimate).values()))


def _notes(measurement: Measurement, estimate: Estimate, bound: Bound) -> list[str]:
    config = measurement.config
    notes = []
    low, high = (end.double() for end in bounds_box(measurement))
    points, unknown = points_of(estimate)[0].double(), unknown_axes(config)
    width = (high - low).clamp(min=torch.finfo(torch.float64).tiny)
    at_edge = ((points - low) / width < EDGE) | ((high - points) / width < EDGE)
    far = ~(bound.range[0] < estimate.range[0])
    at_edge[:, 2] &= ~far
    view = default_field_of_view(measurement.array)
    for axis, name in enumerate(("azimuth", "elevation", "range")):
        slots = _numbers(at_edge[:, axis])
        if unknown[axis] and slots:
            notes.append(f"{name} of source {slots} lies at the end of what was searched")
        if unknown[axis] or (axis == 2 and config.wavefront == "planar"):
            continue
        if view[name] == getattr(config, name) == (0.0, 0.0):
            notes.append(
                f"a line of elements tells only the angle to itself: {name} is set to 0°, and a place mirrored at the "
                "line fits as well"
            )
        else:
            notes.append(f"{name} is known, not estimated")
    if measurement.one_sided:
        notes.append(
            "a plane of elements does not tell its two sides apart: one was searched, and a place mirrored at the "
            "plane fits as well"
        )
    if config.wavefront == "planar":
        notes.append("plane waves have no range")
    if unknown[2] and far.any():
        notes.append(f"range of source {_numbers(far)} is not known: its standard error exceeds it")
    notes += [measurement.doubt] if measurement.doubt else []
    return _unit_notes(measurement) + notes + _power_notes(measurement) + _lobe_notes(measurement)


def _power_notes(measurement: Measurement) -> list[str]:
    """Antennas that received nothing, and elements of an array without a surface that received far less than others."""
    power = torch.view_as_real(measurement.snapshots[0]).double().square().sum(-1).mean(0)
    silent = (power == 0).nonzero().flatten().tolist()
    notes = []
    if silent:
        notes.append(f"antenna {', '.join(map(str, silent))} (counted from 0) received nothing: leave it out")
    median = float(power.median())
    faint = ((power > 0) & (power < FAINT * median)).nonzero().flatten().tolist()
    if faint and measurement.is_direct and len(power) > 2 and measurement.config.snapshots >= ENOUGH_SNAPSHOTS:
        notes.append(
            f"antenna {', '.join(map(str, faint))} (counted from 0) received less than {100 * FAINT:g} % of the power "
            "of the others: leave it out, unless waves of one waveform cancel there"
        )
    return notes


def _numbers(chosen: Tensor) -> str:
    """Which sources, counted from 1."""
    return ", ".join(str(slot + 1) for slot in chosen.nonzero().flatten().tolist())


def _unit_notes(measurement: Measurement) -> list[str]:
    """Warnings of an array that is far too small or too wide for its wavelength, as in a wrong unit."""
    aperture = float(measurement.array.extent().norm()) / measurement.array.wavelength
    if aperture < SMALL:
        return [f"the array spans {aperture:.3g} wavelengths and tells no directions: are all lengths in metres?"]
    spacing = float(_spacings(measurement).min())
    if not WIDE < spacing < math.inf:
        return []
    meant = min(UNITS, key=lambda name: abs(math.log(UNITS[name] * spacing / HALF)))
    apart = UNITS[meant] * spacing
    likely = f", {apart:.3g} if their positions are in {meant} and not in metres" if apart < WIDE else ""
    return [
        f"neighbours stand {spacing:.3g} wavelengths apart{likely}: so far apart, many places fit as well as these, "
        "which no standard error tells"
    ]


def _spacings(measurement: Measurement) -> Tensor:
    """From each element to the nearest one in another place, wavelengths, [N]; infinite for too many elements."""
    elements = measurement.array.elements.double()
    if len(elements) > 4096:
        return torch.full((1,), math.inf)
    apart = torch.cdist(elements, elements)
    return torch.where(apart > 0, apart, torch.inf).amin(1) / measurement.array.wavelength


def _lobe_notes(measurement: Measurement) -> list[str]:
    """A warning of directions that repeat between elements that all stand more than half a wavelength apart."""
    nearest = _spacings(measurement)
    spacing = float(nearest.max())
    uniform = spacing - float(nearest.min()) < 1e-6 * spacing
    if not uniform or not ROUNDED_HALF < spacing <= WIDE:
        return []
    return [f"elements stand {spacing:.3g} wavelengths apart: other directions may look the same (grating lobes)"]
