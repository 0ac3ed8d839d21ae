"""A study: what is searched, how, and the trials that it consists of, as the storage has them."""

from __future__ import annotations

import dataclasses
import json
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rislab import files
from rislab.data.scenes import SceneBatch
from rislab.data.simulation import simulate
from rislab.errors import InputError, check_choice, check_fields, check_number
from rislab.training.streaming import LearningConfig
from rislab.tuning import space
from rislab.tuning.objective import OBJECTIVES, LocalisationObjective
from rislab.tuning.space import Choice, Space
from rislab.tuning.storage import Kept

if TYPE_CHECKING:
    import optuna

# Epochs after which a trial must be among the best third of those that came as far, half, or above the median.
PRUNERS = ("halving", "median", "none")
BEST, TRIALS = "best.yaml", "trials"


@dataclass(frozen=True)
class TuningConfig:
    """What is searched, and how; strict and immutable.

    Args:
        base: everything that is not searched. Its own seed is not used: each trial has one.
        space: dimensions by name of a LearningConfig's field; see rislab.tuning.space.
        trials: in all, ≥ 1. objective: "peb" or "recall", see rislab.tuning.objective.
        judged: number of fixed validation scenes that score every trial, ≥ 2; at the end as many of the split "test".
        pruner: "halving" (successive halving), "median" or "none". seed: of the search, and of the scenes that judge.
    """

    base: LearningConfig = field(
        default_factory=lambda: LearningConfig(preset="classroom", scenes=512, epochs=8, validation=256)
    )
    space: Space = field(default_factory=lambda: dict(space.DEFAULT))
    trials: int = 20
    objective: str = "peb"
    judged: int = 512
    pruner: str = "halving"
    seed: int = 0

    def __post_init__(self) -> None:
        space.check(self.space, self.base)
        # Seeds of more would meet those of the trainings after the search.
        check_number("trials", self.trials, 1, 5_000, integer=True)
        check_choice("objective", self.objective, OBJECTIVES)
        check_number("judged", self.judged, 2, 10**6, integer=True)
        check_choice("pruner", self.pruner, PRUNERS)
        check_number("seed", self.seed, 0, 10**9, integer=True)

    def to_dict(self) -> dict[str, Any]:
        """Plain mapping that from_dict() and YAML take back."""
        return {**vars(self), "base": dataclasses.asdict(self.base), "space": space.to_dict(self.space)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> TuningConfig:
        """Build from a plain mapping, as read from YAML; raises InputError for what is not allowed."""
        check_fields("TuningConfig", fields, (one.name for one in dataclasses.fields(cls)))
        values = dict(fields)
        if "base" in values:
            values["base"] = LearningConfig.from_dict(values["base"])
        if "space" in values:
            values["space"] = space.from_dict(values["space"])
        return cls(**values)

    def digest(self) -> str:
        """Eight hexadecimal digits of everything but the number of trials: searches that share them are one study."""
        content = {key: value for key, value in self.to_dict().items() if key != "trials"}
        return f"{zlib.crc32(json.dumps(content, sort_keys=True).encode()):08x}"

    @property
    def higher_is_better(self) -> bool:
        """Of the objective."""
        return OBJECTIVES[self.objective][0]

    def learning(self, number: int, values: dict[str, Any]) -> LearningConfig:
        """The training of a trial: the base with these values and a seed of its own."""
        return dataclasses.replace(self.base, **values, seed=self.seed_of(number))

    def seed_of(self, number: int) -> int:
        """Of trial `number`; no two trials share one, and none has that of the evaluations."""
        return 10_000 * (self.seed + 1) + number

    def again(self, count: int, skip: int = 0) -> tuple[int, ...]:
        """Seeds of trainings after the search, which no trial has."""
        return tuple(5_000 + self.seed_of(skip + number) for number in range(count))

    def scenes(self, split: str) -> SceneBatch:
        """Those that judge: "validation" during the search, "test" after it."""
        return simulate(self.base.scene_config(), self.judged, seed=self.seed, split=split)

    def judge(self, split: str = "validation") -> LocalisationObjective:
        """The judge on the scenes of a split."""
        return LocalisationObjective(self.scenes(split))


@dataclass(frozen=True)
class Trial:
    """One trial as it stands in the storage.

    Args:
        number: from 0. state: "waiting", "running", "complete", "pruned" or "failed". values: what was searched.
        scores: by epoch, as reported.
        score: the last, of a trial that is complete; else None. error: its standard error over sources, or None.
        reason: why it failed, or "". seconds: of its last attempt.
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
        """Whether it is neither waiting nor running."""
        return self.state not in ("waiting", "running")

    @property
    def epochs(self) -> int:
        """How many it was trained."""
        return len(self.scores)

    def line(self, objective: str) -> str:
        """One line for a terminal."""
        told = f"{objective} {self.scores[max(self.scores)]:.4f} after {self.epochs} epochs" if self.scores else ""
        values = ", ".join(f"{name} {_short(value)}" for name, value in self.values.items())
        return f"trial {self.number:>3} {self.state:<8} {told or self.reason}  {values}" + (
            f"  ({self.reason})" if told and self.reason else ""
        )


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def study_of(kept: Kept, config: TuningConfig, name: str) -> optuna.Study:
    """The study of that name, made if there is none.

    Raises:
        InputError: if it was begun with another configuration; the number of trials may differ.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    mine = {key: value for key, value in config.to_dict().items() if key != "trials"}
    with kept.claims.alone():
        study = optuna.create_study(
            storage=kept.storage,
            study_name=name,
            direction="maximize" if config.higher_is_better else "minimize",
            pruner=_pruner(config),
            load_if_exists=True,
        )
        theirs = study.user_attrs.get("config")
        if theirs is None:
            study.set_user_attr("config", json.loads(json.dumps(mine)))
            defaults = {key: getattr(config.base, key) for key in config.space}
            # The values of the base come first, so that the search cannot end below them unnoticed.
            if all(config.space[key].holds(value) for key, value in defaults.items()):
                study.enqueue_trial(defaults)
    if theirs is not None:
        _compare(theirs, json.loads(json.dumps(mine)), name)
    return study


def _compare(theirs: dict[str, Any], mine: dict[str, Any], name: str) -> None:
    for section in ("space", "base"):
        theirs, mine = ({**whole, **_flat(section, whole.get(section))} for whole in (theirs, mine))
    for key in sorted(theirs.keys() | mine.keys()):
        if key not in ("space", "base") and theirs.get(key) != mine.get(key):
            raise InputError(
                f"{key} is {mine.get(key)!r}, and study {name!r} was begun with {theirs.get(key)!r}; "
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


def sampler(config: TuningConfig, asked: int) -> optuna.samplers.BaseSampler:
    """The sampler of the trial that comes after `asked` others: the same after a resume as without one."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=config.seed_of(asked), n_startup_trials=6, multivariate=True, constant_liar=True
        )


def suggest(trial: optuna.Trial, searched: Space) -> dict[str, Any]:
    """Values of a trial; those that it has already stay."""
    return {name: _suggest(trial, name, dimension) for name, dimension in searched.items()}


def _suggest(trial: optuna.Trial, name: str, dimension: space.Dimension) -> Any:
    if isinstance(dimension, Choice):
        return trial.suggest_categorical(name, dimension.values)
    if dimension.integer:
        return trial.suggest_int(name, int(dimension.low), int(dimension.high), log=dimension.log)
    return trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log)


def trials_of(study: optuna.Study) -> list[Trial]:
    """All trials, by number."""
    return [_plain(one) for one in study.get_trials(deepcopy=False)]


def _plain(one: optuna.trial.FrozenTrial) -> Trial:
    return Trial(
        number=one.number,
        state={"FAIL": "failed"}.get(one.state.name, one.state.name.lower()),
        values=dict(one.params),
        scores=dict(sorted(one.intermediate_values.items())),
        score=one.value if one.state.name == "COMPLETE" else None,
        error=one.user_attrs.get("error"),
        reason=one.user_attrs.get("reason", ""),
        seconds=one.user_attrs.get("seconds", 0.0),
    )


def best_of(trials: Sequence[Trial], config: TuningConfig) -> Trial | None:
    """The complete trial with the best score; the earliest of equals."""
    complete = [trial for trial in trials if trial.score is not None]
    sign = -1 if config.higher_is_better else 1
    return min(complete, key=lambda trial: (sign * (trial.score or 0.0), trial.number), default=None)


def write_best(folder: Path, config: TuningConfig, best: Trial) -> Path:
    """Write best.yaml, which `rislab train --config` takes; returns its path."""
    path = folder / BEST
    fields = dataclasses.asdict(config.learning(best.number, best.values))
    files.replace(path, yaml.safe_dump(fields, sort_keys=False).encode())
    return path


def trial_folder(folder: Path, number: int) -> Path:
    """Of a trial."""
    return folder / TRIALS / f"{number:04d}"
