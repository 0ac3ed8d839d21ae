"""Correct loops of many kinds are not flagged, and with a fault they are: a sample; `make mutants` runs all."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from torch import Tensor

from tests.mutation import correct_loops
from tests.mutation.correct_loops import FEATURES, OPTIMISERS, PRECISIONS, SIZES, WAYS, CorrectLoop, Training

SAMPLE = correct_loops.sample(24, seed=1)
# What a step that is not compared had of another network's loss; steps that a scaler skips while it finds its scale.
FORMER = [
    CorrectLoop("GAN", "fp64", 2, "SGD", None, "declared"),
    CorrectLoop("max steps", "fp16", 1, "Adam", None, "guessed"),
]


def test_the_whole_set_is_large_and_meets_every_value_in_every_way_of_watching() -> None:
    cases = correct_loops.all_cases()
    assert len(cases) == len(set(cases)) >= 500
    wanted = {"feature": FEATURES, "precision": PRECISIONS, "accumulation_steps": SIZES, "optimiser": OPTIMISERS}
    for name, values in wanted.items():
        assert {(getattr(case, name), case.way) for case in cases} == {(v, way) for v in values for way in WAYS}
        assert {getattr(case, name) for case in SAMPLE} == set(values)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("case", [*SAMPLE, *FORMER], ids=lambda case: case.name)
def test_a_correct_loop_is_not_flagged(case: CorrectLoop) -> None:
    found = correct_loops.watched(case)
    assert [str(finding) for finding in found if finding.severity == "fault"] == []


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("feature", ["plain", "two optimisers", "tied weights", "checkpointing"])
def test_without_its_division_it_is(feature: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def undivided(self: Training, window: Sequence[tuple[Tensor, Tensor]]) -> float:
        for x, y in window:
            self.scaler.scale(self.compute_loss(x, y)).backward()
        return 0.0

    monkeypatch.setattr(Training, "backward", undivided)
    found = correct_loops.watched(CorrectLoop(feature, "fp32", 4, "SGD", None, way))
    assert "never divided" in [finding.name for finding in found if finding.severity == "fault"]


def test_the_report_counts() -> None:
    found = [(case, correct_loops.watched(case)) for case in SAMPLE[:2]]
    said = correct_loops.text(found, 1.0)
    assert "**flagged, of all: 0 of 2**" in said
    assert SAMPLE[0].feature in said
