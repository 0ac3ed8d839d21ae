"""What may be concluded from a search: effects are told from chance, and a winner from luck."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from rislab.tuning.analysis import Rerun, inert_dimensions, search_warnings, verdict
from rislab.tuning.space import DEFAULT_SPACE, Choice, Range
from rislab.tuning.study import Trial
from tests.tuning.small import BASE, SMALL, SPACE


def made(scores: dict[int, float], number: int, values: dict[str, Any], error: float = 0.01) -> Trial:
    return Trial(number, "complete", values, scores, scores[max(scores)], error, "", 1.0)


def test_the_verdict_states_what_was_measured_and_no_spread_of_one_seed() -> None:
    two = [Rerun(name, seed, 0.5, peb) for name, pebs in (("default", (2.0, 3.0)), ("best", (1.0, 1.5))) for seed, peb
           in enumerate(pebs)]  # fmt: skip
    line = "peb on the test split, 2 seeds each: best 1.2500 ± 0.3536 against default 2.5000 ± 0.7071: better"
    assert verdict(two, SMALL) == line
    one = [rerun for rerun in two if rerun.seed == 0]
    line = "peb on the test split, one seed each: best 1.0000 against default 2.0000: better"
    assert verdict(one, SMALL) == line
    # Equal is not better, and of recall more is better.
    assert verdict(two, dataclasses.replace(SMALL, objective="recall")).endswith(": not better")


def test_a_dimension_that_reaches_nothing_is_named_and_one_that_does_is_not() -> None:
    decoy = {
        "validation": Choice((8, 16)),
        **SPACE,
        "blend": Range(0.0, 0.3),
        "curriculum": DEFAULT_SPACE["curriculum"],
    }
    (sentence,) = inert_dimensions(BASE, decoy)
    assert sentence.startswith("validation does not reach the training")


def test_warnings_know_effects_from_chance() -> None:
    """The score follows lr alone; of many draws, micro_batch is called an effect about one time in twenty."""
    config = dataclasses.replace(SMALL, trials=20)
    alarms, missed = 0, 0
    for draw in range(40):
        chance = np.random.default_rng(draw)
        trials = []
        for number in range(20):
            values = {"lr": float(10 ** chance.uniform(-3, -2)), "micro_batch": int(chance.choice([16, 32]))}
            score = (np.log10(values["lr"]) + 2.4) ** 2 + 0.02 * chance.standard_normal() + 1.5
            trials.append(made({4: float(score)}, number, values))
        lines = search_warnings(trials, config)
        missed += any(line.startswith("lr has no effect") for line in lines)
        alarms += not any(line.startswith("micro_batch has no effect") for line in lines)
        assert not any("flat" in line for line in lines)
    # A binomial of 40 and 1/20 exceeds 6 once in 200 times; these draws are fixed.
    assert missed == 0 and alarms <= 6


def test_a_flat_objective_is_called_flat() -> None:
    values = [{"lr": 0.001 * (1 + number), "micro_batch": 16} for number in range(4)]
    flat = [made({1: 1.50 + 0.001 * number, 4: 1.41}, number, each) for number, each in enumerate(values)]
    assert any("the objective is flat" in line for line in search_warnings(flat, SMALL))
    # Among the complete ones alone a pruned search always looks flat; after the first epoch they differed.
    steep = [dataclasses.replace(one, scores={1: 1.5 + number, 4: 1.41}) for number, one in enumerate(flat)]
    assert not any("the objective is flat" in line for line in search_warnings(steep, SMALL))
