"""How good an estimate of source positions is: matching, recall, precision, errors, and the ratio to the bound."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rislab.data.geometry import position
from rislab.data.scenes import SceneBatch, SceneConfig
from rislab.errors import InputError
from rislab.music.crb import Bound
from rislab.music.estimate import Estimate

# A source counts as found within these distances of azimuth, elevation (radians) and range (metres).
TOLERANCES = (math.radians(5.0), math.radians(5.0), 1.0)
# A pair outside the tolerances costs this much; inside it costs less than 3. So more sources found always win over
# closer ones, and where a far-off prediction lies does not matter.
MISS = 1e3
MOST_ASSIGNMENTS = 50_000


def tolerances_of(config: SceneConfig) -> tuple[float, float, float]:
    """TOLERANCES, without one for the range where waves are planar and no range can be known."""
    return (*TOLERANCES[:2], math.inf) if config.wavefront == "planar" else TOLERANCES


@dataclass(frozen=True, eq=False)
class Matching:
    """Estimates paired with true sources, each tensor [B,K] in the order of the truth.

    Args:
        slot: which estimate belongs to a source; −1 for none.
        hit: whether it lies within the tolerances.
        azimuth, elevation, range: signed errors, radians and metres; position: distance, metres; NaN without a hit.
        active: true sources. predicted: number of estimates of each scene, [B].
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
        return float(self.hit.sum() / self.active.sum())

    @property
    def precision(self) -> float:
        """Share of the estimates that are a source; NaN if there are no estimates."""
        return float(self.hit.sum() / self.predicted.sum())

    @property
    def f1(self) -> float:
        """Harmonic mean of recall and precision, 2·hits / (sources + estimates)."""
        return float(2 * self.hit.sum() / (self.active.sum() + self.predicted.sum()))

    def rmse(self) -> dict[str, float]:
        """Root mean square error of the hits by quantity; NaN without hits."""
        return {name: float(error.square().mean().sqrt()) for name, error in self._errors().items()}

    def median(self) -> dict[str, float]:
        """Median absolute error of the hits by quantity; NaN without hits."""
        errors = self._errors()
        return {name: float(error.abs().median()) if error.numel() else math.nan for name, error in errors.items()}

    def ratio(self, bound: Bound) -> dict[str, float]:
        """RMS over hits of error / √CRB, each error by the bound of its own source and scene."""
        limits = {
            "azimuth": bound.azimuth,
            "elevation": bound.elevation,
            "range": bound.range,
            "position": bound.position,
        }
        return {
            name: float((error / limits[name][self.hit].to(error)).square().mean().sqrt())
            for name, error in self._errors().items()
        }

    def _errors(self) -> dict[str, Tensor]:
        named = {"azimuth": self.azimuth, "elevation": self.elevation, "range": self.range, "position": self.position}
        return {name: error[self.hit] for name, error in named.items()}


def match(estimate: Estimate, batch: SceneBatch, *, tolerances: tuple[float, float, float] = TOLERANCES) -> Matching:
    """Pair estimates with true sources: as many hits as possible, and among those the smallest total error.

    The result depends neither on the order of sources or estimates nor on further estimates far from all sources.

    Args:
        estimate: see Estimate. batch: the truth.
        tolerances: azimuth and elevation in radians, range in metres, each > 0; infinity leaves a quantity out.

    Raises:
        InputError: if the numbers of scenes differ, or an active estimate is not finite.
    """
    if len(estimate.azimuth) != len(batch):
        raise InputError(f"estimate has {len(estimate.azimuth)} scenes, and the batch {len(batch)}; allowed: as many")
    estimate.check_finite()
    found = torch.stack([estimate.azimuth, estimate.elevation, estimate.range], dim=-1).double()  # [B, K', 3]
    truth = torch.stack([batch.azimuth, batch.elevation, batch.range], dim=-1).double()  # [B, K, 3]
    errors = found.unsqueeze(1) - truth.unsqueeze(2)  # [B, K, K', 3]
    relative = errors / torch.tensor(tolerances, dtype=torch.float64)
    near = (relative.abs() <= 1).all(-1) & batch.active.unsqueeze(2) & estimate.active.unsqueeze(1)
    cost = torch.where(near, relative.square().sum(-1), MISS)  # [B, K, K']
    slot = assign(cost)
    hit = near.gather(2, slot.unsqueeze(-1)).squeeze(-1)
    own = errors.gather(2, slot[..., None, None].expand(-1, -1, 1, 3)).squeeze(2)  # [B, K, 3]
    places = position(*found.gather(1, slot.unsqueeze(-1).expand(-1, -1, 3)).unbind(-1))
    distance = (places - position(*truth.unbind(-1))).norm(dim=-1)
    own, distance = (
        torch.where(hit if part.ndim == 2 else hit.unsqueeze(-1), part, torch.nan) for part in (own, distance)
    )
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

    Args:
        cost: [B, K, K'], finite; with fewer columns than rows the rows in excess share the last column.

    Returns:
        Column of each row, [B, K]. Tries all K'!/(K'−K)! assignments, 120 for five sources.
    """
    rows, columns = cost.shape[1:]
    if columns < rows:
        # Dummy columns at the price of a miss, read back as the last real one: they are never a hit.
        padded = torch.nn.functional.pad(cost, (0, rows - columns), value=MISS)
        return assign(padded).clamp(max=columns - 1)
    if math.perm(columns, rows) > MOST_ASSIGNMENTS:
        raise InputError(f"{columns} estimates for {rows} sources; allowed: at most {MOST_ASSIGNMENTS} assignments")
    every = torch.tensor(list(itertools.permutations(range(columns), rows)), device=cost.device)  # [P, K]
    total = cost[:, torch.arange(rows, device=cost.device), every].sum(-1)  # [B, P]
    return every[total.argmin(dim=-1)]


def crb_recall(batch: SceneBatch, bound: Bound, *, tolerances: tuple[float, float, float] = TOLERANCES) -> float:
    """Recall that the bound allows: mean over sources of Π erf(tolerance / √(2·CRB)), for unbiased normal errors."""
    chance = torch.ones_like(bound.azimuth)
    for tolerance, deviation in zip(tolerances, (bound.azimuth, bound.elevation, bound.range), strict=True):
        if tolerance < math.inf:
            chance = chance * torch.erf(tolerance / (math.sqrt(2) * deviation))
    return float(chance[batch.active].mean())
