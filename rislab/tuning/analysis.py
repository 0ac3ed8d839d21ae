"""What may be concluded from a search: which dimensions had an effect, and whether the best is best again."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rislab.errors import with_error
from rislab.training.streaming import train_epochs
from rislab.training.streaming_config import LearningConfig
from rislab.tuning.space import Choice, Dimension, Space
from rislab.tuning.study import Trial, ranked_trials
from rislab.tuning.tuning_config import TuningConfig

TOP = 3
SHUFFLES = 2000
CHANCE = 0.05  # largest p at which a gain is called one
FEWEST_SEEDS = 5  # n seeds give p ≥ 1/2ⁿ
FEWEST = 8  # trials of which effects are computed
# Dimensions that set the length of a training: a short one cannot show their effect.
LENGTHS = {"scenes", "epochs", "patience"}


@dataclass(frozen=True)
class Rerun:
    """A configuration trained again, and its scores."""

    name: str  # "default", "best", or "trial N" in the run-off
    seed: int  # of the training
    recall: float  # see objective.Scores
    peb: float  # see objective.Scores


def top_trials(trials: Sequence[Trial], config: TuningConfig) -> list[Trial]:
    """The complete trials with the best scores, best first, TOP at most."""
    return ranked_trials(trials, config)[:TOP]


def best_rerun(top: Sequence[Trial], runoff: Sequence[Rerun], config: TuningConfig) -> Trial:
    """The trial with the best mean over the run-off; the scores that chose the top trials do not count."""
    means = mean_scores(runoff, config.objective)
    return min(top, key=lambda trial: config.cost(means[f"trial {trial.number}"][0]))


def mean_scores(reruns: Sequence[Rerun], objective: str) -> dict[str, tuple[float, float]]:
    """Mean and spread (standard deviation over seeds) of an objective by name."""
    scores: dict[str, list[float]] = {}
    for rerun in reruns:
        scores.setdefault(rerun.name, []).append(getattr(rerun, objective))
    return {
        name: (float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0)
        for name, values in scores.items()
    }


def beats_default(reruns: Sequence[Rerun], config: TuningConfig) -> bool:
    """Whether the mean of "best" is better than that of "default"."""
    means = mean_scores(reruns, config.objective)
    return config.cost(means["best"][0]) < config.cost(means["default"][0])


def verdict(reruns: Sequence[Rerun], config: TuningConfig) -> str:
    """Best against default on the test split, in one line: "better" only beyond chance.

    Of one seed each no spread is known, and none is stated.
    """
    seeds = len(reruns) // 2
    means = {
        name: with_error(mean, spread) if seeds > 1 else f"{mean:.4f}"
        for name, (mean, spread) in mean_scores(reruns, config.objective).items()
    }
    each = f"{seeds} seeds each" if seeds > 1 else "one seed each"
    return (
        f"{config.objective} on the test split, {each}: best {means['best']} against default {means['default']}: "
        f"{_beyond_chance(reruns, config)}"
    )


def chance_of_gain(reruns: Sequence[Rerun], config: TuningConfig) -> float:
    """p of the paired permutation test: how often random signs give as large a gain over the same seeds.

    All sign flips of up to 12 seeds are counted; of more, SHUFFLES random ones. n seeds give 1/2ⁿ at best.
    """
    costs = {(one.name, one.seed): config.cost(getattr(one, config.objective)) for one in reruns}
    seeds = [seed for name, seed in costs if name == "best" and ("default", seed) in costs]
    gains = np.array([costs["default", seed] - costs["best", seed] for seed in seeds])
    if len(gains) <= 12:
        flips = np.array([*itertools.product((1.0, -1.0), repeat=len(gains))])
    else:
        drawn = np.random.default_rng(0).choice((1.0, -1.0), (SHUFFLES, len(gains)))
        flips = np.concatenate([np.ones((1, len(gains))), drawn])
    return float(np.mean(flips @ gains >= gains.sum() - 1e-12 * np.abs(gains).sum()))


def _beyond_chance(reruns: Sequence[Rerun], config: TuningConfig) -> str:
    """ "better" only where the test says so, with its name and p."""
    seeds = len(reruns) // 2
    if seeds < FEWEST_SEEDS:
        return f"not tested (a paired permutation test needs {FEWEST_SEEDS} seeds to reach p ≤ {CHANCE:g})"
    p = chance_of_gain(reruns, config)
    word = "better" if p <= CHANCE else "not better beyond chance"
    return f"{word} (paired permutation test over {seeds} seeds, p = {p:.2g})"


@dataclass(frozen=True)
class Effect:
    """How much of the order of the trials one dimension explains.

    Args:
        share: R² of the ranks on the dimension (a parabola of a range, the means of choices), 0…1.
        chance: what nineteen of twenty shuffles of its values stay below.
        trials: how many were ranked.
    """

    share: float
    chance: float
    trials: int


def effects(trials: Sequence[Trial], config: TuningConfig) -> dict[str, Effect]:
    """The effect of each dimension, the largest first; empty for fewer than FEWEST trials.

    Trials are ranked as the pruner ranks them: first those that were trained longest, among them by score. Values that
    the search preferred are not drawn at random, so this is a description of these trials, not an estimate for others.

    Args:
        trials: of a search, whatever their state.
        config: of that search.
    """
    ranked = [trial for trial in trials if trial.state in ("complete", "pruned") and trial.scores]
    if len(ranked) < FEWEST:
        return {}
    order = sorted(ranked, key=lambda trial: (-trial.epochs, config.cost(trial.last_score)))
    ranks = np.arange(len(order), dtype=np.float64)
    random = np.random.default_rng(0)
    result = {}
    for name, dimension in config.space.items():
        design = _design(dimension, [trial.values[name] for trial in order])
        shuffled = [_explained(design, random.permutation(ranks)) for _ in range(SHUFFLES)]
        result[name] = Effect(_explained(design, ranks), float(np.quantile(shuffled, 0.95)), len(order))
    return dict(sorted(result.items(), key=lambda item: -item[1].share))


def _design(dimension: Dimension, values: Sequence[Any]) -> NDArray[np.float64]:
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


def search_warnings(trials: Sequence[Trial], config: TuningConfig) -> tuple[str, ...]:
    """Sentences about a search: an objective that tells no trials apart, dimensions without an effect beyond chance."""
    warnings = []
    ended = [trial for trial in trials if trial.state in ("complete", "pruned") and trial.scores]
    by_epoch: dict[int, list[float]] = {}
    for trial in ended:
        for epoch, score in trial.scores.items():
            by_epoch.setdefault(epoch, []).append(score)
    if len(ended) > 1:
        spread = max(max(scores) - min(scores) for scores in by_epoch.values())
        noise = 2 * float(np.median([trial.error or 0.0 for trial in ended]))
        if spread <= noise:
            warnings.append(
                f"the objective is flat: after each epoch the {len(ended)} trials differ by {spread:.2g} in "
                f"{config.objective} at most, and two standard errors of a score on {config.eval_scenes} scenes are "
                f"{noise:.2g}; on other scenes the trials may come in another order"
            )
    for name, effect in effects(trials, config).items():
        if effect.share <= effect.chance:
            warnings.append(
                f"{name} has no effect beyond chance: it explains {effect.share:.0%} of the order of "
                f"{effect.trials} trials, and shuffled values up to {effect.chance:.0%}"
            )
    return tuple(warnings)


def inert_dimensions(base: LearningConfig, space: Space) -> tuple[str, ...]:
    """Sentences about dimensions that leave every weight of a short training as it is, bit by bit.

    Args:
        base: what is not searched.
        space: each dimension is tried at its ends, all else at the base.

    Returns:
        One sentence for each such dimension; none if all reach the training.
    """
    micro_batch = min(base.micro_batch, 16)
    short = dataclasses.replace(base, epochs=3, validation=4, micro_batch=micro_batch, patience=0, device="cpu")
    sentences = []
    for name in space.keys() - LENGTHS:
        values = space[name].ends
        each = [dataclasses.replace(short, **{name: value}) for value in values]
        # At least two windows of the largest size.
        scenes = max(2 * micro_batch, *(2 * one.micro_batch * one.accumulation_steps for one in each))
        first, *others = [dataclasses.replace(one, scenes=scenes) for one in each]
        weights = _trained_weights(first)
        if all(torch.equal(weights, _trained_weights(other)) for other in others):
            tried = ", ".join(str(value) for value in values)
            sentences.append(f"{name} does not reach the training: weights are bit-identical at {tried}")
    return tuple(sorted(sentences))


def _trained_weights(config: LearningConfig) -> torch.Tensor:
    model = config.model()
    for _ in train_epochs(config, model):
        pass
    return torch.cat([value.detach().flatten().double() for value in model.parameters()])
