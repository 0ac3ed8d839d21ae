"""Parameters of the notebooks as configurations: what refuses a value before anything runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from rislab.config import Config, choice, integer, number, same, switch, text
from rislab.data.scene_config import SceneConfig, preset
from rislab.data.simulation import simulate
from rislab.errors import InputError, check_choice, check_fields, check_number
from rislab.faults.comparison import ComparisonConfig
from rislab.faults.example_loops import LoopsConfig
from rislab.faults.story import StoryConfig
from rislab.music.scene_view import SceneSettings
from rislab.sanity.overfit_config import BATCH, OverfitConfig
from rislab.sanity.precision import PrecisionConfig
from rislab.training.config import PRECISIONS
from rislab.training.streaming_config import LearningConfig
from rislab.tuning.tuning_config import TuningConfig


@dataclass(frozen=True)
class StartParameters(Config):
    """Of 00: the smallest training."""

    preset: str = same(OverfitConfig, "preset")
    scenes: int = same(OverfitConfig, "scenes", 256)
    epochs: int = same(OverfitConfig, "epochs", 20)
    seed: int = same(OverfitConfig, "seed")

    def check(self) -> None:
        """Refuse what the ladder refuses."""
        OverfitConfig(micro_batch=32, **self.shared(OverfitConfig))


@dataclass(frozen=True)
class OverfitParameters(Config):
    """Of 01: the overfit ladder, and what is compared after it."""

    preset: str = same(OverfitConfig, "preset")
    scenes: int = same(OverfitConfig, "scenes")
    epochs: int = same(OverfitConfig, "epochs")
    micro_batch: int = same(OverfitConfig, "micro_batch")
    accumulation_steps: int = same(OverfitConfig, "accumulation_steps")
    precision: str = same(OverfitConfig, "precision")
    lr: float = same(OverfitConfig, "lr")
    blend: float = same(OverfitConfig, "blend")
    curriculum: str = same(OverfitConfig, "curriculum")
    validation: int = same(OverfitConfig, "validation", 64)
    seed: int = same(OverfitConfig, "seed")
    compare_steps: Sequence[int] = integer(
        (1, 2, 4, 8), 1, BATCH, "accumulation steps compared at one effective batch of 64", many=True
    )
    compare_precisions: Sequence[str] = choice(
        ("fp64", "fp32", "bf16"), PRECISIONS, "precisions that learn one batch of 64", many=True
    )

    def check(self) -> None:
        """Refuse windows of other sizes than 64, and what the ladder refuses."""
        config = OverfitConfig(**self.shared(OverfitConfig))
        for count in self.compare_steps:
            if BATCH % count:
                raise InputError(f"compare_steps holds {count}; allowed: divisors of {BATCH}")
            config.changed(accumulation_steps=count, micro_batch=BATCH // count)
        for precision in self.compare_precisions:
            config.changed(precision=precision)


@dataclass(frozen=True)
class MusicParameters(Config):
    """Of 05: scenes from which covariance, MUSIC and the bound are drawn."""

    preset: str = preset("full")
    sources: int = integer(3, 1, 4095, "in each scene, fewer than antennas")
    snr_db: float = number(10.0, -100, 200, "mean signal over noise power at the antennas", unit="dB")
    snapshots: int = integer(16, 1, 65536, "each through a phase profile of its own; at least as many as antennas")
    separation_deg: float = number(10.0, 0, 180, "smallest angle between two sources of a scene", unit="degrees")
    # A plane wave has no range that could be estimated.
    wavefront: str = same(SceneConfig, "wavefront", choices=("spherical", "fresnel"), help="of the world")
    scenes: int = integer(32, 1, 10**6, "simulated at each SNR and at each separation")
    draws: int = integer(150, 1, 10**6, "of the noise, for the cloud of estimates")
    snrs_db: Sequence[float] = number(
        (-5.0, 0.0, 5.0, 10.0, 15.0, 20.0), -100, 200, "SNRs compared", unit="dB", many=True, empty=True
    )
    separations_deg: Sequence[float] = number(
        (1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0), 0, 60, "separations compared", unit="degrees", exclusive=True, many=True
    )
    seed: int = integer(1, 0, 2**63 - 1, "of scenes and noise")

    def check(self) -> None:
        """Refuse more sources than can be separated, and pairs of them that leave the field of view."""
        for level in (self.snr_db, *self.snrs_db):
            config = SceneConfig.preset(
                self.preset,
                sources=self.sources,
                snr_db=level,
                snapshots=self.snapshots,
                separation=math.radians(self.separation_deg),
                wavefront=self.wavefront,
            )
        check_number("sources", self.sources, 1, config.antennas - 1, integer=True)
        check_number("snapshots", self.snapshots, config.antennas, 65536, integer=True)
        # The pair of sources stays within the field of view, and three times its half within what can be searched.
        most = min(2 * math.degrees(config.azimuth[1]), 60.0)
        for value in self.separations_deg:
            check_number("separations_deg", value, 0, most, exclusive=True)
        SceneSettings.of(**self.shared(SceneSettings))
        simulate(config, 1, seed=self.seed, split="test")


@dataclass(frozen=True)
class LocaliseParameters(Config):
    """Of 06: networks that are trained there, and the scenes that score them."""

    preset: str = same(LearningConfig, "preset", "classroom")
    snrs_db: Sequence[float] = number(
        (0.0, 10.0, 20.0), -100, 200, "of the scenes that score the estimators", unit="dB", many=True
    )
    test_scenes: int = integer(60, 1, 10**6, "in each cell of the tables")
    learned_scenes: int = same(LearningConfig, "scenes", 2048, help="fresh ones in each epoch of the networks")
    epochs: int = same(LearningConfig, "epochs", 5, help="of each network")
    seed: int = same(LearningConfig, "seed", 7, help="of the networks' scenes; those that score have 2024")

    def check(self) -> None:
        """Refuse what the training and the scenes refuse."""
        LearningConfig(scenes=self.learned_scenes, **self.shared(LearningConfig))
        for snr in self.snrs_db:
            SceneConfig.preset(self.preset, snr_db=snr)


@dataclass(frozen=True)
class TuningParameters(Config):
    """Of 08: a search, and its base."""

    preset: str = same(LearningConfig, "preset", "classroom")
    scenes: int = same(LearningConfig, "scenes", 512, help="fresh ones in each epoch of a trial")
    epochs: int = same(LearningConfig, "epochs", 6, help="of a trial that is not pruned")
    trials: int = same(TuningConfig, "trials")
    eval_scenes: int = same(TuningConfig, "eval_scenes", 256)
    objective: str = same(TuningConfig, "objective")
    pruner: str = same(TuningConfig, "pruner")
    skip_ladder: bool = switch(False, "do not run the overfit ladder first; the record says so")
    confirm: int = integer(5, 2, 100, "seeds with which best and default are trained again")
    seed: int = same(TuningConfig, "seed")

    def check(self) -> None:
        """Refuse what the search refuses."""
        base = LearningConfig(preset=self.preset, scenes=self.scenes, epochs=self.epochs, validation=256)
        TuningConfig(base=base, **self.shared(TuningConfig))


@dataclass(frozen=True)
class DataParameters(Config):
    """Of 09: a measurement, from a file or made up."""

    file: str = text("", "a measurement of your own (.npz, .mat, .h5, .csv); empty takes the twin")
    sources: int = integer(1, 1, 64, "in each measurement")
    positions: int = integer(9, 2, 100, "of the twin's transmitter")
    configurations: int = integer(1000, 100, 20_000, "of the twin's surface; BRISC has about 10 000")
    seed: int = integer(0, 0, 2**63 - 1, "of the twin")

    def check(self) -> None:
        """Refuse a file that is not there."""
        if self.file and not Path(self.file).is_file():
            raise InputError(f"file is {self.file!r}, which is not there; allowed: a file of measurements, or nothing")


# The configuration whose fields are the parameters of a notebook, by the notebook's name without its number.
PARAMETERS: dict[str, type] = {
    "start": StartParameters,
    "overfit": OverfitParameters,
    "precision": PrecisionConfig,
    "whodunnit": StoryConfig,
    "fault_clinic": ComparisonConfig,
    "music": MusicParameters,
    "your_loop": LoopsConfig,
    "localise": LocaliseParameters,
    "tuning": TuningParameters,
    "your_data": DataParameters,
}


def check_for(name: str) -> Callable[[dict[str, object]], object]:
    """What refuses values out of range for a notebook before anything runs; nothing is refused for an unknown one.

    Args:
        name: of the notebook, without its number.

    Returns:
        Takes all parameters of the notebook; raises InputError for a value that is not allowed, and for a parameter
        that the configuration does not declare or that is missing.
    """
    if name not in PARAMETERS:
        return lambda values: None
    made = PARAMETERS[name]
    names = [one.name for one in fields(made)]

    def check(values: dict[str, object]) -> object:
        check_fields(f"notebook {name}", values, names)
        for missing in [each for each in names if each not in values]:
            raise InputError(f"notebook {name} lacks the parameter {missing}; allowed: {', '.join(names)}")
        return made(**values)

    return check


def check_variables(name: str, variables: Mapping[str, object]) -> None:
    """Refuse what a parameter may not be where a notebook is run cell by cell, before anything else runs.

    Args:
        name: of the notebook, without its number.
        variables: of the notebook, by name; further ones do not count.

    Raises:
        InputError: for an unknown notebook, a parameter that is missing, and a value that is not allowed.
    """
    check_choice("name", name, PARAMETERS)
    names = {one.name for one in fields(PARAMETERS[name])}
    check_for(name)({each: value for each, value in variables.items() if each in names})
