"""The score of a search: how well a network localises on fixed scenes, which no weight of any loss can change."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rislab import localise
from rislab.bounds import bound
from rislab.data import SceneBatch
from rislab.errors import check_choice
from rislab.estimates import Estimate
from rislab.metrics import match, tolerances_of
from rislab.model import CovarianceNet

# Objective → whether more is better, and what it is called on an axis.
OBJECTIVES = {
    "recall": (True, "recall (share of true sources found)"),
    "peb": (False, "mean position error / PEB (a source not found counts 10)"),
}
MISSED = 10.0


@dataclass(frozen=True)
class Judgement:
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


class Judge:
    """Localises with the covariance that a network predicts, by MUSIC, which is told how many sources there are.

    Args:
        scenes: all that count, the same for every network.
    """

    def __init__(self, scenes: SceneBatch) -> None:
        counts = scenes.active.sum(-1)
        self._grid = localise.search_grid(scenes.config)
        self._groups = [(int(count), scenes[counts == count]) for count in counts.unique()]
        self._limits = [bound(group).position for _, group in self._groups]  # [B, K]

    def __call__(self, model: CovarianceNet) -> Judgement:
        """Scores of a network; NaN if what it predicts is not finite."""
        found, off = [], []
        for (count, group), limit in zip(self._groups, self._limits, strict=True):
            if not _finite(model, group):
                return Judgement(math.nan, math.nan, dict.fromkeys(OBJECTIVES, math.nan))
            peaks = localise.learned(model)["learned + MUSIC"]
            places = Estimate.cat([peaks(part, count, self._grid) for part in _parts(group)])
            matching = match(places, group, tolerances=tolerances_of(group.config))
            ratio = (matching.position / limit).nan_to_num(MISSED).clamp(max=MISSED)
            found.append(matching.hit[group.active].double())
            off.append(ratio[group.active].double())
        hits, ratios = torch.cat(found), torch.cat(off)
        errors = {"recall": _standard_error(hits), "peb": _standard_error(ratios)}
        return Judgement(float(hits.mean()), float(ratios.mean()), errors)


def _parts(batch: SceneBatch) -> list[SceneBatch]:
    return [batch[first : first + localise.CHUNK] for first in range(0, len(batch), localise.CHUNK)]


def _finite(model: CovarianceNet, batch: SceneBatch) -> bool:
    return all(bool(model.predict(part).isfinite().all()) for part in _parts(batch))


def _standard_error(values: Tensor) -> float:
    return float(values.std() / math.sqrt(len(values)))
