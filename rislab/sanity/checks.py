"""What a check of the lab returns, and the one window of the loop that several of them look at."""

from __future__ import annotations

from torch import nn

from rislab.data.scenes import SceneBatch
from rislab.training.config import TrainConfig
from rislab.training.loop import fit
from rislab.training.records import StepRecord


def one_window(model: nn.Module, data: SceneBatch, config: TrainConfig) -> StepRecord:
    """Run the loop for one window; its gradient is left on the parameters, raw if the config does not clip."""
    stream = fit(model, data, config)
    record = next(stream)
    stream.close()
    assert isinstance(record, StepRecord)
    return record
