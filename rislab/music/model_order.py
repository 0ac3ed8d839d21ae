"""Model order: how many sources a scene has, by information criteria.

model_order() counts by fits to the measurement, for any phase profiles: on the stochastic likelihood, where a source
has a place and a power ("bic"), or on what is left of the snapshots, where each has a waveform of its own besides
("mdl", "aic"), at a price that weak sources do not pay. order_by_eigenvalues() is the textbook's way, right only where
all snapshots share one phase profile.

References:
    [1] M. Wax, T. Kailath, Detection of signals by information theoretic criteria, IEEE Trans. ASSP 33(2), 1985.
    [2] P. Stoica, Y. Selén, Model-order selection: a review of information criterion rules, IEEE Signal Processing
        Magazine 21(4), 2004.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from rislab.data.covariance import frobenius_squared
from rislab.data.grid import chunks
from rislab.data.measurement import Measured, check_measured, unknown_axes
from rislab.data.scenes import SceneBatch
from rislab.errors import InputError, check_choice, check_number
from rislab.music.dictionary import SearchGrid
from rislab.music.likelihood import most_sources, polish, rss, single_antenna
from rislab.music.sparse import CHUNK, ProgressCallback, SourceSearch, sparse

CRITERIA = ("bic", "mdl", "aic")
EIGENVALUE_CRITERIA = ("mdl", "aic")
# A source is added only if it raises ln L on the grid by at least this share of its penalty. Off the grid it may gain
# more, but so do the sources before it when they move to their maximum, without any new source.
WORTH = 0.5
# Most steps that move all sources to their maximum, if every number is tried.
STEPS = 12


def model_order(
    batch: Measured, most: int, *, criterion: str = "bic", progress: ProgressCallback | None = None
) -> Tensor:
    """Number of sources that minimises information_criterion() over fits of 0, 1, … sources.

    By "bic" sources are added as long as the criterion falls. By "mdl" and "aic" all numbers are fitted.

    Args:
        batch: B scenes or measurements.
        most: largest number of sources tried, at least 1; fewer than antennas where symbols vary.
        criterion: "bic" (Bayesian, on the stochastic likelihood), "mdl" (minimum description length) or "aic" (Akaike).
        progress: called as progress(numbers tried, most).

    Returns:
        [B], int64, 0 … most.

    Raises:
        InputError: for an argument out of range.

    Example:
        >>> from rislab.data.scene_config import SceneConfig
        >>> from rislab.data.simulation import simulate
        >>> batch = simulate(SceneConfig.preset("classroom", sources=2, snr_db=20, separation=0.5), 3, seed=0)
        >>> model_order(batch, 3).tolist()
        [2, 2, 2]
    """
    check_measured(batch)
    check_choice("criterion", criterion, CRITERIA)
    if criterion != "bic" and single_antenna(batch):
        raise InputError(f"criterion is {criterion!r} with one antenna and varying symbols; allowed: 'bic'")
    check_number("most", most, 1, most_sources(batch), integer=True)
    fits = (values_by_order if criterion == "bic" else rss_by_order)(batch, most, progress=progress)
    scores = [information_criterion(batch, fit, sources, criterion=criterion) for sources, fit in enumerate(fits)]
    return torch.stack(scores).argmin(dim=0)


def values_by_order(
    batch: Measured, most: int, *, every: bool = False, progress: ProgressCallback | None = None
) -> list[Tensor]:
    """−ln L of fits of 0, 1, … most sources under the stochastic likelihood, the next one added to the last.

    Args:
        every: try every number, also after "bic" has stopped falling; the others are those of model_order().

    Returns:
        most + 1 times [B], real; infinite where a fit was not tried.
    """
    price = float(information_criterion(batch, torch.zeros(1), 1))
    search = SearchGrid.of(batch)
    parts = []
    for chunk in chunks(len(batch), CHUNK):
        pursuit = SourceSearch(batch[chunk], most, search)
        rows = torch.arange(len(pursuit.value), device=batch.snapshots.device)
        values = pursuit.value.new_full((most + 1, len(rows)), torch.inf)
        values[0] = pursuit.value
        for slot in range(most):
            pursuit.add(rows, slot, least=-math.inf if every else WORTH * price)
            pursuit.restart(rows)
            if every:
                pursuit.converge(rows, slot + 1, STEPS)
            else:
                rows = rows[values[slot, rows] - pursuit.value[rows] > price]
            values[slot + 1, rows] = pursuit.value[rows]
            if progress is not None and chunk.stop == len(batch):
                progress(slot + 1, most)
        parts.append(values)
    return list(torch.cat(parts, dim=1))


def rss_by_order(batch: Measured, most: int, *, progress: ProgressCallback | None = None) -> Iterator[Tensor]:
    """RSS [B] of sparse and polished fits of 0, 1, … most sources, as model_order() asks for them."""
    yield frobenius_squared(batch.snapshots)
    for sources in range(1, most + 1):
        energy = rss(batch, polish(batch, sparse(batch, sources)))
        if progress is not None:
            progress(sources, most)
        yield energy


def information_criterion(batch: Measured, fit: Tensor, sources: int, *, criterion: str = "bic") -> Tensor:
    """Misfit + penalty of k sources: −ln L for "bic", L·M·ln(RSS/LM) for the others.

    With LM complex numbers, and a unknown axes of a place (three, if none is known), the penalty is ½ u ln(2LM) for
    "bic" and "mdl" and u for "aic", where u counts the unknowns: (a + 1) k for "bic", (a + 2L) k else, or (a + 2) k if
    the symbols are constant.

    Args:
        batch: scenes, for their sizes L and M and the axes.
        fit: [B], real; −ln L or the energy > 0 that k sources leave of the snapshots.
        sources: k, ≥ 0.
        criterion: "bic", "mdl" or "aic".

    Returns:
        [B], real; the smaller the better.
    """
    check_choice("criterion", criterion, CRITERIA)
    snapshots, antennas = batch.config.snapshots, batch.config.antennas
    size = snapshots * antennas
    axes = sum(unknown_axes(batch.config))
    waveforms = 1 if batch.config.symbols == "constant" else snapshots
    unknowns = (axes + 1 if criterion == "bic" else axes + 2 * waveforms) * sources
    penalty = unknowns if criterion == "aic" else unknowns * math.log(2 * size) / 2
    return (fit if criterion == "bic" else size * torch.log(fit / size)) + penalty


def order_criteria(scene: Measured, most: int = 5) -> dict[str, list[float]]:
    """All criteria of 0 … most sources, each less its smallest value.

    Args:
        scene: one scene.
        most: largest number tried, or as many as the scene can tell apart; each takes up to a fifth of a second.

    Returns:
        most + 1 values ≥ 0 by criterion; 0 marks the number that the criterion chooses. With one antenna and varying
        symbols "bic" alone.
    """
    most = min(most, most_sources(scene))
    fits = {"bic": values_by_order(scene, most, every=True)}
    if not single_antenna(scene):
        fits["mdl"] = fits["aic"] = list(rss_by_order(scene, most))
    criteria = {}
    for criterion, numbered in fits.items():
        values = [float(information_criterion(scene, fit, k, criterion=criterion)) for k, fit in enumerate(numbered)]
        criteria[criterion] = [value - min(values) for value in values]
    return criteria


def order_by_eigenvalues(batch: SceneBatch, *, criterion: str = "mdl") -> Tensor:
    """Number of sources from the eigenvalues of the data covariance, right only if all snapshots share a phase profile.

    With λ_1 ≥ … ≥ λ_M those of the M×M sample covariance, minimises −L Σ_{i>k} ln λ_i + L (M−k) ln(mean_{i>k} λ_i) +
    penalty [1], ½ k(2M−k) ln L for "mdl" and k(2M−k) for "aic", in logarithms throughout. If each snapshot has a new
    phase profile, the signal part has full rank, and this number means nothing.

    Args:
        batch: B scenes with L ≥ M snapshots.
        criterion: "mdl" or "aic".

    Returns:
        [B], int64, 0 … M − 1.

    Raises:
        InputError: for an unknown criterion, or fewer snapshots than antennas, where the smallest eigenvalues are 0.
    """
    check_choice("criterion", criterion, EIGENVALUE_CRITERIA)
    snapshots, antennas = batch.snapshots.shape[1:]
    if snapshots < antennas:
        raise InputError(f"snapshots is {snapshots}; allowed: at least {antennas}, the number of antennas")
    data = batch.snapshots.to(torch.complex128)  # [B, L, M]
    values = torch.linalg.eigvalsh(data.mT @ data.conj() / snapshots).flip(-1)  # [B, M], falling
    values = values.clamp(min=torch.finfo(values.dtype).tiny)
    noise = torch.arange(antennas, 0, -1, device=values.device)  # M − k for k = 0 … M−1
    logarithms = values.log().flip(-1).cumsum(-1).flip(-1)  # Σ_{i>k} ln λ_i
    means = values.flip(-1).cumsum(-1).flip(-1) / noise
    k = antennas - noise
    free = k * (2 * antennas - k)
    penalty = free * math.log(snapshots) / 2 if criterion == "mdl" else free
    return (snapshots * (noise * means.log() - logarithms) + penalty).argmin(dim=-1)
