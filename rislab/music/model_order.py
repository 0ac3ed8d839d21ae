"""Model order: how many sources a scene has, by the information criteria MDL and AIC.

model_order() counts by fits to the measurement, for any phase profiles. order_by_eigenvalues() is the textbook's way,
right only where all snapshots share one phase profile.

References:
    [1] M. Wax, T. Kailath, Detection of signals by information theoretic criteria, IEEE Trans. ASSP 33(2), 1985.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from rislab.data.covariance import frobenius_squared
from rislab.data.measurement import Measured
from rislab.data.scenes import SceneBatch
from rislab.errors import InputError, check_choice, check_number
from rislab.music.likelihood import most_sources, polish, rss
from rislab.music.sparse import ProgressCallback, sparse

CRITERIA = ("mdl", "aic")


def model_order(
    batch: Measured, most: int, *, criterion: str = "mdl", progress: ProgressCallback | None = None
) -> Tensor:
    """Number of sources that minimises information_criterion() over sparse and polished fits.

    Args:
        batch: B scenes or measurements.
        most: largest number of sources tried, at least 1; fewer than antennas where symbols vary.
        criterion: "mdl" (minimum description length) or "aic" (Akaike).
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
    if batch.config.antennas == 1 and batch.config.symbols == "varying":
        raise InputError("antennas is 1 with varying symbols; allowed: at least 2, or symbols that are constant")
    check_number("most", most, 1, most_sources(batch), integer=True)
    energies = enumerate(rss_by_order(batch, most, progress=progress))
    scores = [information_criterion(batch, energy, sources, criterion=criterion) for sources, energy in energies]
    return torch.stack(scores).argmin(dim=0)


def rss_by_order(batch: Measured, most: int, *, progress: ProgressCallback | None = None) -> Iterator[Tensor]:
    """Residual energy of sparse and polished fits of 0, 1, … most sources.

    Args:
        batch: B scenes.
        most: see model_order().
        progress: see model_order().

    Yields:
        RSS of each number of sources, [B], real.
    """
    yield frobenius_squared(batch.snapshots)
    for sources in range(1, most + 1):
        energy = rss(batch, polish(batch, sparse(batch, sources)))
        if progress is not None:
            progress(sources, most)
        yield energy


def information_criterion(batch: Measured, rss: Tensor, sources: int, *, criterion: str = "mdl") -> Tensor:
    """Criterion L·M·ln(RSS/LM) + penalty of k sources.

    With u = 3k + 2Lk unknowns (3k + 2k if the symbols are constant) the penalty is ½ u ln(2LM) for "mdl", u for "aic".

    Args:
        batch: scenes, for their sizes L and M.
        rss: [B], real, > 0; energy that k sources leave of the snapshots.
        sources: k, ≥ 0.
        criterion: "mdl" or "aic".

    Returns:
        [B], real; the smaller the better.

    Raises:
        InputError: for an unknown criterion.
    """
    check_choice("criterion", criterion, CRITERIA)
    snapshots, antennas = batch.config.snapshots, batch.config.antennas
    size = snapshots * antennas
    waveforms = 1 if batch.config.symbols == "constant" else snapshots
    unknowns = (3 + 2 * waveforms) * sources
    penalty = unknowns * math.log(2 * size) / 2 if criterion == "mdl" else unknowns
    return size * torch.log(rss / size) + penalty


def order_criteria(scene: SceneBatch, most: int = 5) -> dict[str, list[float]]:
    """Both criteria of 0 … most sources by sparse and polished fits, each less its smallest value.

    Args:
        scene: one scene.
        most: see model_order(); each number takes up to a fifth of a second.

    Returns:
        most + 1 values ≥ 0 by criterion; 0 marks the number that the criterion chooses.
    """
    energies = list(rss_by_order(scene, most))
    criteria = {}
    for criterion in CRITERIA:
        values = [float(information_criterion(scene, rss, k, criterion=criterion)) for k, rss in enumerate(energies)]
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
    check_choice("criterion", criterion, CRITERIA)
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
