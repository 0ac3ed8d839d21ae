"""The score of a search: how well a network localises on fixed scenes, which no weight of any loss can change."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from rislab.data.scenes import SceneBatch
from rislab.data.simulation import simulate
from rislab.errors import check_choice
from rislab.model.network import CovarianceNet
from rislab.music import benchmark
from rislab.music.crb import crb
from rislab.music.estimate import Estimate
from rislab.music.metrics import Matching, match, tolerances_of
from rislab.music.spectra import music_spectrum
from rislab.music.subspace import is_rank_deficient
from rislab.tuning.tuning_config import OBJECTIVES, TuningConfig

MISS_PENALTY = 10.0


@dataclass(frozen=True)
class Scores:
    """Scores of one network."""

    recall: float  # share of true sources found
    # mean over true sources of position error over position error bound, MISS_PENALTY at most, and as much for a source
    # that was not found
    peb: float
    errors: dict[str, float]  # standard error of each, over sources

    def value(self, objective: str) -> float:
        """One of the scores; raises InputError for a name that is none."""
        check_choice("objective", objective, OBJECTIVES)
        return {"recall": self.recall, "peb": self.peb}[objective]


class LocalisationObjective:
    """Localises with the covariance that a network predicts, by MUSIC, which is given the number of sources.

    Args:
        scenes: on which every network is scored.
    """

    def __init__(self, scenes: SceneBatch) -> None:
        counts = scenes.active.sum(-1)
        self._grid = benchmark.search_grid(scenes.config)
        self._groups = [(int(count), scenes[counts == count]) for count in counts.unique()]
        self._limits = [crb(group).position for _, group in self._groups]  # [B, K]

    @classmethod
    def of(cls, config: TuningConfig, split: str = "validation") -> Self:
        """On the fixed scenes of a split: "validation" during the search, "test" after it."""
        return cls(simulate(config.base.scene_config(), config.eval_scenes, seed=config.seed, split=split))

    def __call__(self, model: CovarianceNet) -> Scores:
        """Scores of a network; NaN if what it predicts is not finite."""
        hits, ratios = [], []
        for (count, group), limit in zip(self._groups, self._limits, strict=True):
            factor = benchmark.predicted_factor(model, group).to(group.snapshots)  # [B, N, C]
            if not bool(factor.isfinite().all()):
                return Scores(math.nan, math.nan, dict.fromkeys(OBJECTIVES, math.nan))
            # From a covariance of too low a rank MUSIC estimates nothing: all sources of such a scene are missed.
            usable = ~is_rank_deficient(factor, count)
            hit, ratio = torch.zeros_like(limit), torch.full_like(limit, MISS_PENALTY)
            if bool(usable.any()):
                matching = self._matched(factor[usable], group[usable], count)
                hit[usable] = matching.hit.to(hit)
                ratio[usable] = (
                    (matching.position / limit[usable]).nan_to_num(MISS_PENALTY).clamp(max=MISS_PENALTY).to(ratio)
                )
            hits.append(hit[group.active].double())
            ratios.append(ratio[group.active].double())
        all_hits, all_ratios = torch.cat(hits), torch.cat(ratios)
        errors = {"recall": _standard_error(all_hits), "peb": _standard_error(all_ratios)}
        return Scores(float(all_hits.mean()), float(all_ratios.mean()), errors)

    def _matched(self, factor: Tensor, group: SceneBatch, count: int) -> Matching:
        parts = [music_spectrum(part, count, self._grid).peaks for part in factor.split(benchmark.CHUNK)]
        return match(Estimate.cat(parts), group, tolerances=tolerances_of(group.config))


def _standard_error(values: Tensor) -> float:
    return float(values.std() / math.sqrt(len(values)))
