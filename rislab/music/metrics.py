"""How good an estimate of source positions is: matching, recall, precision, errors, and the ratio to the bound."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rislab.data.geometry import position
from rislab.data.scene_config import SceneConfig
from rislab.data.scenes import SceneBatch
from rislab.errors import InputError
from rislab.music.crb import Bound
from rislab.music.estimate import Estimate, check_estimate

# A source counts as found within these distances of azimuth, elevation (radians) and range (metres).
TOLERANCES = (math.radians(5.0), math.radians(5.0), 1.0)
# A pair outside the tolerances costs this much; inside it costs less than 3. So more hits always win over closer ones,
# and where a far-off prediction lies does not matter.
MISS = 1e3
MOST_ASSIGNMENTS = 50_000
QUANTITIES = ("azimuth", "elevation", "range", "position")


def tolerances_of(config: SceneConfig) -> tuple[float, float, float]:
    """TOLERANCES; that of the range is infinite where waves are planar and no range can be known."""
    return (*TOLERANCES[:2], math.inf) if config.wavefront == "planar" else TOLERANCES


@dataclass(frozen=True, eq=False)
class Matching:
    """Estimates paired with true sources, in the order of the truth; errors are NaN without a hit.

    Args:
        slot: [B,K], int64; which estimate belongs to a source, −1 for none.
        hit: [B,K], bool; whether it lies within the tolerances.
        azimuth: [B,K], float64, radians; estimate less truth.
        elevation: [B,K], float64, radians; estimate less truth.
        range: [B,K], float64, metres; estimate less truth.
        position: [B,K], float64, metres; distance of the estimate from the source.
        active: [B,K], bool; the true sources.
        predicted: [B], int64; number of estimates.
    """

    slot: Tensor
    hit: Tensor
    azimuth: Tensor
    elevation: Tensor
    range: Tensor
    position: Tensor
    active: Tensor
    predicted: Tensor

    @property
    def recall(self) -> float:
        """Share of the true sources that were found."""
        return float(self.hit.sum().double() / self.active.sum())

    @property
    def precision(self) -> float:
        """Share of the estimates that are a source; NaN if there are no estimates."""
        return float(self.hit.sum().double() / self.predicted.sum())

    def median(self) -> dict[str, float]:
        """Median absolute error of the hits by quantity (see QUANTITIES), radians and metres; NaN without hits."""
        errors = {name: getattr(self, name)[self.hit] for name in QUANTITIES}
        return {name: float(error.abs().median()) if error.numel() else math.nan for name, error in errors.items()}

    def ratio(self, bound: Bound) -> dict[str, float]:
        """RMS over hits of error / √CRB by quantity, each error by the bound of its own source.

        NaN without hits, and of quantities that are known or cannot be known.
        """
        ratios = {}
        for name in QUANTITIES:
            deviation = getattr(bound, name)
            # What is known has no error, and what cannot be known has none that means anything.
            counted = self.hit & (deviation > 0) & torch.isfinite(deviation)
            error = getattr(self, name)[counted]
            deviation = deviation[counted].to(error)
            ratios[name] = float((error / deviation).square().mean().sqrt())
        return ratios


def match(estimate: Estimate, batch: SceneBatch, *, tolerances: tuple[float, float, float] = TOLERANCES) -> Matching:
    """Pair estimates with true sources: as many hits as possible, and among those the smallest total error.

    The result depends neither on the order of sources or estimates nor on further estimates far from all sources.

    Args:
        estimate: [B,K'].
        batch: B scenes with the truth.
        tolerances: azimuth and elevation in radians, range in metres, each > 0; infinity leaves a quantity out, whose
            errors are NaN.

    Returns:
        Matching [B,K].

    Raises:
        InputError: if the numbers of scenes differ, or an active estimate is not finite.

    Example:
        >>> from rislab.data.simulation import simulate
        >>> batch = simulate(SceneConfig.preset("classroom", sources=2), 5, seed=0)
        >>> truth = Estimate(batch.azimuth, batch.elevation, batch.range, batch.power, batch.active)
        >>> matching = match(truth, batch)
        >>> matching.recall, matching.precision
        (1.0, 1.0)
    """
    if not isinstance(batch, SceneBatch):
        raise InputError(f"batch is a {type(batch).__name__}; allowed: a SceneBatch, which has a truth")
    check_estimate(estimate, len(batch))
    estimated = torch.stack([estimate.azimuth, estimate.elevation, estimate.range], dim=-1).double()  # [B, K', 3]
    truth = torch.stack([batch.azimuth, batch.elevation, batch.range], dim=-1).double()  # [B, K, 3]
    errors = estimated.unsqueeze(1) - truth.unsqueeze(2)  # [B, K, K', 3]
    limits = torch.tensor(tolerances, dtype=torch.float64, device=errors.device)
    relative = errors / limits
    near = (relative.abs() <= 1).all(-1) & batch.active.unsqueeze(2) & estimate.active.unsqueeze(1)
    cost = torch.where(near, relative.square().sum(-1), MISS)  # [B, K, K']
    slot = assign(cost)
    hit = near.gather(2, slot.unsqueeze(-1)).squeeze(-1)
    own = errors.gather(2, slot[..., None, None].expand(-1, -1, 1, 3)).squeeze(2)  # [B, K, 3]
    places = position(*estimated.gather(1, slot.unsqueeze(-1).expand(-1, -1, 3)).unbind(-1))
    distance = (places - position(*truth.unbind(-1))).norm(dim=-1)
    own = torch.where(hit.unsqueeze(-1) & torch.isfinite(limits), own, torch.nan)
    distance = torch.where(hit, distance, torch.nan)
    return Matching(
        slot=torch.where(hit, slot, -1),
        hit=hit,
        azimuth=own[..., 0],
        elevation=own[..., 1],
        range=own[..., 2],
        position=distance,
        active=batch.active,
        predicted=estimate.active.sum(-1),
    )


def assign(cost: Tensor) -> Tensor:
    """The cheapest assignment of different columns to rows, over all of them.

    All K'!/(K'−K)! assignments are tried, 120 for five sources; where there are more than MOST_ASSIGNMENTS, shortest
    augmenting paths find the cheapest in K² K' steps.

    Args:
        cost: [B,K,K'], real, finite; with fewer columns than rows the rows in excess share the last column.

    Returns:
        Column of each row, [B,K], int64.

    Example:
        >>> assign(torch.tensor([[[1.0, 2.0], [1.0, 9.0]]])).tolist()
        [[1, 0]]
    """
    rows, columns = cost.shape[1:]
    if columns < rows:
        # Dummy columns at the price of a miss, read back as the last real one: they are never a hit.
        padded = torch.nn.functional.pad(cost, (0, rows - columns), value=MISS)
        return assign(padded).clamp(max=columns - 1)
    if math.perm(columns, rows) > MOST_ASSIGNMENTS:
        return torch.stack([_augmented(scene) for scene in cost.double().cpu()]).to(cost.device)
    every = torch.tensor(list(itertools.permutations(range(columns), rows)), device=cost.device)  # [P, K]
    total = cost[:, torch.arange(rows, device=cost.device), every].sum(-1)  # [B, P]
    return every[total.argmin(dim=-1)]


def _augmented(cost: Tensor) -> Tensor:
    """assign() of one matrix [K,K'], K ≤ K': rows are added one by one, each along a shortest augmenting path [1].

    References:
        [1] R. Jonker, A. Volgenant, A shortest augmenting path algorithm for dense and sparse linear assignment
            problems, Computing 38, 1987.
    """
    table = cost.numpy()
    rows, columns = table.shape
    row_price, column_price = np.zeros(rows), np.zeros(columns)
    owner = np.full(columns, -1)  # the row that has a column
    for first in range(rows):
        distance, before = np.full(columns, np.inf), np.full(columns, -1)
        reached = np.zeros(columns, dtype=bool)
        row, column, length = first, -1, 0.0
        while True:
            path = length + table[row] - row_price[row] - column_price
            shorter = ~reached & (path < distance)
            distance[shorter], before[shorter] = path[shorter], column
            column = int(np.where(reached, np.inf, distance).argmin())
            length = distance[column]
            if owner[column] < 0:
                break
            reached[column] = True
            row = owner[column]
        row_price[first] += length
        row_price[owner[reached]] += length - distance[reached]
        column_price[reached] -= length - distance[reached]
        while column >= 0:
            previous = before[column]
            owner[column] = owner[previous] if previous >= 0 else first
            column = previous
    taken = owner >= 0
    answer = np.empty(rows, dtype=np.int64)
    answer[owner[taken]] = taken.nonzero()[0]
    return torch.from_numpy(answer)


def crb_recall(batch: SceneBatch, bound: Bound, *, tolerances: tuple[float, float, float] = TOLERANCES) -> float:
    """Recall of an estimator whose errors are normal, unbiased and of the size of the bound of the scenes.

    The mean over sources of Π erf(tolerance / √(2·CRB)), the product over azimuth, elevation and range.
    """
    chance = torch.ones_like(bound.azimuth)
    for tolerance, deviation in zip(tolerances, (bound.azimuth, bound.elevation, bound.range), strict=True):
        if tolerance < math.inf:
            chance = chance * torch.erf(tolerance / (math.sqrt(2) * deviation))
    return float(chance[batch.active].mean())


def truncated_ratio(deviation: Tensor, tolerance: float) -> float:
    """RMS of error / deviation over normal errors of which only those within a tolerance count.

    Args:
        deviation: [S], real; standard deviations. Those that are 0 or infinite do not count.
        tolerance: > 0.

    Returns:
        1 where all errors are within the tolerance, less where it cuts them; NaN without a deviation.

    Example:
        >>> round(truncated_ratio(torch.tensor([1.0]), 1.0), 3), round(truncated_ratio(torch.tensor([0.1]), 1.0), 3)
        (0.54, 1.0)
    """
    edge = tolerance / deviation[(deviation > 0) & torch.isfinite(deviation)].double()
    inside = torch.erf(edge / math.sqrt(2))
    density = torch.exp(-edge.square() / 2) / math.sqrt(2 * math.pi)
    second = inside - torch.where(torch.isfinite(edge), 2 * edge * density, 0.0)  # ∫ x² over |x| < edge
    return float((second.sum() / inside.sum()).sqrt())
