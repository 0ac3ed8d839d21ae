"""A worker of a search: takes a trial that nobody works on, trains it, reports each epoch, and takes the next.

Run as `python -m rislab.tuning.worker`, a process of its own with one intra-op thread; it reads one line of JSON, and
ends when its standard input does, so that no worker outlives the search that began it.
"""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from rislab import files
from rislab.errors import InputError, error_text
from rislab.training.records import EpochRecord, Record, StepRecord
from rislab.training.streaming import train_streaming
from rislab.training.streaming_config import LearningConfig
from rislab.tuning.objective import LocalisationObjective, Scores
from rislab.tuning.storage import IsHeld, OpenStorage, open_storage
from rislab.tuning.study import add_trial, open_study, trial_folder
from rislab.tuning.tuning_config import TuningConfig

if TYPE_CHECKING:
    import optuna
    from optuna.trial import TrialState

# What a training may raise because of its values; any other error ends the worker, and the trial is continued later.
FAILURES = (RuntimeError, ValueError, ArithmeticError, MemoryError)

Stopped = Callable[[], bool]  # whether to stop at the next step boundary


@dataclass(frozen=True)
class Task:
    """Everything a worker must know; its storage may hold a password, so it travels by standard input."""

    folder: str  # of the search, or of the reruns
    config: dict[str, Any]  # of the search, plain
    storage: str  # URL of a database, or ""
    study: str  # name in the storage
    # instead of searching, train these configurations again, by name
    reruns: dict[str, dict[str, Any]] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()  # of the reruns
    split: str = "validation"  # whose scenes score the reruns


def train_trials(stored: OpenStorage, config: TuningConfig, name: str, folder: Path, stopped: Stopped) -> None:
    """Work on the trials of a study until none is left to begin or to continue, or until it is stopped."""
    study = open_study(stored, config, name)
    scorer = LocalisationObjective.of(config)
    more = True
    while more and not stopped():
        with _taken(study, stored, config) as trial:
            if more := trial is not None:
                _train_trial(study, *trial, config, scorer, folder, stopped)


@contextmanager
def _taken(
    study: optuna.Study, stored: OpenStorage, config: TuningConfig
) -> Iterator[tuple[optuna.trial.Trial, IsHeld] | None]:
    """A trial whose worker was lost, or else a new one, locked; None if there is neither."""
    from optuna.trial import Trial, TrialState

    with ExitStack() as locks:
        with stored.exclusive():
            trials = study.get_trials(deepcopy=False)
            new = [len(trials)] if len(trials) < config.trials else []
            for number in [*(one.number for one in trials if one.state == TrialState.RUNNING), *new]:
                try:
                    is_held = locks.enter_context(stored.lock(number, False))
                except Timeout:
                    continue
                if number in new:
                    add_trial(study, config)
                # Since the trials were read, its worker may have reported its end and released the lock.
                if study.get_trials(deepcopy=False)[number].state == TrialState.RUNNING:
                    break
                locks.close()
            else:
                yield None
                return
        study_id = stored.storage.get_study_id_from_name(study.study_name)
        yield Trial(study, stored.storage.get_trial_id_from_study_id_trial_number(study_id, number)), is_held


