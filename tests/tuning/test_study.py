"""A study: it goes on with one configuration only."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import optuna
import pytest

from rislab.errors import InputError
from rislab.tuning.space import Range
from rislab.tuning.storage import open_storage
from rislab.tuning.study import Trial, add_trial, open_study, read_trials
from tests.tuning.small import SMALL


@pytest.mark.slow
def test_a_trial_is_added_with_its_values_or_not_at_all(
    undisturbed: tuple[Path, list[Trial]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill within the transaction leaves no trial, and the next attempt draws the same values."""
    study = open_study(open_storage(tmp_path), SMALL, "tuning")
    storage = optuna.storages.RDBStorage
    honest = storage._set_trial_param_without_commit
    written = []

    def killed(self: object, session: object, trial: int, name: str, *values: object) -> None:
        honest(self, session, trial, name, *values)
        written.append(name)
        raise KeyboardInterrupt

    monkeypatch.setattr(storage, "_set_trial_param_without_commit", killed)
    with pytest.raises(KeyboardInterrupt):
        add_trial(study, SMALL)
    monkeypatch.setattr(storage, "_set_trial_param_without_commit", honest)
    assert written and read_trials(open_study(open_storage(tmp_path), SMALL, "tuning")) == []
    assert [add_trial(study, SMALL) for _ in range(2)] == [0, 1]
    values = [trial.values for trial in read_trials(study)]
    assert values == [trial.values for trial in undisturbed[1][:2]]
    # The base comes first, so that a search cannot end below it unnoticed.
    assert values[0] == {"lr": SMALL.base.lr, "micro_batch": SMALL.base.micro_batch}


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_study_of_another_program_is_refused(direction: str, tmp_path: Path) -> None:
    stored = open_storage(tmp_path)
    theirs = optuna.create_study(storage=stored.storage, study_name="theirs", direction=direction)
    if direction == "minimize":
        theirs.ask()
    with pytest.raises(InputError, match="study 'theirs' of .*study.sqlite3 was begun by another program"):
        open_study(stored, SMALL, "theirs")
    assert theirs.user_attrs == {}


def test_a_study_goes_on_with_its_own_configuration(tmp_path: Path) -> None:
    stored = open_storage(tmp_path)
    open_study(stored, SMALL, "mine")
    open_study(stored, dataclasses.replace(SMALL, trials=99), "mine")
    for changed, message in (
        ({"space": {"lr": Range(1e-3, 1e-2, log=True)}}, "space micro_batch is None"),
        ({"seed": 3}, "seed is 3, and study 'mine' was begun with 0"),
        ({"base": SMALL.base.changed(epochs=5)}, "base epochs is 5, and study 'mine' was begun with 3"),
    ):
        with pytest.raises(InputError, match=message):
            open_study(stored, dataclasses.replace(SMALL, **changed), "mine")
