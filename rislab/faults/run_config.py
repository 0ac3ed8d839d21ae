"""How a fault is trained beside the correct loop: the configuration, which needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from rislab.config import Config, integer, same
from rislab.training.config import TrainConfig

# Learning rates of the head at which the correct loop learns the set within a dozen epochs.
RATES = {"adam": 5e-3, "sgd": 0.3}
EPOCHS = 4


@dataclass(frozen=True)
class FaultRunConfig(Config):
    """How a fault is trained beside the correct loop."""

    optimiser: str | None = same(
        TrainConfig, "optimiser", None, choices=tuple(RATES), optional=True,
        help="of the run; if not given, the one in which the fault shows, else adam",
    )  # fmt: skip
    epochs: int = integer(EPOCHS, 1, 10_000, "passes over 84 scenes, in three windows each")
    quiz_key: int | None = same(
        TrainConfig, "seed", None, optional=True, help="list the answers of the quiz of this seed"
    )
