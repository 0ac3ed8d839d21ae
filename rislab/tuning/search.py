"""Hyper-parameter search on a loop that was checked first: the ladder, the trials, and the winner trained again.

Every trial is judged by how well it localises on the same fixed scenes, a score that no searched value can change but
by training better.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from rislab import files, provenance
from rislab.errors import InputError, check_number
from rislab.sanity import overfit
from rislab.sanity.overfit import CheckResult, OverfitConfig
from rislab.training.streaming import LearningConfig, train_epochs
from rislab.tuning import space
from rislab.tuning.objective import OBJECTIVES
from rislab.tuning.space import Choice, Space
from rislab.tuning.storage import Kept, opened
from rislab.tuning.study import Trial, TuningConfig, best_of, study_of, trials_of, write_best
from rislab.tuning.worker import Task

if TYPE_CHECKING:
    import optuna

RECORD, RUNOFF, CONFIRM = "study.yaml", "runoff", "confirm"
LEADERS = 3
POLL_SECONDS = 0.3
# Time for a worker to come to a step boundary.
PATIENCE_SECONDS = 20.0
# Steering vectors alone cannot learn a scene by heart; with the memoriser in "unrolled+residual" a network can.
CLIMBS = {"unrolled": "unrolled+residual"}
SHUFFLES = 2000
FEWEST = 8  # trials from which an effect is told
# They say how long a training is, which a short one cannot show.
LENGTHS = {"scenes", "epochs", "patience"}


@dataclass(frozen=True)
class Rerun:
    """A configuration trained again, and judged.

    Args:
        name: "default", "best", or "trial N" in the run-off. seed: of the training. recall, peb: see judge.Judgement.
    """

    name: str
    seed: int
    recall: float
    peb: float


@dataclass(frozen=True)
class Progress:
    """Where a search stands.

    Args:
        stage: "ladder", "search", "runoff", "confirm" or "done". ladder: what the record says of it.
        trials: all so far. best: the best complete one, or None; after the run-off, its winner.
        runoff: the leading trials trained again, judged on the scenes of the search. finals: see Final.
        seconds: since this call. left: estimated seconds to the end of the trials, None while none has ended.
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
        """Number of trials that are neither waiting nor running."""
        return sum(trial.ended for trial in self.trials)


def search(
    folder: Path | str,
    config: TuningConfig | None = None,
    *,
    storage: str = "",
    name: str = "tuning",
    workers: int | None = None,
    skip_ladder: bool = False,
    confirm: int = 3,
) -> Generator[Progress]:
    """Search, in worker processes of one thread each, and go on where an earlier search of this folder stopped.

    Closing the generator stops the workers at a step boundary; trials in work are gone on with by the next search.

    Args:
        folder: of the study: journal, runs of the trials, study.yaml, best.yaml. config: see TuningConfig.
        storage: URL of a PostgreSQL database instead of the journal, for searches of one name on many machines.
        name: of the study in it. workers: processes, ≥ 1; one a core if None.
        skip_ladder: do not climb it, and say so in the record.
        confirm: seeds with which the leading trials run off on the scenes of the search, since the best of many is the
            best by luck too; then the winner and the default are trained with as many other seeds, and judged on a
            third split. 0 does neither.

    Yields:
        Progress, whenever something has changed.

    Raises:
        InputError: a red check of the ladder, values out of range, a storage that cannot be used, a study of another
            configuration, a worker that could not go on, or a search in which no trial ended.
    """
    config = config or TuningConfig()
    workers = provenance.cores() if workers is None else workers
    check_number("workers", workers, 1, 1024, integer=True)
    check_number("confirm", confirm, 0, 100, integer=True)
    folder, began = Path(folder), time.monotonic()
    files.check_writable(folder)
    files.check_writable(folder / "claims")
    kept = opened(folder, storage, name)
    study = study_of(kept, config, name)
    ladder: dict[str, Any] = {}
    for ladder in _ladder(config, study.user_attrs.get("ladder", {}), skip_ladder):
        yield Progress("ladder", ladder, seconds=time.monotonic() - began)
    study.set_user_attr("ladder", ladder)
    inert = _inert(config, study)
    _record(folder, config, kept, name, ladder, inert)
    task = Task(str(folder), config.to_dict(), storage, name)
    told = Progress("search", ladder, warnings=inert)
    if sum(trial.ended for trial in trials_of(study)) < config.trials:
        for _ in _working(task, min(workers, config.trials)):
            fresh = _progress(study, config, ladder, began, workers, inert)
            if fresh.trials != told.trials:
                if fresh.best is not None and (told.best is None or fresh.best.number != told.best.number):
                    write_best(folder, config, fresh.best)
                told = fresh
                yield told
    told = _progress(study, config, ladder, began, workers, inert)
    best = told.best
    if best is None:
        reasons = sorted({trial.reason for trial in told.trials if trial.reason})
        raise InputError(f"no trial of {len(told.trials)} ended with a score: {'; '.join(reasons)[:300]}")
    write_best(folder, config, best)
    told = dataclasses.replace(told, stage="runoff", left=0.0, warnings=(*inert, *warnings_of(told.trials, config)))
    yield told
    if confirm:
        leading = top_trials(told.trials, config)
        named = {f"trial {trial.number}": config.learning(trial.number, trial.values) for trial in leading}
        place = folder / RUNOFF
        for found in _again(task, place, named, config.again(confirm), workers):
            told = dataclasses.replace(told, runoff=found, seconds=time.monotonic() - began)
            yield told
        best = best_rerun(leading, told.runoff, config)
        write_best(folder, config, best)
        told = dataclasses.replace(told, stage="confirm", best=best)
        named = {"default": config.base, "best": config.learning(best.number, best.values)}
        # Of a search that went on and found another best, the earlier finals are no longer those of the best.
        place = folder / CONFIRM / str(best.number)
        for found in _again(task, place, named, config.again(confirm, skip=confirm), workers, split="test"):
            told = dataclasses.replace(told, finals=found, seconds=time.monotonic() - began)
            yield told
    yield dataclasses.replace(told, stage="done", seconds=time.monotonic() - began)