def _train_trial(
    study: optuna.Study,
    trial: optuna.trial.Trial,
    is_held: IsHeld,
    config: TuningConfig,
    scorer: LocalisationObjective,
    folder: Path,
    stopped: Stopped,
) -> None:
    """Train a trial from where it stands, and report how it ended; a stopped trial is left to be continued."""
    from optuna.trial import TrialState

    began = time.monotonic()
    training = config.trial_config(trial.number, trial.params)
    model = training.model()
    place = trial_folder(folder, trial.number)
    scores = dict(study.get_trials(deepcopy=False)[trial.number].intermediate_values)
    last: list[Scores] = []

    def report(record: EpochRecord) -> None:
        last[:] = [scorer(model)]
        value = last[0].value(config.objective)
        # A trial that was killed may train an epoch again; its first report stands, and is the same number.
        if record.epoch not in scores and math.isfinite(value):
            trial.report(value, record.epoch)
            scores[record.epoch] = value

    try:
        with closing(train_streaming(place, training, model, on_epoch=report)) as stream:
            state, reason = _outcome(stream, trial, training, scores, stopped)
    except InputError:
        raise  # a file that cannot be read or written is no failure of the trial
    except FAILURES as error:
        state, reason = TrialState.FAIL, f"{type(error).__name__}: {error_text(error)}"
    if state is None:
        return
    if state != TrialState.FAIL and not scores:
        raise InputError(f"{place} was trained by another search; allowed: another folder")
    if not is_held():
        raise InputError(f"trial {trial.number} was lost with the connection; the same command goes on with it")
    result = last[0] if last else scorer(model)
    for name, value in _attributes(result, config, reason, time.monotonic() - began).items():
        trial.set_user_attr(name, value)
    study.tell(trial.number, scores[max(scores)] if state == TrialState.COMPLETE else None, state)


def _outcome(
    stream: Iterable[Record],
    trial: optuna.trial.Trial,
    training: LearningConfig,
    scores: dict[int, float],
    stopped: Stopped,
) -> tuple[TrialState | None, str]:
    """How a trial ends, and why it fails; None if it is stopped."""
    from optuna.trial import TrialState

    # A worker may have been killed between the last report and this question.
    pruned = 0 < max(scores, default=0) < training.epochs and trial.should_prune()
    for record in stream:
        if stopped():
            return None, ""
        if pruned:
            break
        if isinstance(record, StepRecord) and not math.isfinite(record.loss):
            return TrialState.FAIL, f"loss of step {record.step} is {record.loss}"
        if isinstance(record, EpochRecord):
            if record.epoch not in scores:
                return TrialState.FAIL, f"the score after epoch {record.epoch} is not finite"
            if pruned := record.epoch < record.epochs and trial.should_prune():
                break
    return (TrialState.PRUNED if pruned else TrialState.COMPLETE), ""


def _attributes(scores: Scores, config: TuningConfig, reason: str, seconds: float) -> dict[str, Any]:
    """The attributes that are stored beside a trial's score; JSON has no NaN."""
    numbers = {"recall": scores.recall, "peb": scores.peb, "error": scores.errors[config.objective], "seconds": seconds}
    finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
    return {**finite, "reason": reason} if reason else finite


def train_reruns(task: Task, config: TuningConfig, folder: Path, stopped: Stopped) -> None:
    """Train the configurations of a task again, with its seeds, each in a folder of its own, and score them there."""
    scorer = None
    for name, fields in task.reruns.items():
        for seed in task.seeds:
            place = folder / f"{name}-{seed}"
            files.check_writable(place)
            with suppress(Timeout), FileLock(place / "claim").acquire(blocking=False):
                if stopped() or (place / "score.json").exists():
                    continue
                scorer = scorer or LocalisationObjective.of(config, task.split)
                training = LearningConfig.from_dict({**fields, "seed": seed})
                model = training.model()
                for _ in train_streaming(place, training, model):
                    if stopped():
                        return
                content = {"name": name, "seed": seed, **asdict(scorer(model))}
                files.replace(place / "score.json", json.dumps(content).encode())


def do_task(task: Task, stopped: Stopped) -> None:
    """Search, or train again, as the task says; raises InputError if the worker cannot go on."""
    config, folder = TuningConfig.from_dict(task.config), Path(task.folder)
    if task.reruns:
        train_reruns(task, config, folder, stopped)
        return
    stored = open_storage(folder, task.storage, task.study)
    with stored.errors():
        train_trials(stored, config, task.study, folder, stopped)


def run_worker() -> int:
    """The process itself; returns its exit code."""
    import torch

    torch.set_num_threads(1)
    task = Task(**json.loads(sys.stdin.readline()))
    gone = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        gone.set()

    threading.Thread(target=wait, daemon=True).start()
    try:
        do_task(task, gone.is_set)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(run_worker())
