"""The score of a search: how well a network localises on fixed scenes, which no weight of any loss can change."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rislab.data.scenes import SceneBatch
from rislab.errors import check_choice
from rislab.model.network import CovarianceNet
from rislab.music import benchmark
from rislab.music.crb import crb
from rislab.music.estimate import Estimate
from rislab.music.metrics import Matching, match, tolerances_of
from rislab.music.spectra import music_spectrum
from rislab.music.subspace import is_rank_deficient

# Objective → whether more is better, and what it is called on an axis.
OBJECTIVES = {
    "recall": (True, "recall (share of true sources found)"),
    "peb": (False, "mean position error / PEB (a source not found counts 10)"),
}
MISS_PENALTY = 10.0


@dataclass(frozen=True)
class Scores:
    """Scores of one network.

    Args:
        recall: share of true sources found. peb: mean over true sources of position error over position error bound,
            10 at most, and 10 for one that was not found. errors: standard error of each, over sources.
    """

    recall: float
    peb: float
    errors: dict[str, float]

    def value(self, objective: str) -> float:
        """One of the scores; raises InputError for a name that is none."""
        check_choice("objective", objective, OBJECTIVES)
        return {"recall": self.recall, "peb": self.peb}[objective]


class LocalisationObjective:
    """Localises with the covariance that a network predicts, by MUSIC, which is told how many sources there are.

    Args:
        scenes: all that count, the same for every network.
    """

    def __init__(self, scenes: SceneBatch) -> None:
        counts = scenes.active.sum(-1)
        self._grid = benchmark.search_grid(scenes.config)
        self._groups = [(int(count), scenes[counts == count]) for count in counts.unique()]
        self._limits = [crb(group).position for _, group in self._groups]  # [B, K]

    def __call__(self, model: CovarianceNet) -> Scores:
        """Scores of a network; NaN if what it predicts is not finite."""
        found, off = [], []
        for (count, group), limit in zip(self._groups, self._limits, strict=True):
            factor = benchmark.predicted_factor(model, group).to(group.snapshots)  # [B, N, C]
            if not bool(factor.isfinite().all()):
                return Scores(math.nan, math.nan, dict.fromkeys(OBJECTIVES, math.nan))
            # Of a covariance of too low a rank MUSIC makes nothing: all sources of such a scene are missed.
            able = ~is_rank_deficient(factor, count)
            hit, ratio = torch.zeros_like(limit), torch.full_like(limit, MISS_PENALTY)
            if bool(able.any()):
                matching = self._matched(factor[able], group[able], count)
                hit[able] = matching.hit.to(hit)
                ratio[able] = (
                    (matching.position / limit[able]).nan_to_num(MISS_PENALTY).clamp(max=MISS_PENALTY).to(ratio)
                )
            found.append(hit[group.active].double())
            off.append(ratio[group.active].double())
        hits, ratios = torch.cat(found), torch.cat(off)
        errors = {"recall": _standard_error(hits), "peb": _standard_error(ratios)}
        return Scores(float(hits.mean()), float(ratios.mean()), errors)

    def _matched(self, factor: Tensor, group: SceneBatch, count: int) -> Matching:
        parts = [music_spectrum(part, count, self._grid).peaks for part in factor.split(benchmark.CHUNK)]
        return match(Estimate.cat(parts), group, tolerances=tolerances_of(group.config))


def _standard_error(values: Tensor) -> float:
    return float(values.std() / math.sqrt(len(values)))
