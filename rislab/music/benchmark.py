"""Estimators compared on one set of scenes: recall, error and time of each, beside what the bound allows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from rislab.data.covariance import (
    constant_baseline,
    effective_rank,
    identity_baseline,
    nmse,
    sample_covariance,
    sample_factor,
)
from rislab.data.grid import Grid, chunks
from rislab.data.scene_config import SceneConfig
from rislab.data.scenes import SceneBatch
from rislab.data.simulation import simulate
from rislab.errors import InputError, check_number
from rislab.music.crb import Bound, crb
from rislab.music.dictionary import dictionary
from rislab.music.estimate import Estimate, Predictor
from rislab.music.estimator_names import DEFAULT_ESTIMATORS, ESTIMATOR_NAMES
from rislab.music.likelihood import bounds_box, degrees_of_freedom, most_sources, polish, rss, single_antenna
from rislab.music.metrics import crb_recall, match, tolerances_of, truncated_ratio
from rislab.music.model_order import model_order
from rislab.music.posterior import sample_posterior
from rislab.music.sparse import sparse
from rislab.music.spectra import bartlett_spectrum, music_spectrum, mvdr_spectrum

# Scenes that an estimator is given at once.
CHUNK = 64
# Below this SNR many errors are too large for the bound to hold; the best estimator stands beside it.
THRESHOLD_DB, REFERENCE = 10.0, "sparse + Bayes"
# Of sample_posterior(): a tenth of the time, around the fit alone.
QUICK: dict[str, Any] = {"candidates": 96, "chains": 4, "sweeps": 2, "flattened": False}

Estimator = Callable[[SceneBatch, int, Grid], Estimate]

# Scenes that no network was trained on, and the fields that make them so.
SHIFTS: dict[str, dict[str, Any]] = {
    "as in training": {},
    "coherent symbols": {"symbols": "coherent"},
    "constant symbols": {"symbols": "constant"},
    "line of sight, κ = 10": {"rician_factor": 10.0},
    "3-bit codes": {"phase_bits": 3},
    "2 % dead elements": {"dead_elements": 0.02},
    "5° phase error": {"phase_error": math.radians(5)},
    "free-space powers": {"power_law": "free-space"},
}


@dataclass(frozen=True)
class Score:
    """An estimator on the scenes of one SNR and number of sources."""

    estimator: str  # its name
    snr_db: float  # of the scenes, dB
    sources: int  # K of the scenes
    scenes: int  # their number
    recall: float  # share of the true sources that were found
    precision: float  # share of the estimates that are a source
    allowed: float  # recall that the bound allows, see crb_recall()
    median: dict[str, float]  # median absolute error of the hits; angles in degrees, range and position in metres
    # RMS over the hits of error / √CRB, each by the bound of its own source and scene: the stochastic one where symbols
    # vary
    ratio: dict[str, float]
    # ratio that normal errors of the size of the bound would have in range, since only hits count; NaN where the range
    # is known or cannot be known
    truncation: float
    residual: float  # mean of what the estimate leaves of the snapshots over what noise would; NaN with one antenna
    counted: float  # share of the scenes of the cell in which model_order() has K right
    milliseconds: float  # time of the estimator alone for one scene
    # recall of REFERENCE on the same scenes where the bound says little of recall: where the SNR is below THRESHOLD_DB,
    # or one antenna receives waveforms of its own in each snapshot; else NaN
    bayes: float = math.nan


def _random_places(batch: SceneBatch, sources: int) -> Estimate:
    """Places drawn uniformly from the field of view, in the angles and in 1/r; the same for the same scenes."""
    generator = torch.Generator().manual_seed(0)
    shares = torch.rand(len(batch), sources, 3, generator=generator).to(batch.azimuth)
    low, high = bounds_box(batch)
    azimuth, elevation, inverse = (low + (high - low) * shares).unbind(-1)
    power = torch.full_like(azimuth, batch.config.elements / sources)
    return Estimate(azimuth, elevation, 1 / inverse, power, torch.ones_like(power, dtype=torch.bool))


# Where an estimator begins, and how it gets places from a covariance; see estimator_names.
FACTORS: dict[str, Callable[[SceneBatch], Tensor]] = {
    "truth": lambda batch: batch.factor(),
    "sample": sample_covariance,
}
SPECTRA = {"beam": bartlett_spectrum, "MVDR": mvdr_spectrum, "MUSIC": music_spectrum}
PLACES: dict[str, Callable[[SceneBatch, int], Estimate]] = {"random": _random_places, "sparse": sparse}
Factors = Mapping[str, Callable[[SceneBatch], Tensor]]


def make_estimator(
    name: str, factors: Factors = FACTORS, tolerances: tuple[float, float, float] | None = None
) -> Estimator:
    """The estimator that a name describes, step by step: "sample + MUSIC + polish".

    Args:
        name: steps, with " + " between them.
        factors: covariances to begin with, by name: functions from a batch to factors, [B,N,C].
        tolerances: of the hits that "Bayes" and "quick Bayes" expect; those of the scenes if None.
    """
    first, *steps = name.split(" + ")
    refined = steps[1:] if first in factors else steps

    def estimate(batch: SceneBatch, sources: int, grid: Grid) -> Estimate:
        if first in factors:
            places = SPECTRA[steps[0]](factors[first](batch), sources, grid).peaks
        else:
            places = PLACES[first](batch, sources)
        for step in refined:
            if step == "polish":
                places = polish(batch, places)
            else:
                posterior = sample_posterior(batch, places, **(QUICK if step == "quick Bayes" else {}))
                places = posterior.expected_hits(tolerances or tolerances_of(batch.config))
        return places

    return estimate


ESTIMATORS = {name: make_estimator(name) for name in ESTIMATOR_NAMES}


def learned_estimators(model: Predictor) -> dict[str, Estimator]:
    """Estimators on the covariance that a network predicts, by name."""
    factors = {"learned": lambda batch: model.predict(batch).to(batch.snapshots)}
    return {name: make_estimator(name, factors) for name in ("learned + MUSIC", "learned + MUSIC + polish")}


COVARIANCES = ("zero", "identity", "constant", "sample", "sparse", "learned")


@dataclass(frozen=True)
class CovarianceError:
    """NMSE of covariances on the scenes of one SNR and number of sources."""

    snr_db: float  # of the scenes, dB
    sources: int  # K of the scenes
    scenes: int  # their number
    realised_snr_db: float  # mean over the scenes, dB
    nmse: dict[str, float]  # mean by name of the covariance
    median: dict[str, float]  # median of the same


def covariance_errors(
    model: Predictor,
    config: SceneConfig,
    *,
    snr_db: Sequence[float],
    sources: Sequence[int],
    scenes: int,
    seed: int = 0,
) -> Iterator[CovarianceError]:
    """NMSE of the covariance that a network predicts, beside baselines.

    The baselines are the zero matrix, the identity, the best constant (fitted on the same scenes), the sample
    covariance, and the sparse fit with its own powers, which gets the number of sources; the network does not. Cells
    and scenes are those of compare(); each yields one CovarianceError with the names COVARIANCES.
    """
    for snr, count, batch in _cells(config, snr_db, sources, scenes, seed):
        truth, one = batch.factor(), torch.ones(len(batch))
        errors = (
            one,
            identity_baseline(batch) * one,
            constant_baseline(batch) * one,
            nmse(sample_factor(batch), truth),
            nmse(sparse(batch, count).factor(batch.config.array()), truth),
            nmse(predicted_factor(model, batch).to(truth), truth),
        )
        named = dict(zip(COVARIANCES, errors, strict=True))
        yield CovarianceError(
            snr,
            count,
            scenes,
            float(batch.realised_snr_db.mean()),
            {name: float(value.mean()) for name, value in named.items()},
            {name: float(value.median()) for name, value in named.items()},
        )


@dataclass(frozen=True)
class OrderAccuracy:
    """How often an estimated number of sources is right, on the scenes of one SNR and number of sources."""

    snr_db: float  # of the scenes, dB
    sources: int  # K of the scenes
    scenes: int  # their number
    learned: float  # share by the effective rank of the learned covariance, rounded
    criterion: float  # share by model_order()


def order_accuracy(
    model: Predictor,
    config: SceneConfig,
    *,
    snr_db: Sequence[float],
    sources: Sequence[int],
    scenes: int,
    seed: int = 0,
) -> Iterator[OrderAccuracy]:
    """How often the learned covariance and model_order() have the number of sources right, by cell of compare()."""
    for snr, count, batch in _cells(config, snr_db, sources, scenes, seed):
        orders = (effective_rank(predicted_factor(model, batch)).round(), model_order(batch, config.sources[1]))
        yield OrderAccuracy(snr, count, scenes, *(float((order == count).float().mean()) for order in orders))


def _cells(
    config: SceneConfig, snr_db: Sequence[float], sources: Sequence[int], scenes: int, seed: int, device: str = "cpu"
) -> Iterator[tuple[float, int, SceneBatch]]:
    """The cells of a table, each with its scenes; bad configurations are refused before the first."""
    cells = [(snr, count) for snr in snr_db for count in sources]
    configs = [config.changed(snr_db=snr, sources=count) for snr, count in cells]
    for (snr, count), cell in zip(cells, configs, strict=True):
        yield snr, count, simulate(cell, scenes, seed=seed, split="test", device=device)


def predicted_factor(model: Predictor, batch: SceneBatch) -> Tensor:
    """Factor [B,N,C] of the predicted covariances, computed in chunks."""
    return torch.cat([model.predict(batch[rows]) for rows in chunks(len(batch), CHUNK)])


def search_grid(config: SceneConfig) -> Grid:
    """Grid over the field of view with about five points a beam width, 44 × 26 × 9 for the full preset."""
    return dictionary(config, density=2.0)


def compare(
    config: SceneConfig,
    *,
    snr_db: Sequence[float],
    sources: Sequence[int],
    scenes: int,
    seed: int = 0,
    estimators: Mapping[str, Estimator] | None = None,
    tolerances: tuple[float, float, float] | None = None,
    device: str = "cpu",
) -> Iterator[Score]:
    """Run estimators over a table of SNR × number of sources, all on the same scenes of the split "test".

    Args:
        config: of the scenes; its SNR and number of sources are replaced cell by cell.
        snr_db: of the cells, dB, at least one.
        sources: K of the cells, at least one.
        scenes: in each cell, ≥ 1.
        seed: of the scenes.
        estimators: by name, DEFAULT_ESTIMATORS if None; they get the number of sources.
        tolerances: within which an estimate is a hit; see match().
        device: where they run.

    Yields:
        Score, as soon as it is measured.

    Raises:
        InputError: for values out of range, or no cell.
    """
    check_number("scenes", scenes, 1, 10**7, integer=True)
    for name, values in (("snr_db", snr_db), ("sources", sources)):
        if not values:
            raise InputError(f"{name} is empty; allowed: at least one value")
    if estimators is None:
        estimators = {name: make_estimator(name, tolerances=tolerances) for name in DEFAULT_ESTIMATORS}
    reference = make_estimator(REFERENCE, tolerances=tolerances)
    grid = search_grid(config)
    for snr, count, batch in _cells(config, snr_db, sources, scenes, seed, device):
        most = min(max(sources) + 1, most_sources(batch))
        counted = float((model_order(batch, most) == count).float().mean())
        cell = _Cell(batch, snr, count, counted, tolerances or tolerances_of(config))
        # With one antenna and varying symbols a higher SNR does not help: |y_l|² has an exponential distribution.
        uncertain = snr < THRESHOLD_DB or single_antenna(batch)
        best = _score(REFERENCE, reference, cell, grid) if uncertain else None
        for name, estimator in estimators.items():
            one = best if best and name == REFERENCE else _score(name, estimator, cell, grid)
            yield replace(one, bayes=best.recall if best else math.nan)


@dataclass(frozen=True, eq=False)
class _Cell:
    """The scenes of one SNR and number of sources, and the share in which model_order() is right."""

    batch: SceneBatch
    snr_db: float
    sources: int
    counted: float
    tolerances: tuple[float, float, float]

    @cached_property
    def limit(self) -> Bound:
        """The bound that errors are compared with."""
        return crb(self.batch, kind="stochastic" if self.batch.config.symbols == "varying" else "deterministic")

    @cached_property
    def allowed(self) -> float:
        """Recall that the bound allows."""
        limit = self.limit if single_antenna(self.batch) else crb(self.batch)
        return crb_recall(self.batch, limit, tolerances=self.tolerances)


def _score(name: str, estimator: Estimator, cell: _Cell, grid: Grid) -> Score:
    """Measure one estimator on the scenes of a cell, in chunks of CHUNK scenes."""
    batch, tolerances = cell.batch, cell.tolerances
    # Steering vectors of the grid are made at the first use, and belong to the grid, not to a scene.
    estimator(batch[:1], cell.sources, grid)
    began = time.perf_counter()
    parts = [estimator(batch[rows], cell.sources, grid) for rows in chunks(len(batch), CHUNK)]
    if batch.snapshots.is_cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    estimate = Estimate.cat(parts)
    matching = match(estimate, batch, tolerances=tolerances)
    median = matching.median()
    return Score(
        estimator=name,
        snr_db=cell.snr_db,
        sources=cell.sources,
        scenes=len(batch),
        recall=matching.recall,
        precision=matching.precision,
        allowed=cell.allowed,
        median={
            key: math.degrees(value) if key in ("azimuth", "elevation") else value for key, value in median.items()
        },
        ratio=matching.ratio(cell.limit),
        truncation=truncated_ratio(cell.limit.range[batch.active], tolerances[2]),
        residual=_over_noise(batch, estimate),
        counted=cell.counted,
        milliseconds=1e3 * seconds / len(batch),
    )


def _over_noise(batch: SceneBatch, estimate: Estimate) -> float:
    """Mean of what an estimate leaves of the snapshots over what noise would leave."""
    if single_antenna(batch):
        return math.nan
    return float((rss(batch, estimate) / (batch.noise_power * degrees_of_freedom(batch, estimate.active))).mean())
