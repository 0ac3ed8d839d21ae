"""The score of a trial depends on the network and on nothing else."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from rislab.data.scene_config import SceneConfig
from rislab.data.simulation import simulate
from rislab.model.network import CovarianceNet
from rislab.training.streaming import train_epochs
from rislab.tuning.objective import LocalisationObjective
from tests.tuning.small import BASE, SMALL


def test_the_score_is_that_of_the_network_and_of_nothing_else() -> None:
    """Configurations that differ in every weight of the loss, and one network: one score."""
    model = BASE.model()
    scores = {
        (curriculum, blend): LocalisationObjective.of(
            dataclasses.replace(SMALL, base=dataclasses.replace(BASE, curriculum=curriculum, blend=blend))
        )(model)
        for curriculum in ("no-curriculum", "three-phase")
        for blend in (0.0, 0.3)
    }
    assert len(set(map(str, scores.values()))) == 1


def test_the_truth_scores_near_the_bound_and_nonsense_does_not() -> None:
    scenes = simulate(SceneConfig.preset("classroom", snr_db=20.0), 24, seed=3, split="validation")

    class Oracle(CovarianceNet):
        def __init__(self, factors: dict[str, torch.Tensor]) -> None:
            torch.nn.Module.__init__(self)
            self.factors = factors

        def predict(self, batch: Any) -> torch.Tensor:
            return torch.stack([self.factors[name] for name in batch.hashes()])

    true = dict(zip(scenes.hashes(), scenes.factor(), strict=True))
    wrong = dict(zip(scenes.hashes(), scenes.factor().roll(1, 0), strict=True))
    nan = {name: factor * torch.nan for name, factor in true.items()}
    scorer = LocalisationObjective(scenes)
    flat = {name: factor * torch.tensor([1.0, 0.0, 0.0]) for name, factor in true.items()}
    best, worst, none, low = (scorer(Oracle(factors)) for factors in (true, wrong, nan, flat))
    assert best.recall == 1.0 and best.peb < 1.0  # the truth itself is better than any estimate
    assert worst.recall < 0.2 and worst.peb > 8.0
    assert not np.isfinite(none.recall) and not np.isfinite(none.peb)
    # Of rank one: for two sources and more MUSIC estimates nothing, and all of them are missed.
    alone = scenes.active.sum(-1) == 1
    assert low.recall == pytest.approx(float(alone.sum()) / float(scenes.active.sum()), abs=0.02)


@pytest.mark.slow
def test_scoring_does_not_touch_the_training() -> None:
    scorer = LocalisationObjective.of(SMALL)

    def weights(scored: bool) -> torch.Tensor:
        model = BASE.model()
        for record in train_epochs(BASE, model):
            if scored and not hasattr(record, "loss"):
                scorer(model)
        return torch.cat([value.detach().flatten() for value in model.parameters()])

    assert torch.equal(weights(True), weights(False))
