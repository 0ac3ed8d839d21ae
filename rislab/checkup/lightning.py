"""The checkup as a callback of Lightning: `Trainer(callbacks=[CheckupCallback()])`.

Accumulation, clipping, precision and schedules are read from the Trainer. The findings are printed at the end of the
fit, and go to the Trainer's loggers.
"""

from __future__ import annotations

from typing import Any

from rislab.checkup.findings import Findings
from rislab.checkup.fit_watch import (
    FitWatch,
    Framework,
    TrainedLoop,
    TrainerSettings,
    framework_class,
    is_first,
    needs,
)
from rislab.checkup.recording.windows import Declared

PACKAGES = ("lightning", "pytorch_lightning")
OLDEST, NEWEST = (2, 5), (2, 6)
_Callback: Any = framework_class("Callback", ("lightning.pytorch", "pytorch_lightning"))


class CheckupCallback(_Callback):  # type: ignore[misc]
    """Watches each fit of a Trainer, and changes no bit of it.

    Args:
        on_fault: "print", or "raise" to raise TrainingFaultError at the end of a fit that has faults.
        every: n ≥ 1; compare the gradients of each n-th window only; None compares the first, then ever fewer.
    """

    def __init__(self, *, on_fault: str = "print", every: int | None = None) -> None:
        needs(_Callback, PACKAGES[0])
        super().__init__()
        self._fit = FitWatch("Trainer.fit()", on_fault, every)

    @property
    def findings(self) -> Findings:
        """Of the last fit."""
        return self._fit.findings

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """The first batch is to come; optimisers are made, and restored."""
        if is_first(self, trainer.callbacks):
            package = type(trainer).__module__.split(".")[0]
            known = package if package in PACKAGES else PACKAGES[0]
            self._fit.begin(Framework(known, OLDEST, NEWEST), lambda: _settings(trainer, pl_module))

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """The epoch in which averaged weights get statistics of their own trains nothing."""
        if any(trainer.current_epoch > one.swa_end for one in _averages(trainer)):
            self.on_train_end(trainer, pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """The last batch is over, and the loggers are still open."""

        def log(numbers: dict[str, int]) -> None:
            for logger in trainer.loggers:
                logger.log_metrics(numbers, step=trainer.global_step)

        self._fit.end(log)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """All is saved: raise, if it was asked for."""
        self._fit.raise_faults()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """An exception, or Ctrl-C, has ended the fit."""
        self._fit.fail(exception)


def _of_name(trainer: Any, name: str) -> list[Any]:
    return [one for one in trainer.callbacks if type(one).__name__ == name]


def _averages(trainer: Any) -> list[Any]:
    return _of_name(trainer, "StochasticWeightAveraging")


def _settings(trainer: Any, module: Any) -> TrainerSettings:
    """What a Trainer is set to do; in manual optimisation the module's own lines say it."""
    # An average of the weights brings a schedule of its own, in the midst of the training.
    schedules = [] if _averages(trainer) else trainer.lr_scheduler_configs
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    by_optimizer = {id(one.scheduler.optimizer): one.scheduler for one in schedules}
    loops = [
        TrainedLoop(optimizer, module, by_optimizer.get(id(optimizer)), scaler) for optimizer in trainer.optimizers
    ]
    kind = f"precision {trainer.precision}"
    if not module.automatic_optimization:
        return TrainerSettings(loops, Declared(mean=""), f"manual optimisation, {kind}")
    size, limit = trainer.accumulate_grad_batches, trainer.gradient_clip_val
    # A callback that changes the size with the epochs, or a module that clips in a way of its own.
    varied = bool(_of_name(trainer, "GradientAccumulationScheduler"))
    own = module.configure_gradient_clipping.__func__.__module__.split(".")[0] not in PACKAGES
    by_value = str(getattr(trainer.gradient_clip_algorithm, "value", trainer.gradient_clip_algorithm)) == "value"
    intervals = {one.interval if one.frequency == 1 and not one.reduce_on_plateau else "" for one in schedules}
    declared = Declared(
        accumulation_steps=None if varied else int(size),
        mean="",
        clip_norm=float(limit) if limit and not own and not by_value else None,
        scheduler_interval=intervals.pop() if len(intervals) == 1 else "",
        divides="Lightning",
    )
    text = f"accumulate_grad_batches {'varies' if varied else size}, gradient_clip_val {limit}, {kind}"
    interval = declared.scheduler_interval
    return TrainerSettings(loops, declared, f"{text}, schedule per {interval}" if interval else text)