def top_trials(trials: Sequence[Trial], config: TuningConfig) -> list[Trial]:
    """The complete trials with the best scores, best first, LEADERS at most."""
    left = list(trials)
    found: list[Trial] = []
    while len(found) < LEADERS and (best := best_of(left, config)) is not None:
        found.append(best)
        left.remove(best)
    return found


def best_rerun(leading: Sequence[Trial], runoff: Sequence[Rerun], config: TuningConfig) -> Trial:
    """The leader with the best mean over the run-off; the score that made it a leader is chosen, and does not count."""
    means = comparison(runoff, config.objective)
    sign = -1 if config.higher_is_better else 1
    return min(leading, key=lambda trial: sign * means[f"trial {trial.number}"][0])


def _again(
    task: Task,
    place: Path,
    named: dict[str, LearningConfig],
    seeds: tuple[int, ...],
    workers: int,
    split: str = "validation",
) -> Generator[tuple[Rerun, ...]]:
    """Train configurations again; yields the finals so far whenever there are more."""
    finals = {name: dataclasses.asdict(each) for name, each in named.items()}
    known: tuple[Rerun, ...] = ()
    again = dataclasses.replace(task, folder=str(place), finals=finals, seeds=seeds, split=split)
    for _ in _working(again, min(workers, len(finals) * len(seeds))):
        found = tuple(one for one in _finals(place) if one.name in named and one.seed in seeds)
        if found != known:
            known = found
            yield known


def read(folder: Path | str, *, storage: str = "", name: str = "tuning") -> tuple[TuningConfig, list[Trial]]:
    """A study as it stands, without searching.

    Raises:
        InputError: for a folder that holds none.
    """
    import optuna

    if not storage and not (Path(folder) / RECORD).exists():
        raise InputError(f"{folder} holds no study; allowed: the folder of a search")
    kept = opened(Path(folder), storage, name)
    try:
        study = optuna.load_study(study_name=name, storage=kept.storage)
    except KeyError:
        raise InputError(f"{kept.name} holds no study {name!r}; allowed: one that was begun") from None
    trials = trials_of(study)
    return TuningConfig.from_dict({**study.user_attrs["config"], "trials": max(1, len(trials))}), trials


def comparison(finals: Sequence[Rerun], objective: str) -> dict[str, tuple[float, float]]:
    """Mean and spread (standard deviation over seeds) of an objective by name."""
    scores: dict[str, list[float]] = {}
    for final in finals:
        scores.setdefault(final.name, []).append(getattr(final, objective))
    return {
        name: (float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0)
        for name, values in scores.items()
    }


def beats(finals: Sequence[Rerun], config: TuningConfig) -> bool:
    """Whether the mean of "best" is better than that of "default"."""
    means = comparison(finals, config.objective)
    sign = 1 if config.higher_is_better else -1
    return sign * means["best"][0] > sign * means["default"][0]


def verdict(finals: Sequence[Rerun], config: TuningConfig) -> str:
    """Best against default on the test split, in one line; of one seed each no spread is known, and none is said."""
    found, seeds = comparison(finals, config.objective), len(finals) // 2
    means = {name: f"{mean:.4f}{f' ± {spread:.4f}' if seeds > 1 else ''}" for name, (mean, spread) in found.items()}
    word = "better" if beats(finals, config) else "not better"
    each = f"{seeds} seeds each" if seeds > 1 else "one seed each"
    return (
        f"{config.objective} on the test split, {each}: best {means['best']} against default {means['default']}: {word}"
    )


