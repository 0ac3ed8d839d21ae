"""The checkup: watch any PyTorch loop, hold each optimiser step against the true gradient of its window, and say what
is wrong.

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
from torch.utils.hooks import RemovableHandle

from rislab.checkup.event_rules import coverage_findings, schedule_findings, weight_findings, window_findings
from rislab.checkup.findings import Finding, Findings
from rislab.checkup.gradient_rules import Declared, gradient_findings
from rislab.checkup.interception import LOSSES, LossInterceptor, parts
from rislab.checkup.recorder import Recorder
from rislab.checkup.report_rules import reported_findings
from rislab.checkup.trace import Trace
from rislab.errors import InputError, check_choice, check_number

__all__ = ["Finding", "Findings", "Watch", "diagnose", "watch"]

MEANS = ("samples", "batches")
CADENCES = ("step", "epoch", "")
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Watch:
    """A loop under observation; see watch()."""

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
        every: int = 1,
        epochs: int | None = None,
        cadence: str = "",
        of: Callable[[Any], Tensor] = lambda loss: loss,
    ) -> None:
        optimizer, scheduler = inner(optimizer, "optimizer"), inner(scheduler, "scheduler")
        for name, value, kind in (("model", model, nn.Module), ("optimizer", optimizer, torch.optim.Optimizer)):
            if not isinstance(value, kind):
                raise InputError(f"{name} is a {type(value).__name__}; allowed: a {kind.__name__}")
        if loss is not None and not callable(loss):
            raise InputError(f"loss is a {type(loss).__name__}; allowed: a Module or a function")
        if accumulation_steps is not None:
            check_number("accumulation_steps", accumulation_steps, 1, 1_000_000, integer=True)
        if clip_norm is not None:
            check_number("clip_norm", clip_norm, 0, exclusive=True)
        check_choice("mean", mean, MEANS)
        check_number("every", every, 1, 1_000_000, integer=True)
        if epochs is not None:
            check_number("epochs", epochs, 1, 10**9, integer=True)
        check_choice("cadence", cadence, CADENCES)
        enabled = None if scaler is None else bool(scaler.is_enabled())
        self.contract = Declared(accumulation_steps, mean, clip_norm, enabled, scheduler is not None, cadence, epochs)
        self._model, self._loss, self._of = model, loss, of
        self._witness = Recorder(model.named_parameters, optimizer, scaler, scheduler, every, model.parameters)
        self._handles: list[RemovableHandle] = []
        self._listener: LossInterceptor | None = None
        self.seen = self._witness.seen

    def loss(self, *args: Any, **kwargs: Any) -> Any:
        """The loss that was given to watch(), heard: for plain Python functions, called in the loop in its place."""
        if self._loss is None:
            raise InputError("watch.loss was called, and watch() was given no loss; allowed: watch(..., loss=function)")
        output = self._loss(*args, **kwargs)
        if not isinstance(self._loss, nn.Module) and self._listener is None:
            self._tell(self._loss, args, kwargs, output)
        return output

    def _tell(self, function: Any, args: tuple[Any, ...], named: Any, output: Any) -> None:
        loss = self._of(output)
        count, free = parts(function, args, named)
        # A function that is called with something else than tensors says nothing of its parts.
        self._witness.hear(loss, count, free, judge=self._loss is not None)

    def _guess(self, function: Any, args: tuple[Any, ...], named: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.numel() == 1:
            self._tell(function, args, named, output)

    def __enter__(self) -> Watch:
        self._witness.begin()
        self.seen.moody = any(map(moody, self._model.modules()))
        self._handles = [
            self._model.register_forward_pre_hook(
                lambda model, args, kwargs: self._witness.forward_begins((*args, *kwargs.values()), model.training),
                with_kwargs=True,
            ),
            self._model.register_forward_hook(lambda model, args, output: self._witness.forward_ends(output)),
        ]
        if isinstance(self._loss, nn.Module):
            self._handles.append(self._loss.register_forward_hook(self._tell, with_kwargs=True))
        elif self._loss is None:
            self.seen.heard = False
            self._listener = LossInterceptor(LOSSES, self._guess, self._witness.root_begins, self._witness.root_ends)
        elif _of_torch(self._loss):
            self._listener = LossInterceptor((self._loss,), self._tell)
        if self._listener is not None:
            self._listener.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._listener is not None:
            self._listener.__exit__(kind, error, trace)
            self._listener = None
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._witness.end()

    def findings(self, reported: Sequence[float] | None = None) -> Findings:
        """What is wrong with the loop, faults first; empty if nothing is.

        Args:
            reported: the training loss that the loop reported, one number an epoch.
        """
        return diagnose(self.seen, self.contract, reported)


def diagnose(seen: Trace, contract: Declared, reported: Sequence[float] | None = None) -> Findings:
    """What is wrong with a loop that was seen.

    Args:
        seen: see Recorder. contract: what the loop is meant to do. reported: its training loss, one number an epoch.
    """
    windows = window_findings(seen, contract)
    found = [*coverage_findings(seen, contract), *windows]
    # Gradients of tensors that the optimiser does not hold are nobody's business to zero, and those of windows that
    # begin in the wrong place are wrong for that reason.
    shifted = any(finding.name == "window off by one" for finding in windows)
    if not (seen.stale and seen.strange) and not shifted:
        found += gradient_findings(seen, contract)
    found += [*weight_findings(seen), *schedule_findings(seen, contract, len(reported or ()))]
    found += reported_findings(reported, seen, contract) if reported is not None else []
    first: dict[str, Finding] = {}
    for finding in found:
        first.setdefault(f"{finding.name} {finding.evidence if finding.severity == 'note' else ''}", finding)
    return Findings(first.values())


def watch(model: nn.Module, optimizer: torch.optim.Optimizer, **declared: Any) -> Watch:
    """Watch a training loop: `with rislab.watch(model, optimizer, loss=loss_fn) as watch: train(...)`.

    The watched run is bit-identical to the unwatched one. All hooks are taken away on leaving, after an exception too.

    Args:
        model, optimizer: of the loop; those of Lightning Fabric and accelerate are looked into.
        loss: a Module or a function of torch, heard by itself; a plain Python function is to be called as `watch.loss`.
            Without one, what backward() is called on is followed down through its factors.
        accumulation_steps: K, ≥ 1; inferred from the steps if None.
        scaler, scheduler: of the loop, or None.
        mean: "samples" if every sample of a window counts the same, "batches" if every micro-batch does.
        clip_norm: declared limit of the gradient norm; if None, evident clipping is assumed to be meant.
        every: compare the gradients of each n-th window only.
        epochs: that the loop is to make. cadence: "step" or "epoch", at which the scheduler is to step; or "".
        of: takes the raw loss, a scalar tensor, out of what `loss` returns; the value itself by default.

    Raises:
        InputError: for a value that is not allowed.
    """
    return Watch(model, optimizer, **declared)


def moody(module: nn.Module) -> bool:
    """Whether a module trains otherwise than it evaluates."""
    if isinstance(module, DROPOUTS):
        return module.p > 0
    return isinstance(module, NORMS) and any(value.requires_grad for value in module.parameters())


def inner(wrapper: Any, name: str) -> Any:
    """What a wrapper of Fabric or accelerate holds under a name, itself if it holds nothing."""
    seen: set[int] = set()
    while id(wrapper) not in seen:
        seen.add(id(wrapper))
        held = getattr(wrapper, name, None)
        same = name == "optimizer" and isinstance(held, torch.optim.Optimizer)
        wrapper = held if same or (held is not None and hasattr(held, "last_epoch")) else wrapper
    return wrapper


def _of_torch(loss: Callable[..., Any]) -> bool:
    return (getattr(loss, "__module__", None) or "").split(".")[0] == "torch"
