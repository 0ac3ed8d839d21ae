"""What may be concluded from a search: effects are told from chance, and a winner from luck."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from rislab.tuning.analysis import Rerun, chance_of_gain, inert_dimensions, search_warnings, verdict
from rislab.tuning.space import DEFAULT_SPACE, Choice, Range
from rislab.tuning.study import Trial
from tests.tuning.small import BASE, SMALL, SPACE


def made(scores: dict[int, float], number: int, values: dict[str, Any], error: float = 0.01) -> Trial:
    return Trial(number, "complete", values, scores, scores[max(scores)], error, "", 1.0)


def reruns(default: Sequence[float], best: Sequence[float]) -> list[Rerun]:
    pairs = {"default": default, "best": best}
    return [Rerun(name, seed, 0.5, peb) for name, pebs in pairs.items() for seed, peb in enumerate(pebs)]


def test_the_verdict_states_what_was_measured_and_no_spread_of_one_seed() -> None:
    line = "peb on the test split, 2 seeds each: best 1.25 ± 0.35 against default 2.50 ± 0.71: not tested"
    assert verdict(reruns((2.0, 3.0), (1.0, 1.5)), SMALL).startswith(line)
    line = "peb on the test split, one seed each: best 1.0000 against default 2.0000: not tested"
    assert verdict(reruns((2.0,), (1.0,)), SMALL).startswith(line)


def test_better_is_said_only_beyond_chance_and_with_the_name_of_the_test() -> None:
    five = reruns((2.0, 3.0, 2.5, 2.2, 2.1), (1.0, 1.5, 1.2, 1.1, 1.9))
    assert chance_of_gain(five, SMALL) == 1 / 32
    assert verdict(five, SMALL).endswith(": better (paired permutation test over 5 seeds, p = 0.031)")
    one_worse = reruns((2.0, 3.0, 2.5, 2.2, 2.1), (1.0, 1.5, 1.2, 1.1, 2.9))
    assert verdict(one_worse, SMALL).endswith(
        ": not better beyond chance (paired permutation test over 5 seeds, p = 0.062)"
    )
    # Equal is no gain, and of recall more is better.
    assert chance_of_gain(five, dataclasses.replace(SMALL, objective="recall")) == 1.0
    # With names swapped over many seeds chance gives p ≤ 0.05 in one of twenty.
    random = np.random.default_rng(0)
    draws = [reruns(*random.normal(size=(2, 8))) for _ in range(400)]
    assert 0.02 < np.mean([chance_of_gain(one, SMALL) <= 0.05 for one in draws]) < 0.08
    assert chance_of_gain(reruns([2.0] * 20, [1.0] * 20), SMALL) < 0.001


@pytest.mark.slow
def test_a_dimension_that_reaches_nothing_is_named_and_one_that_does_is_not() -> None:
    decoy = {
        "validation": Choice((8, 16)),
        **SPACE,
        "blend": Range(0.0, 0.3),
        "curriculum": DEFAULT_SPACE["curriculum"],
    }
    (sentence,) = inert_dimensions(BASE, decoy)
    assert sentence.startswith("validation does not reach the training")


@pytest.mark.slow
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
