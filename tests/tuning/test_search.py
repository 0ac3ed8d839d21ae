"""A search from ladder to reruns: it keeps what it did, goes on where it was stopped, and loses nothing by kills."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from rislab.cli.main import main
from rislab.errors import InputError
from rislab.sanity import overfit_ladder
from rislab.training.records import epoch_records
from rislab.training.run_folder import load_model, read_config, read_records
from rislab.tuning import processes, search
from rislab.tuning.analysis import mean_scores
from rislab.tuning.objective import LocalisationObjective
from rislab.tuning.search import SearchProgress, run_search
from rislab.tuning.study import Trial, trial_folder
from rislab.tuning.tuning_config import TuningConfig
from rislab.tuning.worker import Task
from tests.forks import kill_group
from tests.tuning.small import BASE, SMALL, WORDS, last_progress, trials_in, what_counts, work_here


@pytest.fixture(scope="module")
def finished(
    undisturbed: tuple[Path, list[Trial]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, SearchProgress]:
    """A search with everything that follows it, of trials that are there."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(undisturbed[0], folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "run_workers", work_here)
        return folder, last_progress(folder, confirm=2)


@pytest.mark.slow
def test_a_search_keeps_what_it_did(finished: tuple[Path, SearchProgress]) -> None:
    folder, progress = finished
    assert [trial.number for trial in progress.trials] == list(range(5))
    assert all(trial.state == "complete" and set(trial.scores) == {1, 2, 3} for trial in progress.trials)
    for trial in progress.trials:
        place = trial_folder(folder, trial.number)
        assert len(epoch_records(read_records(place))) == trial.epochs
        assert read_config(place)["train"]["seed"] == SMALL.seed_of(trial.number)
    record = yaml.safe_load((folder / search.RECORD).read_text())
    assert record["ladder"]["skipped"] is True and record["storage"] == str(folder / "study.sqlite3")
    assert TuningConfig.from_dict(record["tuning"]) == SMALL
    assert trials_in(folder) == list(progress.trials)


def test_the_best_trains_again_to_its_score(finished: tuple[Path, SearchProgress], tmp_path: Path) -> None:
    folder, progress = finished
    best = progress.best
    assert best is not None and best.score is not None
    assert main(["train", "--config", str(folder / "best.yaml"), "--run", str(tmp_path / "run"), "--threads", "1"]) < 2
    model, _ = load_model(tmp_path / "run")
    assert LocalisationObjective.of(SMALL)(model).peb == pytest.approx(best.score, rel=1e-6)


def test_the_winner_is_trained_again_with_seeds_of_its_own(
    undisturbed: tuple[Path, list[Trial]], finished: tuple[Path, SearchProgress]
) -> None:
    folder, progress = finished
    assert what_counts(progress.trials) == what_counts(undisturbed[1])
    assert {(one.name, one.seed) for one in progress.finals} == {
        (name, seed) for name in ("default", "best") for seed in SMALL.rerun_seeds(2, skip=2)
    }
    assert {one.seed for one in progress.runoff} == set(SMALL.rerun_seeds(2)) and len(progress.runoff) == 6
    means = mean_scores(progress.runoff, "peb")
    assert progress.best is not None and means[f"trial {progress.best.number}"] == min(means.values())
    fields = yaml.safe_load((folder / "best.yaml").read_text())
    assert fields["lr"] == progress.best.values["lr"] and fields["seed"] == SMALL.seed_of(progress.best.number)
    # Scored anew: scenes of the test split, not those of the search.
    default = next(one for one in progress.finals if one.name == "default")
    model, _ = load_model(folder / search.CONFIRM / str(progress.best.number) / f"default-{default.seed}")
    assert LocalisationObjective.of(SMALL, "test")(model).peb == pytest.approx(default.peb, rel=1e-6)
    assert LocalisationObjective.of(SMALL)(model).peb != pytest.approx(default.peb, rel=1e-6)


def short_ladder(monkeypatch: pytest.MonkeyPatch, red: str = "") -> list[Any]:
    """Two checks instead of all, one of them perhaps red; returns the configurations that climb."""
    honest, climbs = overfit_ladder.ladder, []

    def short(config: Any) -> Any:
        climbs.append(config)
        for check in honest(config, only=["splits", "oracle"]):
            yield dataclasses.replace(check, passed=check.name != red)

    monkeypatch.setattr(search.overfit_ladder, "ladder", short)
    return climbs


def test_a_red_ladder_ends_the_search_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short_ladder(monkeypatch, red="oracle")
    with pytest.raises(InputError, match="check 'oracle' of the overfit ladder is red"):
        last_progress(tmp_path, skip_ladder=False)
    assert not list((tmp_path / "trials").glob("*")) and trials_in(tmp_path) == []


