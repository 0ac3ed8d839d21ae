"""The ladder goes on where it was stopped, and says what it cannot check; tests/faults turn its checks red."""

from __future__ import annotations

from pathlib import Path

import pytest

from rislab.errors import InputError
from rislab.faults.comparison import LADDER
from rislab.sanity import overfit, overfit_ladder
from rislab.sanity.overfit_config import OverfitConfig
from rislab.training.records import Record, epoch_records


def test_whole_set_survives_being_stopped(tmp_path: Path) -> None:
    config = OverfitConfig(**{**LADDER, "epochs": 5})
    records: list[Record] = []
    straight = list(overfit_ladder.ladder(config, only=["whole set", "event counts"], on_record=records.append))
    stopped = overfit.FullTraining(config, config.data(), tmp_path)
    stream = stopped.stream()
    for _ in range(4):
        next(stream)
    stream.close()
    resumed = list(overfit_ladder.ladder(config, only=["whole set", "event counts"], folder=tmp_path))
    assert [check.value for check in resumed] == [check.value for check in straight]
    again = list(overfit_ladder.ladder(config, only=["whole set"], folder=tmp_path))
    given = list(overfit_ladder.ladder(config, only=["whole set"], trained=(config.model(), records)))
    assert given[0].value == straight[0].value
    assert again[0].value == straight[0].value == epoch_records(records)[-1].train_eval


def test_a_run_that_was_stopped_is_checked_by_what_it_did() -> None:
    config = OverfitConfig(**{**LADDER, "epochs": 12})
    records = list(overfit.FullTraining(config, config.data()).records())
    half = [record for record in records if record.epoch <= 6]
    checks = overfit_ladder.ladder(config, only=["whole set", "event counts"], trained=(config.model(), half))
    full, counts = checks
    assert "after 6 of 12 epochs" in full.sentence
    assert counts.passed
    early = overfit_ladder.ladder(config, only=["whole set", "event counts"], trained=(config.model(), records[:1]))
    for check in early:
        assert not check.passed
        assert "stopped before its first epoch ended" in check.sentence


def test_an_unknown_check_is_named() -> None:
    with pytest.raises(InputError, match="only is 'top'"):
        list(overfit_ladder.ladder(OverfitConfig(), only=["top"]))