# ----------------------------------------------------------------------------------------------------------- the ladder


def _ladder(config: TuningConfig, known: dict[str, Any], skip: bool) -> Generator[dict[str, Any]]:
    """What the record says of the ladder, check by check; raises InputError at a red one."""
    if known.get("passed") or skip:
        yield known if known.get("passed") else {"skipped": True, "passed": False, "checks": []}
        return
    design = CLIMBS.get(config.base.design, config.base.design)
    climbed = OverfitConfig(
        preset=config.base.preset, design=design, precision=config.base.precision, device=config.base.device
    )
    checks: list[CheckResult] = []
    told: dict[str, Any] = {"skipped": False, "passed": False, "design": design, "checks": []}
    yield told
    for check in overfit.ladder(climbed):
        checks.append(check)
        told = {**told, "checks": [one.line() for one in checks]}
        yield told
    red = [check.name for check in checks if not check.passed]
    if red:
        raise InputError(
            f"check {red[0]!r} of the overfit ladder is red, so no search is begun: a search would tune what does not "
            "train; allowed: a loop that climbs it, or --skip-ladder"
        )
    yield {**told, "passed": True}


# ---------------------------------------------------------------------------------------------------------- the workers


def _working(task: Task, count: int) -> Generator[None]:
    """Keep workers at a task; yields again and again until all have ended, and stops them when closed."""
    line = json.dumps(dataclasses.asdict(task)) + "\n"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+") as said:
        running = []
        for _ in range(count):
            worker = subprocess.Popen(
                [sys.executable, "-m", "rislab.tuning.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=said,
                text=True,
                env=environment,
            )
            assert worker.stdin is not None
            worker.stdin.write(line)
            worker.stdin.flush()
            running.append(worker)
        try:
            while any(worker.poll() is None for worker in running):
                yield
                time.sleep(POLL_SECONDS)
        finally:
            _end(running)
        yield
        said.seek(0)
        lines = [text for text in said.read().splitlines() if text.strip()]
    codes = [worker.returncode for worker in running]
    if all(codes):
        killed = f"all workers were ended by signal {-codes[0]}; the same command goes on" if codes[0] < 0 else ""
        raise InputError(lines[-1] if lines and not killed else killed or f"a worker ended with code {codes[0]}")


def _end(workers: Iterable[subprocess.Popen[str]]) -> None:
    for worker in workers:
        if worker.stdin is not None:
            worker.stdin.close()
    for worker in workers:
        try:
            worker.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            # As safe as any other kill.
            worker.kill()
            worker.wait()


def _progress(
    study: optuna.Study,
    config: TuningConfig,
    ladder: dict[str, Any],
    began: float,
    workers: int,
    inert: tuple[str, ...],
) -> Progress:
    trials = tuple(trials_of(study))
    seconds = [trial.seconds for trial in trials if trial.seconds]
    left = None
    if seconds:
        ended = sum(trial.ended for trial in trials)
        left = float(np.mean(seconds)) * max(config.trials - ended, 0) / workers
    elapsed = time.monotonic() - began
    best = best_of(trials, config)
    return Progress("search", ladder, trials, best, seconds=elapsed, left=left, warnings=inert)


def _finals(place: Path) -> tuple[Rerun, ...]:
    scores = [json.loads(path.read_text()) for path in sorted(place.glob("*/score.json"))]
    return tuple(Rerun(one["name"], one["seed"], one["recall"], one["peb"]) for one in scores)


# ----------------------------------------------------------------------------------------------------- what it is worth


def warnings_of(trials: Sequence[Trial], config: TuningConfig) -> tuple[str, ...]:
    """Sentences about a search: an objective that tells no trials apart, dimensions whose effect is not seen."""
    said = []
    ended = [trial for trial in trials if trial.state in ("complete", "pruned") and trial.scores]
    by_epoch: dict[int, list[float]] = {}
    for trial in ended:
        for epoch, score in trial.scores.items():
            by_epoch.setdefault(epoch, []).append(score)
    if len(ended) > 1:
        reach = max(max(scores) - min(scores) for scores in by_epoch.values())
        noise = 2 * float(np.median([trial.error or 0.0 for trial in ended]))
        if reach <= noise:
            said.append(
                f"the objective is flat: after no epoch do {len(ended)} trials differ by more than {reach:.2g} in "
                f"{config.objective}, and two standard errors on {config.judged} scenes are {noise:.2g}"
            )
    for name, effect in effects(trials, config).items():
        if effect.share <= effect.chance:
            said.append(
                f"{name} has no effect beyond chance: it explains {effect.share:.0%} of the order of "
                f"{effect.trials} trials, and shuffled values up to {effect.chance:.0%}"
            )
    return tuple(said)


@dataclass(frozen=True)
class Effect:
    """How much of the order of the trials one dimension explains.

    Args:
        share: R² of the ranks on the dimension (a parabola of a range, the means of choices), 0…1.
        chance: what nineteen of twenty shuffles of its values stay below. trials: how many were ranked.
    """

    share: float
    chance: float
    trials: int


def effects(trials: Sequence[Trial], config: TuningConfig) -> dict[str, Effect]:
    """The effect of each dimension, most first; nothing for fewer than FEWEST trials.

    Trials are ranked as the pruner saw them: first those that were trained longest, among them by score. Values that
    the search preferred are not drawn at random, so this is a description of these trials, not an estimate for others.
    """
    ranked = [trial for trial in trials if trial.state in ("complete", "pruned") and trial.scores]
    if len(ranked) < FEWEST:
        return {}
    sign = -1 if config.higher_is_better else 1
    order = sorted(ranked, key=lambda trial: (-trial.epochs, sign * trial.scores[max(trial.scores)]))
    ranks = np.arange(len(order), dtype=np.float64)
    chance = np.random.default_rng(0)
    found = {}
    for name, dimension in config.space.items():
        design = _design(dimension, [trial.values[name] for trial in order])
        shuffled = [_explained(design, chance.permutation(ranks)) for _ in range(SHUFFLES)]
        found[name] = Effect(_explained(design, ranks), float(np.quantile(shuffled, 0.95)), len(order))
    return dict(sorted(found.items(), key=lambda item: -item[1].share))


def _design(dimension: space.Dimension, values: Sequence[Any]) -> NDArray[np.float64]:
    """Orthonormal columns [n, c] that a dimension's values span, without the constant."""
    if isinstance(dimension, Choice):
        columns = np.array([[value == choice for choice in dimension.values] for value in values], dtype=np.float64)
    else:
        places = np.array([dimension.place(value) for value in values])
        columns = np.stack([places, places**2], axis=1)
    left, sizes, _ = np.linalg.svd(columns - columns.mean(axis=0), full_matrices=False)
    return left[:, sizes > 1e-9]


def _explained(design: NDArray[np.float64], ranks: NDArray[np.float64]) -> float:
    centred = ranks - ranks.mean()
    return float(np.square(design.T @ centred).sum() / np.square(centred).sum())


def _inert(config: TuningConfig, study: optuna.Study) -> tuple[str, ...]:
    """Dimensions that do not reach the training at all; measured once for a study."""
    known = study.user_attrs.get("inert")
    if known is None:
        known = list(inert(config.base, config.space))
        study.set_user_attr("inert", known)
    return tuple(known)


def inert(base: LearningConfig, searched: Space) -> tuple[str, ...]:
    """Sentences about dimensions that leave every weight of a short training as it is, bit by bit.

    Args:
        base: what is not searched. searched: each dimension is tried at its ends, all else at the base.
    """
    micro_batch = min(base.micro_batch, 16)
    short = dataclasses.replace(base, epochs=3, validation=4, micro_batch=micro_batch, patience=0, device="cpu")
    sentences = []
    for name in searched.keys() - LENGTHS:
        values = searched[name].ends
        each = [dataclasses.replace(short, **{name: value}) for value in values]
        # So many that the largest window is not the only one.
        scenes = max(2 * micro_batch, *(2 * one.micro_batch * one.accumulation_steps for one in each))
        first, *others = [dataclasses.replace(one, scenes=scenes) for one in each]
        weights = _weights(first)
        if all(torch.equal(weights, _weights(other)) for other in others):
            tried = ", ".join(str(value) for value in values)
            sentences.append(f"{name} does not reach the training: weights are bit-identical at {tried}")
    return tuple(sorted(sentences))


def _weights(config: LearningConfig) -> torch.Tensor:
    model = config.model()
    for _ in train_epochs(config, model):
        pass
    return torch.cat([value.detach().flatten().double() for value in model.parameters()])


# ----------------------------------------------------------------------------------------------------------- the record


def _record(
    folder: Path, config: TuningConfig, kept: Kept, name: str, ladder: dict[str, Any], inert: tuple[str, ...]
) -> None:
    """Write study.yaml: what is searched, and on what it was begun."""
    content = {
        "study": name,
        "storage": kept.name,
        "tuning": config.to_dict(),
        "objective": OBJECTIVES[config.objective][1],
        "ladder": ladder,
        "does not reach the training": list(inert),
        "versions": provenance.versions(("rislab", "torch", "optuna")),
        "commit": provenance.commit(),
        "machine": provenance.processor(),
    }
    files.replace(folder / RECORD, yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode())
