"""The checkup as a callback of Hugging Face's Trainer, and of trl's: `Trainer(…, callbacks=[CheckupCallback()])`.

Accumulation, clipping and the count of items in a window are read from the Trainer. The findings are printed at the end
of the training, and go to the Trainer's log.
"""

from __future__ import annotations

from typing import Any

from rislab.checkup.findings import Findings
from rislab.checkup.fit_watch import (
    FitWatch,
    Framework,
    RunningCall,
    TrainedLoop,
    TrainerSettings,
    framework_class,
    is_first,
    needs,
    owner_of,
)
from rislab.checkup.recording.windows import Declared

TRANSFORMERS = Framework("transformers", (5, 24), (5, 24))
# Faults of a loss that does not use the count of items which it is handed.
OF_ITEMS = ("never divided", "mean of means in the window", "gradient scale")
FIX_OF_ITEMS = "add the losses of the items up, and divide the sum by num_items_in_batch: nothing else divides it"
_Callback: Any = framework_class("TrainerCallback", ("transformers",))


class CheckupCallback(_Callback):  # type: ignore[misc]
    """Watches each training of a Trainer, and changes no bit of it.

    Args:
        on_fault: "print", or "raise" to raise TrainingFaultError at the end of a training that has faults.
        every: n ≥ 1; compare the gradients of each n-th window only; None compares the first, then ever fewer.
    """

    def __init__(self, *, on_fault: str = "print", every: int | None = None) -> None:
        needs(_Callback, "transformers")
        super().__init__()
        self._fit, self._trainer = FitWatch("Trainer.train()", on_fault, every), None

    @property
    def findings(self) -> Findings:
        """Of the last training."""
        return self._fit.findings

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """The first batch is to come; optimiser and schedule are made, and restored."""
        trainer = owner_of(lambda one: self in getattr(getattr(one, "callback_handler", None), "callbacks", ()))
        if is_first(self, trainer.callback_handler.callbacks):
            self._trainer = trainer
            self._fit.begin(TRANSFORMERS, lambda: _settings(args, trainer, given), RunningCall(trainer))

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """The training is over."""
        trainer, self._trainer = self._trainer, None
        if trainer is not None:
            self._fit.end(trainer.log)
            self._fit.raise_faults()


def _settings(args: Any, trainer: Any, given: Any) -> TrainerSettings:
    """What a Trainer is set to do."""
    scheduler, size, limit = given["lr_scheduler"], args.gradient_accumulation_steps, args.max_grad_norm
    # Then each item of a window counts the same, whichever micro-batch it stands in.
    counted = bool(trainer.model_accepts_loss_kwargs) or trainer.compute_loss_func is not None
    # A Trainer whose own loss is a mean of the micro-batch, which is divided by K, or of the window, says so.
    own = getattr(trainer, "loss_is_scaled_for_ga", None)
    counted = counted and own is None
    sharded = trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled
    loop = TrainedLoop(given["optimizer"], given["model"], scheduler, trainer.accelerator.scaler)
    declared = Declared(
        accumulation_steps=size,
        mean="samples" if counted else "",
        clip_norm=float(limit) if limit and not sharded else None,
        scheduler_interval="" if hasattr(scheduler, "num_bad_epochs") else "step",
        counted=counted,
    )
    text = f"gradient_accumulation_steps {size}, max_grad_norm {limit}, "
    text += "num_items_in_batch is handed to the loss" if counted else "num_items_in_batch is not used"
    text += "" if own is None else f", loss_is_scaled_for_ga {own}"
    if args.world_size > 1:
        text += f", average_tokens_across_devices {args.average_tokens_across_devices}"
    return TrainerSettings([loop], declared, text, dict.fromkeys(OF_ITEMS, FIX_OF_ITEMS) if counted else {})
