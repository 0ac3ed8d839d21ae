"""Watch any PyTorch loop, compare each optimiser step with the true gradient of its window, and say what is wrong.

    with rislab.watch(model, optimizer, loss=loss_fn, accumulation_steps=4) as watch:
        reported = train(...)                      # the user's own loop, unchanged
    print(watch.findings(reported=reported))

Findings come from what ran, never from the source.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from rislab.checkup.findings import Finding, Findings
from rislab.checkup.options import check_options
from rislab.checkup.recording.event_source import EventSource
from rislab.checkup.recording.events import LossEvent
from rislab.checkup.recording.gradient_samples import GradientSamples
from rislab.checkup.recording.interception import LOSSES
from rislab.checkup.recording.own_operations import unobserved
from rislab.checkup.recording.recorder import StepRecorder
from rislab.checkup.recording.tracking import LoopObserver, TrackedOptimizer, unwrapped
from rislab.checkup.recording.windows import Declared
from rislab.errors import InputError


class Watch:
    """A loop under observation; see watch() for the arguments.

    After the `with` block, `trace` holds what was recorded, and `declared` what the loop is meant to do.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        loss: Callable[..., Any] | None = None,
        accumulation_steps: int | None = None,
        scaler: Any = None,
        scheduler: Any = None,
        mean: str = "samples",
        clip_norm: float | None = None,
        every: int | None = None,
        epochs: int | None = None,
        scheduler_interval: str = "",
        select_loss: Callable[[Any], Tensor] = lambda loss: loss,
        accelerator: Any = None,
    ) -> None:
        if accelerator is not None:
            accumulation_steps, scaler = _of_accelerator(accelerator, accumulation_steps, scaler)
        optimizer, scheduler = unwrapped(optimizer, "optimizer"), unwrapped(scheduler, "scheduler")
        for name, value, kind in (("model", model, nn.Module), ("optimizer", optimizer, torch.optim.Optimizer)):
            if not isinstance(value, kind):
                raise InputError(f"{name} is a {type(value).__name__}; allowed: a {kind.__name__}")
        if loss is not None and not callable(loss):
            raise InputError(f"loss is a {type(loss).__name__}; allowed: a Module or a function")
        check_options(
            accumulation_steps=accumulation_steps,
            mean=mean,
            clip_norm=clip_norm,
            every=every,
            epochs=epochs,
            scheduler_interval=scheduler_interval,
        )
        enabled = None if scaler is None else bool(scaler.is_enabled())
        self.declared = Declared(
            accumulation_steps,
            mean,
            clip_norm,
            enabled,
            scheduler is not None,
            scheduler_interval,
            epochs,
            "" if accelerator is None else "accelerate",
        )
        self._loss, self._select_loss = loss, select_loss
        samples = GradientSamples(model.named_parameters, optimizer, scaler)
        recorder = StepRecorder(samples, scheduler, self.declared, every)
        recorder.trace.loss_declared = loss is not None
        self.trace = recorder.trace
        self._observer = LoopObserver(
            [TrackedOptimizer(optimizer, scaler, scheduler, [model], recorder, self.declared)], loss
        )
        # Whoever imports the checkup, and watches nothing yet, needs none of it.
        from rislab.checkup import diagnosis

        self._diagnosis, self._observers = diagnosis, diagnosis.standard_observers()
        self._source: EventSource | None = None
        self._entered = 0  # how often, and not left yet
        self._failures: list[Finding] = []

    def loss(self, *args: Any, **kwargs: Any) -> Any:
        """The loss that was given to watch(), recorded; a loop calls it in place of a plain Python function."""
        if self._loss is None:
            raise InputError("watch.loss was called, and watch() was given no loss; allowed: watch(..., loss=function)")
        output = self._loss(*args, **kwargs)
        if not isinstance(self._loss, nn.Module) and not self._of_torch() and self._source is not None:
            unobserved(False, self._on_loss, self._loss, args, kwargs, output)
        return output

    def _of_torch(self) -> bool:
        """Whether the declared loss is a function that torch itself reports."""
        return (getattr(self._loss, "__module__", None) or "").split(".")[0] == "torch"

    def _on_loss(self, function: Any, args: tuple[Any, ...], named: Any, output: Any) -> None:
        self._observer.on_loss(LossEvent(function, args, named, self._select_loss(output)))

    def __enter__(self) -> Watch:
        self._entered += 1
        if self._entered > 1:  # within itself
            return self
        losses: tuple[Callable[..., Any], ...] = LOSSES
        # A hook on the module itself would be copied, and stored, with it.
        reported = self._loss if isinstance(self._loss, nn.Module) or self._of_torch() else None
        if reported is not None and not isinstance(reported, nn.Module):
            losses = (*LOSSES, reported)
        self._source = EventSource([self._observer, *self._observers], losses, reported, self._on_loss)
        self._source.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered -= 1
        if self._source is not None and not self._entered:
            self._source.close(error)
            self._failures = self._source.unjudged()
            self._source = None

    def findings(self, reported: Sequence[float] | None = None) -> Findings:
        """What is wrong with the loop, faults first; empty if nothing is.

        Args:
            reported: the training losses that the loop reported, one an epoch; None if they are not to be judged.
        """
        own = self._diagnosis.diagnose(self.trace, self.declared, reported)
        findings = self._diagnosis.with_others(own, self._observers)
        return Findings([*findings, *self._failures]).in_cells()


def _of_accelerator(accelerator: Any, size: int | None, scaler: Any) -> tuple[int, Any]:
    """K and the gradient scaler of an Accelerator; K must be the declared one if there is one."""
    steps = getattr(accelerator, "gradient_accumulation_steps", None)
    if not isinstance(steps, int):
        raise InputError(f"accelerator is a {type(accelerator).__name__}; allowed: an Accelerator of accelerate")
    if size not in (None, steps):
        raise InputError(f"accumulation_steps is {size!r}; allowed: {steps}, that of the accelerator, or none at all")
    return steps, accelerator.scaler if scaler is None else scaler


def watch(model: nn.Module, optimizer: torch.optim.Optimizer, **declared: Any) -> Watch:
    """Watch a training loop: `with rislab.watch(model, optimizer, loss=loss_fn) as watch: train(...)`.

    The watched run is bit-identical to the unwatched one. All hooks are taken away on leaving, after an exception too.

    Args:
        model: network of the loop; those of Lightning Fabric and accelerate are looked into.
        optimizer: of the loop; wrapped ones are looked into.
        loss: a Module or a function of torch is intercepted; a plain Python function is to be called as `watch.loss`.
            Without one, what backward() is called on is followed down through its factors.
        accumulation_steps: K, ≥ 1; inferred from the steps if None.
        scaler: gradient scaler of the loop, or None.
        scheduler: of the loop, or None.
        mean: "samples" if every sample of a window counts the same, "batches" if every micro-batch does.
        clip_norm: declared limit of the gradient norm, > 0; if None, evident clipping is taken as meant.
        every: n ≥ 1; compare the gradients of each n-th window only; None compares the first windows, then ever fewer,
            and again after a change.
        epochs: number of epochs that the loop is to make; None if not declared.
        scheduler_interval: "step" or "epoch", at which the scheduler is to tick; "" if not declared.
        select_loss: takes the raw loss, a scalar tensor, out of what `loss` returns; by default the value itself.
        accelerator: Accelerator of the loop, from which K and the gradient scaler are read; None without one.

    Raises:
        InputError: for a value that is not allowed.
    """
    return Watch(model, optimizer, **declared)
