"""The curriculum: weights of the loss terms, phase by phase of a training."""

from __future__ import annotations

from dataclasses import dataclass

from rislab.errors import check_choice


@dataclass(frozen=True)
class LossWeights:
    """Weights of the loss terms during one phase of training."""

    name: str  # of the phase, as in the log
    nmse: float = 1.0  # of nmse(), ≥ 0
    subspace: float = 0.0  # of subspace_leakage(), ≥ 0
    order: float = 0.0  # of order_error(), ≥ 0
    position: float = 0.0  # of position_error(), ≥ 0

    def by_term(self) -> dict[str, float]:
        """Weight by term name."""
        return {"nmse": self.nmse, "subspace": self.subspace, "order": self.order, "position": self.position}


NO_CURRICULUM = LossWeights("no-curriculum")
# Where first (power moved to its place), then how many, then the covariance itself.
THREE_PHASES = (
    LossWeights("phase=0", nmse=1.0, subspace=0.3, order=0.1, position=1.0),
    LossWeights("phase=1", nmse=1.0, subspace=0.3, order=0.3, position=0.3),
    LossWeights("phase=2", nmse=1.0, subspace=0.05, order=0.05, position=0.05),
)
CURRICULA = ("no-curriculum", "three-phase")


def loss_weights_at(curriculum: str, epoch: int, epochs: int) -> LossWeights:
    """Weights of the phase that an epoch, from 1, belongs to; the three phases share the epochs equally."""
    check_choice("curriculum", curriculum, CURRICULA)
    if curriculum == "no-curriculum":
        return NO_CURRICULUM
    return THREE_PHASES[min(len(THREE_PHASES) * (epoch - 1) // epochs, len(THREE_PHASES) - 1)]
