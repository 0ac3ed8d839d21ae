"""A worker of a search: takes a trial that nobody works on, trains it, reports each epoch, and takes the next.

Run as `python -m rislab.tuning.worker`, a process of its own with one intra-op thread; it reads one line of JSON, and ends
when its standard input does, so that no worker outlives the search that began it.
"""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from rislab import files
from rislab.errors import InputError
from rislab.training.records import EpochRecord, StepRecord
from rislab.training.streaming import LearningConfig, train_streaming
from rislab.tuning.objective import LocalisationObjective, Scores
from rislab.tuning.storage import Claim, Kept, opened, reason
from rislab.tuning.study import TuningConfig, sampler, study_of, suggest, trial_folder

if TYPE_CHECKING:
    import optuna

# What a training may raise for the values that it was given; all else ends the worker, and the trial goes on later.
FAILURES = (RuntimeError, ValueError, ArithmeticError, MemoryError)

Stopped = Callable[[], bool]


@dataclass(frozen=True)
class Task:
    """Everything a worker must know; its storage may hold a password, so it travels by standard input.

    Args:
        folder, config, storage, study: of the search. finals, seeds, split: instead of searching, train these
            configurations again with these seeds, and judge them on this split.
    """

    folder: str
    config: dict[str, Any]
    storage: str
    study: str
    finals: dict[str, dict[str, Any]] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    split: str = "validation"


def search(kept: Kept, config: TuningConfig, name: str, folder: Path, stopped: Stopped) -> None:
    """Work on trials until there are none left to be begun or to be gone on with."""
    study = study_of(kept, config, name)
    judge = config.judge()
    while not stopped() and (taken := _next(study, kept, config, name)) is not None:
        trial, claim = taken
        try:
            attempt(study, trial, claim, config, judge, folder, stopped)
        finally:
            claim.release()


def _next(study: optuna.Study, kept: Kept, config: TuningConfig, name: str) -> tuple[optuna.Trial, Claim] | None:
    """A trial whose worker was lost, or else a new one."""
    import optuna

    number_of = kept.storage.get_trial_id_from_study_id_trial_number
    with kept.claims.alone():
        study_id = kept.storage.get_study_id_from_name(name)
        known = study.get_trials(deepcopy=False)
        asked = sum(one.state != optuna.trial.TrialState.WAITING for one in known)
        study.sampler = sampler(config, asked)
        for one in known:
            if one.state == optuna.trial.TrialState.RUNNING and (claim := kept.claims.take(one.number)):
                # Its worker may have told its end and let go since the trials were read.
                if study.get_trials(deepcopy=False)[one.number].state == optuna.trial.TrialState.RUNNING:
                    return optuna.trial.Trial(study, number_of(study_id, one.number)), claim
                claim.release()
        if asked >= config.trials:
            return None
        trial = study.ask()
        suggest(trial, config.space)
        claim = kept.claims.take(trial.number)
        if claim is None:
            raise InputError(f"trial {trial.number} is claimed by another search of this name; allowed: another name")
        return trial, claim


def attempt(
    study: optuna.Study,
    trial: optuna.Trial,
    claim: Claim,
    config: TuningConfig,
    judge: LocalisationObjective,
    folder: Path,
    stopped: Stopped,
) -> None:
    """Train a trial from where it stands, and tell how it ended; one that is stopped is left to be gone on with."""
    from optuna.trial import TrialState

    began = time.monotonic()
    values = suggest(trial, config.space)
    scores = dict(study.get_trials(deepcopy=False)[trial.number].intermediate_values)
    learning = config.learning(trial.number, values)
    model = learning.model()
    last: list[Scores] = []
    # It may have been killed between a report and this question.
    doomed = 0 < max(scores, default=0) < learning.epochs and trial.should_prune()
    state, why = (TrialState.PRUNED if doomed else TrialState.COMPLETE), ""

    def report(record: EpochRecord) -> None:
        last[:] = [judge(model)]
        value = last[0].value(config.objective)
        # A trial that was killed may train an epoch again; its first report stands, and is the same number.
        if record.epoch not in scores and math.isfinite(value):
            trial.report(value, record.epoch)
            scores[record.epoch] = value

    try:
        with closing(train_streaming(trial_folder(folder, trial.number), learning, model, on_epoch=report)) as stream:
            for record in stream:
                if stopped():
                    return
                if state == TrialState.PRUNED:
                    break
                if isinstance(record, StepRecord) and not math.isfinite(record.loss):
                    state, why = TrialState.FAIL, f"loss of step {record.step} is {record.loss}"
                    break
                if isinstance(record, EpochRecord):
                    if record.epoch not in scores:
                        state, why = TrialState.FAIL, f"{config.objective} after epoch {record.epoch} is not finite"
                        break
                    if record.epoch < record.epochs and trial.should_prune():
                        state = TrialState.PRUNED
                        break
    except InputError:
        raise  # A file that cannot be read or written says nothing about the trial.
    except FAILURES as error:
        state, why = TrialState.FAIL, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if not claim.held():
        raise InputError(f"trial {trial.number} was lost with the connection; the same command goes on with it")
    told = last[0] if last else judge(model)
    for name, value in _attributes(told, config, why, time.monotonic() - began).items():
        trial.set_user_attr(name, value)
    study.tell(trial.number, scores[max(scores)] if state == TrialState.COMPLETE else None, state)


def _attributes(told: Scores, config: TuningConfig, why: str, seconds: float) -> dict[str, Any]:
    """What stands beside a trial's score; JSON knows no NaN."""
    numbers = {"recall": told.recall, "peb": told.peb, "error": told.errors[config.objective], "seconds": seconds}
    finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
    return {**finite, "reason": why} if why else finite


def confirm(task: Task, config: TuningConfig, folder: Path, stopped: Stopped) -> None:
    """Train what is to be compared again, with other seeds, each in a folder of its own."""
    judge = None
    for name, fields in task.finals.items():
        for seed in task.seeds:
            place = folder / f"{name}-{seed}"
            files.check_writable(place)
            with suppress(Timeout), FileLock(place / "claim").acquire(blocking=False):
                if stopped() or (place / "score.json").exists():
                    continue
                judge = judge or config.judge(task.split)
                learning = LearningConfig.from_dict({**fields, "seed": seed})
                model = learning.model()
                for _ in train_streaming(place, learning, model):
                    if stopped():
                        return
                plain = {"name": name, "seed": seed, **asdict(judge(model))}
                files.replace(place / "score.json", json.dumps(plain).encode())


def main() -> int:
    """The process itself; returns its exit code."""
    import torch

    torch.set_num_threads(1)
    task = Task(**json.loads(sys.stdin.readline()))
    gone = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        gone.set()

    threading.Thread(target=wait, daemon=True).start()
    config, folder = TuningConfig.from_dict(task.config), Path(task.folder)
    try:
        if task.finals:
            confirm(task, config, folder, gone.is_set)
        else:
            search(opened(folder, task.storage, task.study), config, task.study, folder, gone.is_set)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except Exception as error:
        if not task.storage:
            raise
        # A database that went away; its driver's traceback may hold the password.
        print(f"{type(error).__name__}: {reason(error, task.storage)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
