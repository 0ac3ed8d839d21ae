"""Training on fresh scenes: each epoch draws its own, and no scene comes twice.

The loop is fit(), as everywhere; an epoch is a stretch of the training split of its own, and the score that decides is
the NMSE on a fixed validation set, which depends on no phase and no weight of the loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from torch import nn

from rislab.config import Config, choice, declarations, integer, same
from rislab.data.scenes import SceneBatch, SceneConfig, preset
from rislab.data.simulation import simulate
from rislab.errors import InputError
from rislab.model.losses import LossWeights, loss_weights_at
from rislab.model.network import DESIGNS, CovarianceNet
from rislab.training import run_folder
from rislab.training.config import TrainConfig
from rislab.training.loop import fit
from rislab.training.records import EpochRecord, Record, epoch_records
from rislab.training.state import TrainState


@dataclass(frozen=True)
class LearningConfig(Config):
    """A training on fresh scenes; head and backbone have one learning rate, and no average of the weights is kept."""

    preset: str = preset("full")
    design: str = choice("unrolled", DESIGNS, "kind of network, see CovarianceNet.build()")
    scenes: int = integer(4096, 1, 10**7, "fresh scenes in each epoch")
    epochs: int = same(TrainConfig, "epochs", 40)
    validation: int = integer(1024, 1, 10**6, "fixed scenes, scored after each epoch")
    patience: int = integer(0, 0, 10**6, "epochs without a better score that end the training; 0 never ends it early")
    micro_batch: int = same(TrainConfig, "micro_batch", 32)
    accumulation_steps: int = same(TrainConfig, "accumulation_steps")
    precision: str = same(TrainConfig, "precision")
    device: str = same(TrainConfig, "device")
    lr: float = same(TrainConfig, "lr_head", 2e-3, help="peak learning rate")
    curriculum: str = same(TrainConfig, "curriculum")
    blend: float = same(TrainConfig, "blend")
    seed: int = same(TrainConfig, "seed", 7, help="of scenes, weights and order; not 2024, that of the evaluations")

    EVALUATION = 2024

    def check(self) -> None:
        """Refuse the seed of the evaluations, and what the loop refuses."""
        if self.seed == self.EVALUATION:
            raise InputError(f"seed is {self.seed}, that of the evaluations; allowed: any other")
        self.training()

    @property
    def drawn(self) -> int:
        """Number of scenes that draw() returns."""
        return self.scenes

    def scene_config(self) -> SceneConfig:
        """The preset's scenes."""
        return SceneConfig.preset(self.preset)

    def training(self) -> TrainConfig:
        """The configuration of the loop."""
        shared = {name: value for name, value in vars(self).items() if name in declarations(TrainConfig)}
        micro_batch = min(self.micro_batch, self.drawn)
        steps = self.epochs * math.ceil(self.drawn / (micro_batch * self.accumulation_steps))
        return TrainConfig(**shared).changed(
            micro_batch=micro_batch,
            lr_head=self.lr,
            lr_backbone=self.lr,
            # A tenth of a short training.
            warmup=min(100, max(1, steps // 10)),
            ema=None,
        )

    def model(self) -> CovarianceNet:
        """A new network, its weights drawn from the seed."""
        return CovarianceNet.build(self.scene_config(), seed=self.seed, design=self.design)

    def draw(self, epoch: int) -> SceneBatch:
        """Scenes of an epoch, counted from 1: a stretch of the training split that no other epoch has."""
        return simulate(self.scene_config(), self.drawn, seed=self.seed, start=(epoch - 1) * self.scenes)

    def validation_data(self) -> SceneBatch:
        """The fixed scenes of the validation."""
        return simulate(self.scene_config(), self.validation, seed=self.seed, split="validation")

    def phase_starts(self) -> list[tuple[int, LossWeights]]:
        """First epoch and loss weights of each phase of the curriculum."""
        by_epoch = (
            (epoch, loss_weights_at(self.curriculum, epoch, self.epochs)) for epoch in range(1, self.epochs + 1)
        )
        return [next(epochs) for _, epochs in groupby(by_epoch, key=itemgetter(1))]


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
        on_epoch: called after each epoch before its record is written, so that no epoch that counts as done was left
            out, however the run ended; called again for an epoch that is trained again.

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
        "validation_digest": validation.fingerprint(),
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

    Yields:
        The records of fit(), epoch by epoch.
    """
    training, validation = config.training(), config.validation_data()
    state = state or TrainState.begin(model, config.drawn, training)
    scores = [record.validation for record in earlier if record.validation is not None]
    while state.progress.epoch <= training.epochs and not _exhausted(scores, config.patience):
        with closing(
            fit(model, config.draw(state.progress.epoch), training, validation=validation, resume=state)
        ) as epoch:
            for record in epoch:
                yield record
                if isinstance(record, EpochRecord):
                    scores += [] if record.validation is None else [record.validation]
                    break


def _exhausted(scores: list[float], patience: int) -> bool:
    """Whether none of the last `patience` scores is better than the best one before them."""
    return 0 < patience < len(scores) and min(scores[-patience:]) >= min(scores[:-patience])
