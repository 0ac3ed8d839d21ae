"""Trainings that reports share: one run gives every one of them the same records and weights, and a fault none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rislab.faults import catalogue
from rislab.faults.patching import patched
from rislab.sanity.ladder_checks import one_batch
from rislab.sanity.overfit import FullTraining
from rislab.sanity.overfit_config import OverfitConfig
from rislab.training.records import equal_but_time
from rislab.training.shared_runs import FOLDER


def runs(folder: Path) -> list[Path]:
    return list(folder.glob("*.pt"))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp64"])
def test_a_training_is_run_once_and_comes_back_to_the_bit(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = OverfitConfig(scenes=64, epochs=2, micro_batch=32, precision=precision)
    data = config.data()
    alone = FullTraining(config, data)
    expected = alone.records()
    monkeypatch.setenv(FOLDER, str(tmp_path))
    first, second = FullTraining(config, data), FullTraining(config, data)
    records = first.records(), second.records()
    assert records[0] == records[1] and len(runs(tmp_path)) == 1  # times too: it was not run again
    assert all(map(equal_but_time, records[1], expected))
    for other in (first, alone):
        assert all(map(torch.equal, second.trained().parameters(), other.trained().parameters()))
    assert second.model.training == first.model.training
    for changed in (config.changed(seed=1), config.changed(micro_batch=16), config.changed(lr=1e-3)):
        FullTraining(changed, data).records()
    FullTraining(config, config.changed(seed=1).data()).records()
    assert len(runs(tmp_path)) == 5


@pytest.mark.slow
def test_one_batch_is_shared_and_a_fault_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    config = OverfitConfig(scenes=64, epochs=1, micro_batch=32)
    data = config.data()
    assert one_batch(config, data) == one_batch(config.changed(micro_batch=16), data) and len(runs(tmp_path)) == 1
    correct = FullTraining(config, data).records()
    with patched(catalogue.faults_by_name()["never divided"]) as package:
        wrong = package.sanity.OverfitConfig(**{**vars(config), "accumulation_steps": 2})
        for _ in range(2):
            package.sanity.overfit.FullTraining(wrong, wrong.data()).records()
    assert correct and len(runs(tmp_path)) == 2
