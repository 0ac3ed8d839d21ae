"""What is searched: a search has seeds of its own, and comes back from its mapping."""

from __future__ import annotations

import dataclasses

from rislab.training.streaming_config import LearningConfig
from rislab.tuning.tuning_config import TuningConfig
from tests.tuning.small import SMALL


def test_seeds_of_trials_are_their_own() -> None:
    many = TuningConfig(trials=5000)
    seeds = {many.seed_of(number) for number in range(5000)} | set(many.rerun_seeds(100))
    assert len(seeds) == 5100 and LearningConfig.EVALUATION not in seeds
    other = dataclasses.replace(many, seed=1)
    assert not seeds & {other.seed_of(number) for number in range(5000)}
    assert many.trial_config(3, {"lr": 0.5}).seed == many.seed_of(3)


def test_a_configuration_comes_back_from_its_mapping() -> None:
    assert TuningConfig.from_dict(SMALL.to_dict()) == SMALL
    assert SMALL.to_dict()["space"]["micro_batch"] == [16, 32]
    assert dataclasses.replace(SMALL, trials=9).digest() == SMALL.digest() != TuningConfig().digest()