@pytest.mark.slow
@pytest.mark.usefixtures("workers_here")
def test_more_trials_go_on_with_the_same_study_on_one_green_ladder(
    undisturbed: tuple[Path, list[Trial]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    climbs = short_ladder(monkeypatch)
    few = last_progress(tmp_path, dataclasses.replace(SMALL, trials=2), skip_ladder=False)
    more = last_progress(tmp_path, dataclasses.replace(SMALL, trials=3), skip_ladder=False)
    assert what_counts(few.trials) == what_counts(undisturbed[1])[:2]
    assert what_counts(more.trials) == what_counts(undisturbed[1])[:3]
    assert len(climbs) == 1 and climbs[0].design == search.LADDER_DESIGNS[BASE.design]
    assert few.ladder["passed"] and len(few.ladder["checks"]) == 2
    assert yaml.safe_load((tmp_path / search.RECORD).read_text())["ladder"] == few.ladder


def test_bad_searches_are_one_sentence(
    undisturbed: tuple[Path, list[Trial]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(undisturbed[0], tmp_path / "mine")
    (tmp_path / "file").write_text("")
    mine = ["--run", str(tmp_path / "mine")]
    for words, message in (
        ([word.replace("0.001:", "0.0001:") for word in WORDS] + mine, "space lr"),
        ([*WORDS, *mine, "--search", "lr=1e-4:1e-2:log"], "search names lr twice"),
        ([*WORDS, *mine, "--epochs", "5"], "base epochs is 5, and study 'tuning' was begun with 3"),
        ([*WORDS, *mine, "--objective", "loss"], "objective is 'loss'"),
        ([*WORDS, *mine, "--trials", "0"], "trials is 0"),
        ([*WORDS, *mine, "--workers", "0"], "workers is 0"),
        ([*WORDS, "--run", str(tmp_path / "file")], "cannot be used"),
        ([*WORDS, *mine, "--storage", "mysql://a:pw@b/c"], "storage is of the kind 'mysql'"),
        ([*WORDS, *mine, "--storage", "nonsense pw"], "storage is no URL"),
        ([*WORDS, *mine, "--storage", "postgresql://u:pw@127.0.0.1:1/d"], "storage postgresql+psycopg://u:***@"),
        ([*WORDS, *mine, "--space", str(tmp_path / "none.yaml")], "search is given beside space"),
    ):
        assert main(words) == 2, words
        err = capsys.readouterr().err
        assert message in err and len(err.splitlines()) == 1 and "pw" not in err, err
    assert trials_in(tmp_path / "mine") == undisturbed[1]


# --------------------------------------------------------------------------------------------------------- stops, kills


@pytest.mark.process
@pytest.mark.usefixtures("forked")
def test_a_search_that_is_stopped_goes_on_as_if_it_had_not(
    undisturbed: tuple[Path, list[Trial]], tmp_path: Path
) -> None:
    with closing(run_search(tmp_path, SMALL, workers=1, skip_ladder=True, confirm=0)) as running:
        for progress in running:
            if sum(trial.state == "complete" for trial in progress.trials) == 2:
                break
    assert 2 <= sum(trial.ended for trial in trials_in(tmp_path)) < 5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "run_workers", work_here)
        assert what_counts(last_progress(tmp_path).trials) == what_counts(undisturbed[1])


@pytest.mark.process
@pytest.mark.usefixtures("forked")
def test_nothing_is_lost_by_kills(undisturbed: tuple[Path, list[Trial]], tmp_path: Path) -> None:
    """Every process of a search is killed at random moments; what it leaves is what an undisturbed one left."""
    kills, chance = int(os.environ.get("RISLAB_KILLS", "1")), random.Random(5)
    # So many trials that the last kill still finds one.
    trials, reference = 4 + kills, undisturbed[1]
    if kills > 1:
        task = Task(str(tmp_path / "reference"), dataclasses.replace(SMALL, trials=trials).to_dict(), "", "tuning")
        list(work_here(task))
        reference = trials_in(tmp_path / "reference")
    words = [*WORDS, "--trials", str(trials), "--run", str(tmp_path / "killed")]
    command = [sys.executable, "-m", "rislab.cli", *words]
    for _ in range(kills):
        process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        time.sleep(chance.uniform(2.0, 9.0))
        kill_group(process)
        process.communicate()
    assert main(words) == 0
    assert what_counts(trials_in(tmp_path / "killed")) == what_counts(reference)
    for trial in reference:
        records = epoch_records(read_records(trial_folder(tmp_path / "killed", trial.number)))
        assert [record.epoch for record in records] == [1, 2, 3]


@pytest.mark.process
@pytest.mark.usefixtures("forked")
def test_a_worker_that_is_killed_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of two workers is killed with its trial half done: the other takes the trial over, under its own number."""
    begun: list[subprocess.Popen[str]] = []
    honest = subprocess.Popen

    def popen(words: list[str], **options: Any) -> subprocess.Popen[str]:
        process = honest(words, **options)
        begun.extend([process] if "rislab.tuning.worker" in words else [])
        return process

    monkeypatch.setattr(processes.subprocess, "Popen", popen)
    # Long enough to be seen half done.
    long = dataclasses.replace(SMALL, base=BASE.changed(scenes=96), trials=3)
    killed = False
    for progress in run_search(tmp_path, long, workers=2, skip_ladder=True, confirm=0):
        if not killed and any(trial.state == "running" and trial.scores for trial in progress.trials):
            begun[0].kill()
            killed = True
    assert killed and [one.returncode for one in begun] == [-signal.SIGKILL, 0]
    assert [(trial.number, trial.state) for trial in progress.trials] == [(number, "complete") for number in range(3)]
