"""The conventions report: does everything in the package mean the same by a position, a phase, a covariance?

Each check compares the package with formulas that are written out here once more, from the definitions and without its
steering function: a sign, an axis or a unit that changes in one place only turns a check red.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rislab.checkup.html_table import Html, html_table
from rislab.data.covariance import nmse, sample_factor
from rislab.data.grid import Grid
from rislab.data.measurement import identifiable, unknown_axes
from rislab.data.scene_config import IMPAIRMENTS, SceneConfig
from rislab.data.scenes import SceneBatch
from rislab.data.simulation import simulate
from rislab.music.crb import crb
from rislab.music.estimate import Estimate
from rislab.music.likelihood import polish, single_antenna
from rislab.music.metrics import match
from rislab.music.sparse import sparse
from rislab.music.spectra import bartlett_spectrum, music_spectrum, mvdr_spectrum
from rislab.sanity.checks import CheckResult, Verdict, run_check
from rislab.sanity.ladder_checks import check_oracle, check_splits, check_zero

SCENES = 64
PERFECT = dict.fromkeys(IMPAIRMENTS, 0.0)
AXES = ("azimuth", "elevation", "range")
STEP = 1e-5  # of the finite differences, radians and metres
FARTHEST_DIFFERENCE = 1e3  # metres


@dataclass(frozen=True)
class ConventionsReport:
    """Results of all checks: green or red in a notebook, one line a check as text.

    Args:
        checks: in the order in which they were made.
    """

    checks: tuple[CheckResult, ...]

    @property
    def passed(self) -> bool:
        """Whether every check holds."""
        return all(check.passed for check in self.checks)

    def headline(self) -> str:
        """How many hold."""
        return f"conventions: {sum(check.passed for check in self.checks)} of {len(self.checks)} checks hold"

    def __str__(self) -> str:
        return "\n".join([self.headline(), *(check.line() for check in self.checks)])

    def _repr_html_(self) -> str:
        # Okabe and Ito's green and vermillion; the words say the same to those who do not see the colour.
        colour, word = ("#007a5a", "green") if self.passed else ("#b34700", "red")
        rows = [
            (
                "ok" if check.passed else Html("<b>FAIL</b>"),
                check.name,
                f"{check.value:.2g}",
                f"{check.relation} {check.reference:.2g}",
                check.sentence,
            )
            for check in self.checks
        ]
        head = ("", "check", "measured", "allowed", "what")
        return (
            f"<details{'' if self.passed else ' open'}><summary><span style='background:{colour};color:white;"
            f"padding:3px 10px;border-radius:4px'>{word}: {html.escape(self.headline())}</span></summary>"
            f"{html_table(head, rows, label='checks of the conventions', numbers=(2,))}</details>"
        )


def check_conventions(config: SceneConfig | None = None, *, seed: int = 0) -> ConventionsReport:
    """Check that generator, loss, estimators and bound agree on the conventions.

    Args:
        config: scenes to check on, without impairments; the classroom preset by default.
        seed: of the scenes.

    Returns:
        The results of all checks.
    """
    config, _ = identifiable((config or SceneConfig.preset("classroom")).changed(**PERFECT))
    scenes = simulate(config, SCENES, seed=seed)
    few = config.changed(sources=1, snr_db=60.0, symbols="varying")
    one = simulate(few, 1, seed=seed).to(dtype=torch.float64)
    exact = steering_by_definition(one.config, one.azimuth, one.elevation, one.range).mT  # [1, N, 1]
    truth = config.elements * exact @ exact.mH
    grid = few.grid((37, 19, 7))
    checks: dict[str, Callable[[], Verdict]] = {
        "steering": lambda: check_steering(scenes),
        "generator": lambda: check_generator(simulate(config.changed(snr_db=100.0), 8, seed=seed)),
        "truth": lambda: check_truth(scenes),
        "loss": lambda: check_loss(scenes),
        "trace": lambda: check_trace(scenes),
        "oracle": lambda: check_oracle(scenes, "fp32"),
        "zero matrix": lambda: check_zero(scenes, "fp32"),
        "MUSIC": lambda: check_place(music_spectrum(truth, 1, grid).peaks, one),
        # Two columns along one vector: the factor's own subspace has a signal and a noise part.
        "MUSIC of a factor": lambda: check_place(
            music_spectrum(torch.cat([exact, 0.5 * exact], dim=-1), 1, grid).peaks, one
        ),
        "map": lambda: check_cell(music_spectrum(truth, 1, grid, refine=False).peaks, one, grid),
        "MVDR": lambda: check_place(mvdr_spectrum(truth, 1, grid).peaks, one),
        "conventional beam": lambda: check_place(bartlett_spectrum(truth, 1, grid).peaks, one),
        "sparse": lambda: check_within_bound(polish(one, sparse(one, 1)), one),
        "bound": lambda: check_bound(one),
        "matching": lambda: check_matching(scenes),
        "splits": lambda: check_splits(scenes, seed),
    }
    return ConventionsReport(tuple(run_check(name, check) for name, check in checks.items()))


def steering_by_definition(config: SceneConfig, azimuth: Tensor, elevation: Tensor, range: Tensor) -> Tensor:
    """Steering vectors [..., N] in complex128, written out from the definitions, element by element."""
    rows, columns = config.ris_shape
    phi, theta, r = azimuth.double(), elevation.double(), range.double()
    step = config.spacing * config.wavelength
    x, y, z = r * theta.cos() * phi.cos(), r * theta.cos() * phi.sin(), r * theta.sin()
    phases = []
    for v in torch.arange(rows).tolist():
        for h in torch.arange(columns).tolist():
            across, up = (h - (columns - 1) / 2) * step, (v - (rows - 1) / 2) * step
            u = across * phi.sin() * theta.cos() + up * theta.sin()
            if config.wavefront == "spherical":
                path = (x**2 + (y - across) ** 2 + (z - up) ** 2).sqrt() - r
            elif config.wavefront == "fresnel":
                path = -u + (across**2 + up**2 - u**2) / (2 * r)
            else:
                path = -u
            phases.append(-2 * math.pi / config.wavelength * path)
    phase = torch.stack(phases, dim=-1)
    return torch.polar(torch.ones_like(phase), phase) / math.sqrt(rows * columns)


def check_steering(scenes: SceneBatch) -> Verdict:
    """The steering function equals the distance formula."""
    places = scenes.azimuth.double(), scenes.elevation.double(), scenes.range.double()
    own = scenes.config.array(dtype=torch.float64).steering(*places)
    error = float((own - steering_by_definition(scenes.config, *places)).abs().max())
    limit = max(1e-9, _cancellation(scenes))
    return Verdict(error, "<=", limit, "largest difference between the steering function and the distance formula")


def _cancellation(scenes: SceneBatch) -> float:
    """Rounding of phases that are written out as differences of long distances."""
    turns = float(scenes.range.max()) / scenes.config.wavelength
    return 4 * 2 * math.pi * turns * torch.finfo(torch.float64).eps


def check_generator(loud: SceneBatch) -> Verdict:
    """Snapshots of almost no noise are H diag(c) A s."""
    vectors = steering_by_definition(loud.config, loud.azimuth, loud.elevation, loud.range) * loud.active.unsqueeze(-1)
    arriving = loud.codes * (loud.symbols.to(torch.complex128) @ vectors)  # [B, L, N]
    expected = arriving @ loud.channel.mT.to(torch.complex128)
    error = float(((loud.snapshots - expected).norm() / expected.norm()).real)
    # 1e-5 of it is the noise at 100 dB; float32 phases add about as much.
    return Verdict(error, "<=", 1e-4, "relative difference of snapshots at 100 dB from H diag(c) A s")


def check_truth(scenes: SceneBatch) -> Verdict:
    """The truth covariance is A P A^H."""
    factor = _factor(scenes)
    truth = factor @ factor.mH
    error = float((scenes.covariance(torch.float64) - truth).norm() / truth.norm())
    limit = max(1e-6, _cancellation(scenes))
    return Verdict(error, "<=", limit, "relative difference of the truth covariance from A P A^H")


def check_loss(scenes: SceneBatch) -> Verdict:
    """A P^(1/2) from the definitions scores 0 in the loss."""
    error = float(nmse(_factor(scenes).to(torch.complex64), scenes.factor()).abs().max())
    return Verdict(error, "<=", 1e-5, "largest NMSE of A P^½ written out from the definitions")


def check_trace(scenes: SceneBatch) -> Verdict:
    """Truth and sample covariance are Hermitian with trace N."""
    worst = 0.0
    for factor in (scenes.factor(torch.float64), sample_factor(scenes).to(torch.complex128)):
        matrix = factor @ factor.mH
        trace = matrix.diagonal(dim1=-2, dim2=-1).sum(-1)
        worst = max(worst, float((trace / scenes.config.elements - 1).abs().max()))
        worst = max(worst, float((matrix - matrix.mH).abs().max()))
    return Verdict(worst, "<=", 1e-5, "largest deviation from trace N and from R = R^H, truth and sample covariance")


def check_place(peaks: Estimate, one: SceneBatch) -> Verdict:
    """An estimator finds the one source of an exact covariance."""
    errors = [torch.rad2deg(getattr(peaks, name) - getattr(one, name)).abs() for name in AXES[:2]]
    if one.config.wavefront != "planar":  # a plane wave has no range
        # Beyond the Fraunhofer distance only 1/r shows: the error there is that at the distance itself.
        size = float(one.config.array(dtype=torch.float64).extent().norm())
        near = one.range.clamp(max=2 * size**2 / one.config.wavelength)
        errors.append((1 / peaks.range - 1 / one.range).abs() * near.square())
    worst = float(torch.stack(errors).max()) if bool(peaks.active.all()) else math.nan
    return Verdict(worst, "<=", 1e-3, "largest error in degrees and metres on the exact covariance of one source")


def check_cell(peaks: Estimate, one: SceneBatch, grid: Grid) -> Verdict:
    """The highest cell of a map is one of those around the source: refinement would hide exchanged axes."""
    places = {"azimuth": grid.azimuth, "elevation": grid.elevation, "range": grid.range}
    if one.config.wavefront == "planar":
        del places["range"]
    off = []
    for name, axis in places.items():
        peak, true = getattr(peaks, name)[0, 0], getattr(one, name)[0, 0]
        off.append(int(((axis - true).abs() < (peak - true).abs() - 1e-9).sum()))
    return Verdict(max(off), "<=", 1, "cells of the grid nearer to the one source than the highest one, worst axis")


def check_within_bound(estimate: Estimate, one: SceneBatch) -> Verdict:
    """An estimate from snapshots lies within five standard deviations of the bound."""
    limit = crb(one, kind="stochastic" if single_antenna(one) else "deterministic")
    names = _unknown(one)
    errors = [(getattr(estimate, name) - getattr(one, name)) / getattr(limit, name) for name in names]
    worst = float(torch.stack(errors).abs().max()) if errors else 0.0
    return Verdict(worst, "<=", 5.0, "largest error over √CRB of sparse and polished, one source at 60 dB")


def check_bound(one: SceneBatch) -> Verdict:
    """The bound equals that of the definitions, their derivatives by finite differences."""
    places = [one.azimuth[0], one.elevation[0], one.range[0]]
    if float(one.range.max()) > FARTHEST_DIFFERENCE:
        sentence = f"not computed: beyond {FARTHEST_DIFFERENCE:g} m finite differences of the range are rounding"
        return Verdict(0.0, "<=", 1e-4, sentence)
    if single_antenna(one):
        sentence = "not computed: unknown waveforms explain all that one antenna receives"
        return Verdict(0.0, "<=", 1e-4, sentence)

    def received(shift: int | None = None, step: float = 0.0) -> Tensor:
        moved = [place + step * (index == shift) for index, place in enumerate(places)]
        vector = steering_by_definition(one.config, *moved)[0]  # [N]
        return (one.channel[0] @ (one.codes[0] * vector).mT).mT  # [L, M]

    field = received()
    slopes = [(received(index, STEP) - received(index, -STEP)) / (2 * STEP) for index in (0, 1, 2)]
    energy = field.abs().square().sum(-1, keepdim=True)
    outside = [slope - field * (field.conj() * slope).sum(-1, keepdim=True) / energy for slope in slopes]
    weighted = torch.stack([part * one.symbols[0] for part in outside]).flatten(1)  # [3, L·M]
    information = 2 / one.noise_power[0] * (weighted.conj() @ weighted.mT).real
    names = _unknown(one)
    rows = [AXES.index(name) for name in names]
    expected = torch.linalg.inv(information[rows][:, rows]).diagonal().sqrt()
    limit = crb(one)
    own = torch.stack([getattr(limit, name)[0, 0] for name in names])
    error = float((own / expected - 1).abs().max())
    return Verdict(error, "<=", 1e-4, "relative difference of the bound from one by finite differences")


def check_matching(scenes: SceneBatch) -> Verdict:
    """The truth in another order, with far-off estimates added, is still the truth."""
    slots = scenes.azimuth.shape[1]
    order = torch.arange(slots - 1, -1, -1)
    far = torch.full((len(scenes), 1), 1.5)
    fields = (scenes.azimuth, scenes.elevation, scenes.range, scenes.power)
    turned = [torch.cat([field[:, order], far], dim=1) for field in fields]
    turned[2][:, -1] = 1e3
    active = torch.cat([scenes.active[:, order], torch.ones_like(far, dtype=torch.bool)], dim=1)
    matching = match(Estimate(turned[0], turned[1], turned[2], turned[3], active), scenes)
    missed = int(scenes.active.sum()) - int(matching.hit.sum())
    wrong = int((matching.hit & (matching.slot != slots - 1 - torch.arange(slots))).sum())
    return Verdict(missed + wrong, "==", 0, "sources lost or mistaken when estimates change their order")


def _unknown(scenes: SceneBatch) -> list[str]:
    """The axes that are estimated."""
    return [name for name, unknown in zip(AXES, unknown_axes(scenes.config), strict=True) if unknown]


def _factor(scenes: SceneBatch) -> Tensor:
    vectors = steering_by_definition(scenes.config, scenes.azimuth, scenes.elevation, scenes.range)
    return (vectors * (scenes.power.double() * scenes.active).sqrt().unsqueeze(-1)).mT  # [B, N, K]
