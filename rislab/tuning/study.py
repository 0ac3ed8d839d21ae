"""A study: the trials that it consists of, as the storage has them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from rislab import files
from rislab.errors import InputError
from rislab.tuning.space import Choice
from rislab.tuning.storage import OpenStorage
from rislab.tuning.tuning_config import TuningConfig

if TYPE_CHECKING:
    import optuna

BEST, TRIALS = "best.yaml", "trials"


@dataclass(frozen=True)
class Trial:
    """One trial as it stands in the storage.

    Args:
        number: from 0.
        state: "running", "complete", "pruned" or "failed".
        values: what was searched, by name.
        scores: by epoch, as reported.
        score: the last, of a trial that is complete; else None.
        error: standard error of the score over sources, or None.
        reason: why it failed, or "".
        seconds: of its last attempt.
    """

    number: int
    state: str
    values: dict[str, Any]
    scores: dict[int, float]
    score: float | None
    error: float | None
    reason: str
    seconds: float

    @property
    def ended(self) -> bool:
        """Whether it is not running any more."""
        return self.state != "running"

    @property
    def epochs(self) -> int:
        """How many epochs it was trained."""
        return len(self.scores)

    @property
    def last_score(self) -> float:
        """The score after the last epoch; of a trial that has one."""
        return self.scores[max(self.scores)]

    def line(self, objective: str) -> str:
        """One line for a terminal."""
        result = f"{objective} {self.last_score:.4f} after {self.epochs} epochs" if self.scores else ""
        values = ", ".join(f"{name} {_short(value)}" for name, value in self.values.items())
        return f"trial {self.number:>3} {self.state:<8} {result or self.reason}  {values}" + (
            f"  ({self.reason})" if result and self.reason else ""
        )


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def open_study(stored: OpenStorage, config: TuningConfig, name: str) -> optuna.Study:
    """The study of that name in a storage, made if there is none.

    Raises:
        InputError: if it was begun with another configuration, but for the number of trials, or by another program.
    """
    import optuna

    own = json.loads(json.dumps(config.identity()))
    direction: Literal["maximize", "minimize"] = "maximize" if config.higher_is_better else "minimize"
    with stored.exclusive():
        study = optuna.create_study(
            storage=stored.storage,
            study_name=name,
            direction=direction,
            sampler=optuna.samplers.RandomSampler(),  # never asked: see add_trial()
            pruner=_pruner(config),
            load_if_exists=True,
        )
        begun_with = study.user_attrs.get("config")
        empty = not study.get_trials(deepcopy=False) and [each.name.lower() for each in study.directions] == [direction]
        if begun_with is None and empty:
            study.set_user_attr("config", own)
            begun_with = own
    if not isinstance(begun_with, dict) or "eval_scenes" not in begun_with:
        program = "version 0.1" if isinstance(begun_with, dict) and "judged" in begun_with else "another program"
        raise InputError(f"study {name!r} of {stored.name} was begun by {program}; allowed: another name")
    _compare(begun_with, own, name)
    return study


def _compare(begun_with: dict[str, Any], own: dict[str, Any], name: str) -> None:
    for section in ("space", "base"):
        begun_with, own = ({**each, **_flat(section, each.get(section))} for each in (begun_with, own))
    for key in sorted(begun_with.keys() | own.keys()):
        if key not in ("space", "base") and begun_with.get(key) != own.get(key):
            raise InputError(
                f"{key} is {own.get(key)!r}, and study {name!r} was begun with {begun_with.get(key)!r}; "
                "allowed: the same, or another name or folder"
            )


def _flat(section: str, content: Any) -> dict[str, Any]:
    return {f"{section} {key}": value for key, value in content.items()} if isinstance(content, dict) else {}


def _pruner(config: TuningConfig) -> optuna.pruners.BasePruner:
    import optuna

    if config.pruner == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    if config.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1)
    return optuna.pruners.NopPruner()


def add_trial(study: optuna.Study, config: TuningConfig) -> int:
    """Add a running trial with its values, in one transaction, so that a kill leaves no trial without values.

    The values depend only on the trials so far: after a resume they are the same as without one. Nobody else may add a
    trial meanwhile. Returns the number of the trial.
    """
    import optuna

    trials = study.get_trials(deepcopy=False)
    number = len(trials)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            seed=config.seed_of(number), n_startup_trials=6, multivariate=True, constant_liar=True
        )
    draft = optuna.create_study(direction=study.direction, sampler=sampler)
    draft.add_trials(trials)
    defaults = {name: getattr(config.base, name) for name in config.space}
    # The values of the base are tried first, so that the result of a search is never worse than they are.
    if not trials and all(config.space[name].holds(value) for name, value in defaults.items()):
        draft.enqueue_trial(defaults)
    asked = draft.ask({name: _distribution(dimension) for name, dimension in config.space.items()})
    running = optuna.trial.TrialState.RUNNING
    study.add_trial(optuna.create_trial(state=running, params=asked.params, distributions=asked.distributions))
    return number


def _distribution(dimension: Any) -> optuna.distributions.BaseDistribution:
    from optuna import distributions

    if isinstance(dimension, Choice):
        return distributions.CategoricalDistribution(dimension.values)
    if dimension.integer:
        return distributions.IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return distributions.FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def read_trials(study: optuna.Study) -> list[Trial]:
    """All trials, by number."""
    return [
        Trial(
            number=one.number,
            state={"FAIL": "failed"}.get(one.state.name, one.state.name.lower()),
            values=dict(one.params),
            scores=dict(sorted(one.intermediate_values.items())),
            score=one.value if one.state.name == "COMPLETE" else None,
            error=one.user_attrs.get("error"),
            reason=one.user_attrs.get("reason", ""),
            seconds=one.user_attrs.get("seconds", 0.0),
        )
        for one in study.get_trials(deepcopy=False)
    ]


def best_trial(trials: Sequence[Trial], config: TuningConfig) -> Trial | None:
    """The complete trial with the best score; the earliest of equals."""
    return next(iter(ranked_trials(trials, config)), None)


def ranked_trials(trials: Sequence[Trial], config: TuningConfig) -> list[Trial]:
    """The complete trials by score, the best first; of equals the earliest."""
    complete = [trial for trial in trials if trial.score is not None]
    return sorted(complete, key=lambda trial: (config.cost(trial.score or 0.0), trial.number))


def write_best(folder: Path, config: TuningConfig, best: Trial) -> Path:
    """Write best.yaml, which `rislab train --config` takes; returns its path."""
    path = folder / BEST
    fields = config.trial_config(best.number, best.values).to_dict()
    files.replace(path, yaml.safe_dump(fields, sort_keys=False).encode())
    return path


def trial_folder(folder: Path, number: int) -> Path:
    """The folder of a trial."""
    return folder / TRIALS / f"{number:04d}"
