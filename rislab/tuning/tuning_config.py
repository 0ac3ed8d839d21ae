"""What is searched, and how."""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from rislab.config import Config, choice, integer, part
from rislab.training.streaming_config import LearningConfig
from rislab.tuning.space import DEFAULT_SPACE, Space, check_space, space_from_dict, space_to_dict

# Objective → whether more is better, and what it is called on an axis.
OBJECTIVES = {
    "recall": (True, "recall (share of true sources found)"),
    "peb": (False, "mean position error / PEB (a source not found counts 10)"),
}
PRUNERS = ("halving", "median", "none")


def _short_training() -> LearningConfig:
    return LearningConfig(preset="classroom", scenes=512, epochs=8, validation=256)


@dataclass(frozen=True)
class TuningConfig(Config):
    """What is searched, and how.

    Each trial has a seed of its own, instead of that of the base. After epochs 1, 2, 4, … "halving" (successive
    halving) prunes all but the better half of the trials that came as far; "median" prunes what is below their median.
    `space` names the dimensions by fields of LearningConfig, see rislab.tuning.space.
    """

    base: LearningConfig = part(_short_training, LearningConfig, "everything that is not searched")
    space: Space = field(default_factory=lambda: dict(DEFAULT_SPACE))
    # The seeds of more trials would overlap those of the trainings after the search.
    trials: int = integer(20, 1, 5_000, "in all")
    objective: str = choice("peb", OBJECTIVES, "score of a trial: share of sources, or position error over its bound")
    eval_scenes: int = integer(
        512, 2, 10**6, "fixed validation scenes that score every trial; as many of the test split"
    )
    pruner: str = choice("halving", PRUNERS, "what stops a trial early")
    seed: int = integer(0, 0, 10**9, "of the search, and of the scenes that score")

    def check(self) -> None:
        """Refuse a space that cannot be searched."""
        check_space(self.space, self.base)

    def to_dict(self) -> dict[str, Any]:
        """Plain mapping that from_dict() and YAML take back."""
        return {**super().to_dict(), "space": space_to_dict(self.space)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Build from a plain mapping, as read from YAML; raises InputError for what is not allowed."""
        if isinstance(fields, Mapping) and "space" in fields:
            fields = {**fields, "space": space_from_dict(fields["space"])}
        return super().from_dict(fields)

    def digest(self) -> str:
        """Eight hexadecimal digits of everything but the number of trials: searches that share them are one study."""
        return f"{zlib.crc32(json.dumps(self.identity(), sort_keys=True).encode()):08x}"

    def identity(self) -> dict[str, Any]:
        """Plain mapping of what a study is begun with, and goes on with: everything but the number of trials."""
        return {key: value for key, value in self.to_dict().items() if key != "trials"}

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger score of the objective is better."""
        return OBJECTIVES[self.objective][0]

    def cost(self, score: float) -> float:
        """A score as what is to be made small, whichever way the objective counts."""
        return -score if self.higher_is_better else score

    def trial_config(self, number: int, values: dict[str, Any]) -> LearningConfig:
        """The training of a trial: the base with these values and a seed of its own."""
        return dataclasses.replace(self.base, **values, seed=self.seed_of(number))

    def seed_of(self, number: int) -> int:
        """Of trial `number`; no two trials share one, and none has that of the evaluations."""
        return 10_000 * (self.seed + 1) + number

    def rerun_seeds(self, count: int, skip: int = 0) -> tuple[int, ...]:
        """Seeds of trainings after the search, which no trial has."""
        return tuple(5_000 + self.seed_of(skip + number) for number in range(count))
