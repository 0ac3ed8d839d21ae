"""Training on fresh scenes: each epoch draws its own, and no scene comes twice.

The loop is fit(), as everywhere. Each epoch has its own part of the training split. The score is the NMSE on a fixed
validation set, which depends on no phase and no weight of the loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path

from torch import nn

from rislab.training import run_folder
from rislab.training.loop import fit
from rislab.training.records import EpochRecord, Record, epoch_records
from rislab.training.state import TrainState
from rislab.training.streaming_config import LearningConfig


def train_streaming(
    folder: Path | str,
    config: LearningConfig,
    model: nn.Module | None = None,
    *,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
) -> Generator[Record]:
    """Train on fresh scenes in a run folder, and go on where it was stopped.

    Args:
        folder: of the run, see run_folder.train().
        config: see LearningConfig.
        model: trained in place; a new one if None.
        on_epoch: called after each epoch before its record is written, so that it was called for every recorded epoch
            however the run ended; called again for an epoch that is trained again.

    Yields:
        Records from where the run goes on.

    Raises:
        InputError: see run_folder.train().
    """
    model, training = model or config.model(), config.training()
    validation = config.validation_data()
    config_yaml = {
        "train": training.to_dict(),
        "scenes": config.scene_config().to_dict(),
        "design": config.design,
        "count": config.drawn,
        "digest": "fresh scenes in each epoch",
        "validation": len(validation),
        "validation_digest": validation.projections(),
    }

    def make_stream(state: TrainState) -> Generator[Record]:
        path = Path(folder) / run_folder.RECORDS
        earlier = epoch_records(run_folder.read_records(folder)) if path.exists() else []
        for record in train_epochs(config, model, state, earlier):
            if isinstance(record, EpochRecord):
                on_epoch(record)
            yield record

    yield from run_folder.run_with_checkpoints(
        folder, model, config.drawn, training, config_yaml, make_stream, checkpoint_seconds=30.0
    )


def train_epochs(
    config: LearningConfig, model: nn.Module, state: TrainState | None = None, earlier: Sequence[EpochRecord] = ()
) -> Generator[Record]:
    """train_streaming() without a run folder: epochs of fit(), each on scenes of its own.

    Args:
        config: see LearningConfig.
        model: trained in place.
        state: to go on from, advanced in place; None begins.
        earlier: records of the epochs before it, for the patience.
    """
    training, validation = config.training(), config.validation_data()
    state = state or TrainState.begin(model, config.drawn, training)
    scores = [record.validation for record in earlier if record.validation is not None]
    while state.progress.epoch <= training.epochs and not is_exhausted(scores, config.patience):
        with closing(
            fit(model, config.draw(state.progress.epoch), training, validation=validation, resume=state)
        ) as epoch:
            for record in epoch:
                yield record
                if isinstance(record, EpochRecord):
                    scores += [] if record.validation is None else [record.validation]
                    break


def is_exhausted(scores: Sequence[float], patience: int) -> bool:
    """Whether none of the last `patience` scores is better than the best one before them; NaN is never better."""
    known = [math.inf if math.isnan(score) else score for score in scores]
    return 0 < patience < len(scores) and min(known[-patience:]) >= min(known[:-patience])
