"""A worker: failures have a reason, trials that ended are left alone, and a full disk loses nothing."""

from __future__ import annotations

import dataclasses
import resource
import shutil
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from rislab.errors import InputError
from rislab.training.records import StepRecord, epoch_records
from rislab.training.run_folder import read_records
from rislab.training.streaming_config import LearningConfig
from rislab.tuning import worker
from rislab.tuning.space import Range
from rislab.tuning.storage import IsHeld, open_storage
from rislab.tuning.study import Trial, best_trial, open_study, read_trials, trial_folder
from rislab.tuning.tuning_config import TuningConfig
from rislab.tuning.worker import Task, train_trials
from tests.tuning.small import SMALL, last_progress, trials_in, what_counts, work_here


def worked(folder: Path, config: TuningConfig = SMALL) -> list[Trial]:
    """Trials of a search by one worker, in this process."""
    list(work_here(Task(str(folder), config.to_dict(), "", "tuning")))
    return trials_in(folder)


@pytest.mark.slow
def test_pruning_spares_epochs_and_the_records_show_it(tmp_path: Path) -> None:
    wide = {"lr": Range(1e-6, 3e-2, log=True)}
    trials = worked(tmp_path, dataclasses.replace(SMALL, space=wide, trials=8, pruner="halving"))
    pruned = [trial for trial in trials if trial.state == "pruned"]
    assert pruned and all(trial.score is None and trial.epochs < 3 for trial in pruned)
    for trial in trials:
        assert len(epoch_records(read_records(trial_folder(tmp_path, trial.number)))) == trial.epochs


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_a_failed_trial_with_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = worker.train_streaming

    def broken(folder: Path, config: LearningConfig, model: Any, **options: Any) -> Any:
        for record in honest(folder, config, model, **options):
            late = isinstance(record, StepRecord) and record.step == 2 and config.micro_batch == 32
            yield dataclasses.replace(record, loss=float("nan")) if late else record

    monkeypatch.setattr(worker, "train_streaming", broken)
    trials = worked(tmp_path)
    lost = [trial for trial in trials if trial.values["micro_batch"] == 32]
    assert lost and all((trial.state, trial.reason) == ("failed", "loss of step 2 is nan") for trial in lost)
    assert all(trial.state == "complete" for trial in trials if trial.values["micro_batch"] == 16)
    assert best_trial(trials, SMALL) is not None


@pytest.mark.slow
@pytest.mark.usefixtures("workers_here")
def test_a_search_in_which_every_trial_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exploding(folder: Path, config: LearningConfig, model: Any, **options: Any) -> Any:
        yield from ()
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(worker, "train_streaming", exploding)
    with pytest.raises(InputError, match="no trial of 5 ended with a score: RuntimeError: mat1"):
        last_progress(tmp_path)
    reasons = {trial.reason for trial in trials_in(tmp_path)}
    assert reasons == {"RuntimeError: mat1 and mat2 shapes cannot be multiplied"}


@pytest.mark.slow
def test_a_trial_that_ends_while_it_is_asked_for_is_not_trained_again(tmp_path: Path) -> None:
    """Another worker tells its end and lets go, between the look at the trials and the lock."""
    stored, config = open_storage(tmp_path), dataclasses.replace(SMALL, trials=2)
    other = open_study(open_storage(tmp_path), config, "tuning")
    other.ask()

    def late(number: int, wait: bool) -> AbstractContextManager[IsHeld]:
        if number == 0:
            other.tell(0, 1.25)
        return stored.lock(number, wait)

    train_trials(dataclasses.replace(stored, lock=late), config, "tuning", tmp_path, lambda: False)
    assert [(one.number, one.state) for one in read_trials(other)] == [(0, "complete"), (1, "complete")]
    assert other.trials[0].value == 1.25 and not trial_folder(tmp_path, 0).exists()


def test_folders_of_another_search_are_refused(undisturbed: tuple[Path, list[Trial]], tmp_path: Path) -> None:
    """Trained epochs without a study that has their scores."""
    shutil.copytree(undisturbed[0] / "trials", tmp_path / "trials")
    with pytest.raises(InputError, match="0000 was trained by another search; allowed: another folder"):
        worked(tmp_path)


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """A disk on which no file of this process gets larger."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("begun", "limit", "message"),
    [
        (False, 40_000, "storage .*study.sqlite3 cannot be used: .*; what it holds is unchanged"),
        (True, 40_000, "storage .*study.sqlite3 cannot be used: .*; what it holds is unchanged"),
        (False, 120_000, "checkpoint.pt could not be written: File too large"),
    ],
    ids=["no storage", "storage", "checkpoint"],
)
def test_a_full_disk_is_one_sentence_and_the_search_goes_on_later(
    begun: bool, limit: int, message: str, undisturbed: tuple[Path, list[Trial]], tmp_path: Path
) -> None:
    config = dataclasses.replace(SMALL, trials=2)
    if begun:
        worked(tmp_path, dataclasses.replace(SMALL, trials=1))
    with files_up_to(limit), pytest.raises(InputError, match=message) as error:
        worked(tmp_path, config)
    assert len(str(error.value).splitlines()) == 1
    assert what_counts(worked(tmp_path, config)) == what_counts(undisturbed[1][:2])
