"""What the overfit ladder trains; torch is imported where a network or a batch is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rislab.config import Config, choice, integer, same
from rislab.data.scene_config import SceneConfig, preset
from rislab.errors import check_number
from rislab.model.designs import DESIGNS, FORMER_DESIGNS
from rislab.training.config import TrainConfig

if TYPE_CHECKING:
    from rislab.data.scenes import SceneBatch
    from rislab.model.network import CovarianceNet

BATCH = 64  # scenes of one batch, and the smallest set


@dataclass(frozen=True)
class OverfitConfig(Config):
    """What the ladder trains; the backbone gets a tenth of `lr`. "unrolled" cannot memorise noise."""

    preset: str = preset("classroom")
    scenes: int = integer(512, BATCH, 10**7, "size of the training set")
    epochs: int = same(TrainConfig, "epochs", help="passes over the whole set")
    micro_batch: int = same(TrainConfig, "micro_batch", BATCH)
    accumulation_steps: int = same(TrainConfig, "accumulation_steps")
    precision: str = same(TrainConfig, "precision")
    seed: int = same(TrainConfig, "seed", help="of scenes, weights and order")
    lr: float = same(TrainConfig, "lr_head", help="peak learning rate of the head; a tenth for the backbone")
    blend: float = same(TrainConfig, "blend")
    curriculum: str = same(TrainConfig, "curriculum")
    clip_norm: float | None = same(TrainConfig, "clip_norm")
    validation: int = integer(0, 0, 10**7, "fresh scenes scored after each epoch; 0 for none")
    device: str = same(TrainConfig, "device")
    design: str = choice(
        "memoriser", DESIGNS, "kind of network; only memoriser can memorise noise", former=FORMER_DESIGNS
    )

    def check(self) -> None:
        """Refuse a micro-batch larger than the set, and what the loop refuses."""
        check_number("micro_batch", self.micro_batch, 1, self.scenes, integer=True)
        self.training()

    def scene_config(self) -> SceneConfig:
        """The preset's scenes."""
        return SceneConfig.preset(self.preset)

    def training(self, **changes: Any) -> TrainConfig:
        """The training configuration of the whole set, with fields changed by keyword."""
        rates = {"lr_head": self.lr, "lr_backbone": self.lr / 10}
        return TrainConfig(**self.shared(TrainConfig) | rates | changes)

    def data(self) -> SceneBatch:
        """The training scenes."""
        from rislab.data.simulation import simulate

        return simulate(self.scene_config(), self.scenes, seed=self.seed)

    def validation_data(self) -> SceneBatch | None:
        """The fresh scenes; None if there are none."""
        if not self.validation:
            return None
        from rislab.data.simulation import simulate

        return simulate(self.scene_config(), self.validation, seed=self.seed, split="validation")

    def model(self) -> CovarianceNet:
        """A new network, its weights drawn from the seed."""
        from rislab.model.network import CovarianceNet

        return CovarianceNet.build(self.scene_config(), seed=self.seed, design=self.design)
