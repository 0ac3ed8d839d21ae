"""A search that takes seconds, as a configuration and as a command line, and what counts of its trials."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from rislab.training.streaming_config import LearningConfig
from rislab.tuning.search import SearchProgress, run_search
from rislab.tuning.space import Choice, Range
from rislab.tuning.storage import open_storage
from rislab.tuning.study import Trial, read_trials
from rislab.tuning.tuning_config import TuningConfig
from rislab.tuning.worker import Task, do_task

BASE = LearningConfig(preset="classroom", scenes=32, epochs=3, validation=8, micro_batch=16)
SPACE = {"lr": Range(1e-3, 1e-2, log=True), "micro_batch": Choice((16, 32))}
SMALL = TuningConfig(base=BASE, space=SPACE, trials=5, eval_scenes=16, pruner="none")
# The command line of SMALL.
WORDS = [
    "tune", "--skip-ladder", "--scenes", "32", "--epochs", "3", "--validation", "8", "--micro-batch", "16",
    "--eval-scenes", "16", "--search", "lr=0.001:0.01:log", "micro_batch=16,32", "--pruner", "none", "--confirm", "0",
    "--trials", "5", "--workers", "1",
]  # fmt: skip


def last_progress(folder: Path, config: TuningConfig = SMALL, **options: Any) -> SearchProgress:
    """Of a search to its end."""
    options = {"workers": 1, "skip_ladder": True, "confirm": 0, **options}
    *_, last = run_search(folder, config, **options)
    return last


def work_here(task: Task, count: int = 1) -> Generator[None]:
    """run_workers() in this process."""
    do_task(task, lambda: False)
    yield


def trials_in(folder: Path, url: str = "", name: str = "tuning") -> list[Trial]:
    """Of a study as it stands, without searching."""
    import optuna

    return read_trials(optuna.load_study(study_name=name, storage=open_storage(folder, url, name).storage))


def what_counts(trials: Sequence[Trial]) -> list[tuple[Any, ...]]:
    """All but how long they took."""
    return [(one.number, one.state, one.values, one.scores, one.score, one.reason) for one in trials]
