"""Overfitting a small set: the training of the overfit ladder."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing, nullcontext
from pathlib import Path

from torch import Tensor, nn

from rislab.checkup.recording.gradients import flat_gradient
from rislab.data.scene_config import PRESETS, SceneConfig
from rislab.data.scenes import SceneBatch
from rislab.errors import InputError
from rislab.model.designs import design_in
from rislab.sanity.checks import one_window
from rislab.sanity.overfit_config import OverfitConfig
from rislab.training import run_folder
from rislab.training.config import TrainConfig
from rislab.training.loop import fit
from rislab.training.records import Record, StepRecord
from rislab.training.run_folder import Observe
from rislab.training.shared_runs import shared_run
from rislab.training.state import TrainState


def config_of_run(folder: Path | str) -> OverfitConfig:
    """The configuration of a run folder that FullTraining made.

    Raises:
        InputError: for a folder that cannot be read, or that holds another kind of run.
    """
    plain = run_folder.read_config(folder)
    other = InputError(f"{folder} holds another kind of run; allowed: one of the overfit panel or `rislab overfit`")
    train, scenes = plain.get("train"), plain.get("scenes")
    if not isinstance(train, dict) or not isinstance(scenes, dict):
        raise other
    training, area = TrainConfig.from_dict(train), SceneConfig.from_dict(scenes)
    presets = [name for name in PRESETS if SceneConfig.preset(name) == area]
    if not presets:
        raise other
    same_names = ("epochs", "micro_batch", "accumulation_steps", "precision", "seed", "blend", "curriculum")
    config = OverfitConfig(
        preset=presets[0],
        scenes=plain.get("count"),  # type: ignore[arg-type]  # anything but a number is refused by name
        validation=plain.get("validation") or 0,
        design=design_in(folder, plain.get("design", "memoriser")),
        lr=training.lr_head,
        **{name: vars(training)[name] for name in (*same_names, "clip_norm", "device")},
    )
    if config.training() != training:
        raise other
    return config


class FullTraining:
    """The training on the whole set, run once and when first asked for.

    Args:
        config: of network and loop.
        data: the training scenes.
        folder: run folder, in which it survives being stopped; None keeps it in memory.
        on_record: called with each new record.
        trained: model and records of a training that was done elsewhere; None trains here.
    """

    def __init__(
        self,
        config: OverfitConfig,
        data: SceneBatch,
        folder: Path | str | None = None,
        on_record: Callable[[Record], None] = lambda record: None,
        trained: tuple[nn.Module, Sequence[Record]] | None = None,
    ) -> None:
        self._config, self._data, self._folder, self._on_record = config, data, folder, on_record
        self._shared = folder is None and trained is None
        self.model, records = trained or (config.model(), ())
        self._records = list(records)

    def records(self) -> list[Record]:
        """All records of the run, earlier ones from the run folder included."""
        if not self._records and self._shared:
            key = {"config": vars(self._config), "data": self._data.fingerprint()}
            self._records = shared_run(__name__, key, self.model, self._train)
        elif not self._records:
            records = self._train()
            self._records = records if self._folder is None else run_folder.read_records(self._folder)
        return self._records

    def _train(self) -> list[Record]:
        records = []
        # Closed at once on an interrupt, so that a run folder gets its checkpoint.
        with closing(self.stream()) as stream:
            for record in stream:
                records.append(record)
                self._on_record(record)
        return records

    def trained(self) -> nn.Module:
        """The model after the run."""
        self.records()
        return self.model

    def stream(self, observe: Observe = lambda state: nullcontext()) -> Generator[Record]:
        """The records as they come; in a run folder it goes on where it was stopped.

        Args:
            observe: see run_folder.train().
        """
        training, fresh = self._config.training(), self._config.validation_data()
        if self._folder is not None:
            folder = self._folder
            yield from run_folder.train(folder, self.model, self._data, training, validation=fresh, observe=observe)
            return
        state = TrainState.begin(self.model, len(self._data), training)
        with observe(state):
            yield from fit(self.model, self._data, training, validation=fresh, resume=state)


def first_window(
    config: OverfitConfig, data: SceneBatch, micro_batch: int, accumulation_steps: int
) -> tuple[Tensor, StepRecord]:
    """Gradient (flat, unscaled, unclipped) and record of the first window of a run on `data`."""
    training = config.training(micro_batch=micro_batch, accumulation_steps=accumulation_steps, clip_norm=None)
    model = config.model()
    record = one_window(model, data, training)
    return flat_gradient(model), record
