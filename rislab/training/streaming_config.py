"""A training on fresh scenes; torch is imported where a network or a batch is made."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

from rislab.config import Config, choice, integer, number, same
from rislab.data.scene_config import SceneConfig, preset
from rislab.errors import InputError
from rislab.model.curriculum import LossWeights, loss_weights_at
from rislab.model.designs import DESIGNS, FORMER_DESIGNS
from rislab.training.config import TrainConfig

if TYPE_CHECKING:
    from rislab.data.scenes import SceneBatch
    from rislab.model.network import CovarianceNet

# Rician factors of the channels; those after the first have a line of sight.
KAPPAS = (0.0, 1.0, 3.0, 10.0)


@dataclass(frozen=True)
class LearningConfig(Config):
    """A training on fresh scenes; head and backbone have one learning rate, and no average of the weights is kept."""

    preset: str = preset("classroom")
    design: str = choice(
        "unrolled",
        DESIGNS,
        "kind of network: unrolled steps of a sparse fit, alone or with a residual network, or one that memorises",
        former=FORMER_DESIGNS,
    )
    scenes: int = integer(4096, 1, 10**7, "fresh scenes in each epoch")
    epochs: int = same(TrainConfig, "epochs", 40)
    validation: int = integer(1024, 1, 10**6, "fixed scenes, scored after each epoch")
    patience: int = integer(0, 0, 10**6, "epochs without a better score that end the training; 0 never ends it early")
    micro_batch: int = same(TrainConfig, "micro_batch", 32)
    accumulation_steps: int = same(TrainConfig, "accumulation_steps")
    precision: str = same(TrainConfig, "precision")
    device: str = same(TrainConfig, "device")
    lr: float = same(TrainConfig, "lr_head", 2e-3, help="peak learning rate")
    separation: float = same(SceneConfig, "separation")
    free_space: float = number(0.0, 0.0, 1.0, "share of the scenes whose powers fall with the square of the range")
    line_of_sight: float = number(0.0, 0.0, 1.0, "share of the scenes with κ = 1, 3 and 10, a third of it each")
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
        """The scenes of the preset, which the network is built for."""
        return SceneConfig.preset(self.preset, separation=self.separation)

    def training(self) -> TrainConfig:
        """The configuration of the loop."""
        micro_batch = min(self.micro_batch, self.drawn)
        steps = self.epochs * math.ceil(self.drawn / (micro_batch * self.accumulation_steps))
        return TrainConfig(**self.shared(TrainConfig)).changed(
            micro_batch=micro_batch,
            lr_head=self.lr,
            lr_backbone=self.lr,
            # A tenth of a short training.
            warmup=min(100, max(1, steps // 10)),
            ema=None,
        )

    def model(self) -> CovarianceNet:
        """A new network, its weights drawn from the seed."""
        from rislab.model.network import CovarianceNet

        return CovarianceNet.build(self.scene_config(), seed=self.seed, design=self.design)

    def draw(self, epoch: int) -> SceneBatch:
        """Scenes of an epoch, counted from 1: a stretch of the training split that no other epoch has."""
        return self.mixed(self.drawn, start=(epoch - 1) * self.scenes)

    def validation_data(self) -> SceneBatch:
        """The fixed scenes of the validation."""
        return self.mixed(self.validation, split="validation")

    def mixed(self, count: int, *, split: str = "train", start: int = 0) -> SceneBatch:
        """Scenes of scene_config() as simulate() draws them, with shares of free-space powers and lines of sight."""
        from rislab.data.scenes import SceneBatch
        from rislab.data.simulation import simulate

        base, done, parts = self.scene_config(), 0.0, []
        for law, share_of_law in (("equal", 1 - self.free_space), ("free-space", self.free_space)):
            for kappa in KAPPAS:
                share = self.line_of_sight / (len(KAPPAS) - 1) if kappa else 1 - self.line_of_sight
                first, done = round(done * count), done + share_of_law * share
                size = round(done * count) - first
                if size:
                    scenes = base.changed(power_law=law, rician_factor=kappa)
                    part = simulate(scenes, size, seed=self.seed, split=split, start=start + first)
                    parts.append(replace(part, config=base))
        return SceneBatch.cat(parts)

    def phase_starts(self) -> list[tuple[int, LossWeights]]:
        """First epoch and loss weights of each phase of the curriculum."""
        by_epoch = (
            (epoch, loss_weights_at(self.curriculum, epoch, self.epochs)) for epoch in range(1, self.epochs + 1)
        )
        return [next(epochs) for _, epochs in groupby(by_epoch, key=itemgetter(1))]
