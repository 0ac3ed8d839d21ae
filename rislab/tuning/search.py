"""Hyper-parameter search on a loop that was checked first: the ladder, the trials, and the best trained again.

Every trial is scored by how well it localises on the same fixed scenes. A searched value can change that score only by
training better.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from rislab import files, provenance
from rislab.errors import InputError, check_number
from rislab.sanity import overfit_ladder
from rislab.sanity.overfit_config import OverfitConfig
from rislab.training.streaming_config import LearningConfig
from rislab.tuning.analysis import Rerun, best_rerun, inert_dimensions, search_warnings, top_trials
from rislab.tuning.processes import run_workers
from rislab.tuning.storage import LOCKS, OpenStorage, open_storage
from rislab.tuning.study import BEST, Trial, best_trial, open_study, read_trials, write_best
from rislab.tuning.tuning_config import OBJECTIVES, TuningConfig
from rislab.tuning.worker import Task

if TYPE_CHECKING:
    import optuna

RECORD, RUNOFF, CONFIRM = "study.yaml", "runoff", "confirm"
FORMER_JOURNAL = "journal.log"
# The positions of a fit alone cannot memorise a scene; with the free part of "unrolled+residual" they can.
LADDER_DESIGNS = {"unrolled": "unrolled+residual"}


@dataclass(frozen=True)
class SearchProgress:
    """Where a search stands.

    Args:
        stage: "ladder", "search", "runoff", "confirm" or "done".
        ladder: what the record says of it.
        trials: all so far.
        best: the best complete one, or None; after the run-off, its winner.
        runoff: the top trials trained again, scored on the scenes of the search.
        finals: best and default trained again, scored on the test split.
        seconds: since this call.
        left: estimated seconds to the end of the trials, None while none has ended.
        warnings: sentences about the search; at the end of a stage.
    """

    stage: str
    ladder: dict[str, Any]
    trials: tuple[Trial, ...] = ()
    best: Trial | None = None
    runoff: tuple[Rerun, ...] = ()
    finals: tuple[Rerun, ...] = ()
    seconds: float = 0.0
    left: float | None = None
    warnings: tuple[str, ...] = ()

    def ended(self) -> int:
        """Number of trials that are not running."""
        return sum(trial.ended for trial in self.trials)


def run_search(
    folder: Path | str,
    config: TuningConfig | None = None,
    *,
    storage: str = "",
    name: str = "tuning",
    workers: int | None = None,
    skip_ladder: bool = False,
    confirm: int = 5,
) -> Generator[SearchProgress]:
    """Search, in worker processes of one thread each, and go on where an earlier search of this folder stopped.

    Closing the generator stops the workers at a step boundary; the next search continues the trials in progress.

    Args:
        folder: of the search: SQLite file, runs of the trials, study.yaml, best.yaml.
        config: see TuningConfig.
        storage: URL of a PostgreSQL database instead of the file, for searches of one name on many machines.
        name: of the study in it.
        workers: processes, ≥ 1; one a core if None.
        skip_ladder: do not run the ladder, and say so in the record.
        confirm: number of seeds. The top trials are trained again with so many seeds, on the scenes of the search,
            since the best of many trials is partly the best by chance; then the winner and the default are trained with
            as many other seeds, and scored on a third split. 0 does neither.

    Yields:
        SearchProgress, whenever something has changed.

    Raises:
        InputError: a red check of the ladder, values out of range, a storage that cannot be used, a study of another
            configuration, a worker that could not go on, or a search in which no trial ended.
    """
    config = config or TuningConfig()
    workers = provenance.cores() if workers is None else workers
    check_number("workers", workers, 1, 1024, integer=True)
    check_number("confirm", confirm, 0, 100, integer=True)
    folder, began = Path(folder), time.monotonic()
    if (folder / FORMER_JOURNAL).exists():
        raise InputError(
            f"{folder} holds a search of version 0.1, which cannot go on; allowed: another folder "
            f"(`rislab train --config {folder / BEST}` trains what it found best)"
        )
    for each in (folder, folder / LOCKS):
        files.check_writable(each)
    stored = open_storage(folder, storage, name)
    with stored.errors():
        study = open_study(stored, config, name)
        task = Task(str(folder), config.to_dict(), storage, name)
        for progress in _stages(folder, config, stored, study, task, workers, skip_ladder, confirm):
            yield dataclasses.replace(progress, seconds=time.monotonic() - began)


def _stages(
    folder: Path,
    config: TuningConfig,
    stored: OpenStorage,
    study: optuna.Study,
    task: Task,
    workers: int,
    skip_ladder: bool,
    confirm: int,
) -> Generator[SearchProgress]:
    ladder: dict[str, Any] = {}
    for ladder in _run_ladder(config, study.user_attrs.get("ladder", {}), skip_ladder):
        yield SearchProgress("ladder", ladder)
    study.set_user_attr("ladder", ladder)
    inert = _inert(config, study)
    _write_record(folder, config, stored, study.study_name, ladder, inert)
    progress = SearchProgress("search", ladder, warnings=inert)
    for trials in _new_trials(study, config, task, workers):
        best = best_trial(trials, config)
        if best is not None and (progress.best is None or best.number != progress.best.number):
            write_best(folder, config, best)
        progress = dataclasses.replace(progress, trials=trials, best=best, left=_left(trials, config, workers))
        yield progress
    if progress.best is None:
        reasons = sorted({trial.reason for trial in progress.trials if trial.reason})
        raise InputError(f"no trial of {len(progress.trials)} ended with a score: {'; '.join(reasons)[:300]}")
    warnings = (*inert, *search_warnings(progress.trials, config))
    progress = dataclasses.replace(progress, stage="runoff", left=0.0, warnings=warnings)
    yield progress
    if confirm:
        top = top_trials(progress.trials, config)
        named = {f"trial {trial.number}": config.trial_config(trial.number, trial.values) for trial in top}
        for runoff in _train_again(task, folder / RUNOFF, named, config.rerun_seeds(confirm), workers):
            progress = dataclasses.replace(progress, runoff=runoff)
            yield progress
        best = best_rerun(top, progress.runoff, config)
        write_best(folder, config, best)
        progress = dataclasses.replace(progress, stage="confirm", best=best)
        named = {"default": config.base, "best": config.trial_config(best.number, best.values)}
        # One folder for each best trial: a search that went on may have another best.
        place = folder / CONFIRM / str(best.number)
        for finals in _train_again(task, place, named, config.rerun_seeds(confirm, skip=confirm), workers, "test"):
            progress = dataclasses.replace(progress, finals=finals)
            yield progress
    yield dataclasses.replace(progress, stage="done")


def _run_ladder(config: TuningConfig, known: dict[str, Any], skip: bool) -> Generator[dict[str, Any]]:
    """What the record says of the ladder, check by check; raises InputError at a red one."""
    if known.get("passed") or skip:
        yield known if known.get("passed") else {"skipped": True, "passed": False, "checks": []}
        return
    base = config.base
    design = LADDER_DESIGNS.get(base.design, base.design)
    state: dict[str, Any] = {"skipped": False, "passed": False, "design": design, "checks": []}
    yield state
    red = []
    for check in overfit_ladder.ladder(
        OverfitConfig(preset=base.preset, design=design, precision=base.precision, device=base.device)
    ):
        red += [] if check.passed else [check.name]
        state = {**state, "checks": [*state["checks"], check.line()]}
        yield state
    if red:
        raise InputError(
            f"check {red[0]!r} of the overfit ladder is red, so no search is begun: a search would tune what does not "
            "train; allowed: a loop that passes it, or --skip-ladder"
        )
    yield {**state, "passed": True}


def _new_trials(study: optuna.Study, config: TuningConfig, task: Task, workers: int) -> Generator[tuple[Trial, ...]]:
    """Search; yields all trials whenever they have changed, and at least once."""
    trials = tuple(read_trials(study))
    yield trials
    if sum(trial.ended for trial in trials) < config.trials:
        for _ in run_workers(task, min(workers, config.trials)):
            if (fresh := tuple(read_trials(study))) != trials:
                trials = fresh
                yield trials


def _left(trials: tuple[Trial, ...], config: TuningConfig, workers: int) -> float | None:
    seconds = [trial.seconds for trial in trials if trial.seconds]
    ended = sum(trial.ended for trial in trials)
    return float(np.mean(seconds)) * max(config.trials - ended, 0) / workers if seconds else None


def _train_again(
    task: Task,
    place: Path,
    named: dict[str, LearningConfig],
    seeds: tuple[int, ...],
    workers: int,
    split: str = "validation",
) -> Generator[tuple[Rerun, ...]]:
    """Train configurations again; yields the reruns so far whenever there are more."""
    reruns: tuple[Rerun, ...] = ()
    plain = {name: training.to_dict() for name, training in named.items()}
    again = dataclasses.replace(task, folder=str(place), reruns=plain, seeds=seeds, split=split)
    for _ in run_workers(again, min(workers, len(named) * len(seeds))):
        scores = [_score_in(path) for path in sorted(place.glob("*/score.json"))]
        fresh = tuple(score for score in scores if score.name in named and score.seed in seeds)
        if fresh != reruns:
            reruns = fresh
            yield reruns


def _score_in(path: Path) -> Rerun:
    try:
        plain = json.loads(path.read_text())
        return Rerun(str(plain["name"]), int(plain["seed"]), float(plain["recall"]), float(plain["peb"]))
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged; allowed: what rislab wrote (without the file it is made anew)") from error


def _inert(config: TuningConfig, study: optuna.Study) -> tuple[str, ...]:
    """Dimensions that do not reach the training at all; measured once for a study."""
    known = study.user_attrs.get("inert")
    if known is None:
        known = list(inert_dimensions(config.base, config.space))
        study.set_user_attr("inert", known)
    return tuple(known)


def _write_record(
    folder: Path, config: TuningConfig, stored: OpenStorage, name: str, ladder: dict[str, Any], inert: tuple[str, ...]
) -> None:
    """Write study.yaml: what is searched, and on what it was begun."""
    content = {
        "study": name,
        "storage": stored.name,
        "tuning": config.to_dict(),
        "objective": OBJECTIVES[config.objective][1],
        "ladder": ladder,
        "does not reach the training": list(inert),
        "versions": provenance.versions(("rislab", "torch", "optuna")),
        "commit": provenance.commit(),
        "machine": provenance.processor(),
    }
    files.replace(folder / RECORD, yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode())
