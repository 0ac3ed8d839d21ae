"""Watch any PyTorch loop, compare each optimiser step with the true gradient of its window, and say what is wrong.

    with rislab.watch(model, optimizer, loss=loss_fn, accumulation_steps=4) as watch:
        reported = train(...)                      # the user's own loop, unchanged
    print(watch.findings(reported=reported))

Findings come from what ran, never from the source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, ParamSpec

import torch
from torch import Tensor, nn

from rislab.checkup.findings import SEVERITIES, UNJUDGED, Finding, Findings, as_note
from rislab.checkup.observers.activations import Activations
from rislab.checkup.observers.all_pairs import AllPairs
from rislab.checkup.observers.averages import MovingAverages
from rislab.checkup.observers.begun_anew import RemadeScalers, RemadeSchedulers, WeightsSetBack
from rislab.checkup.observers.checkpoints import Checkpoints
from rislab.checkup.observers.class_targets import OneClass
from rislab.checkup.observers.class_weights import ClassWeights
from rislab.checkup.observers.constant_terms import ConstantTerms
from rislab.checkup.observers.distant_averages import DistantAverages
from rislab.checkup.observers.drawn_samples import DrawnSamples, LoweredEntropies
from rislab.checkup.observers.early_ticks import EarlyTicks
from rislab.checkup.observers.evaluated_logits import EvaluatedLogits
from rislab.checkup.observers.frozen import FrozenTensors
from rislab.checkup.observers.gradient_use import GradientUse
from rislab.checkup.observers.graph_patterns import GraphPatterns
from rislab.checkup.observers.hand_updates import HandUpdates
from rislab.checkup.observers.idle_statements import IdleStatements
from rislab.checkup.observers.input_changes import InputChanges
from rislab.checkup.observers.loaders import LoaderPasses
from rislab.checkup.observers.loss_arguments import LossArguments
from rislab.checkup.observers.loss_branches import LossBranches
from rislab.checkup.observers.network_modes import NetworkModes
from rislab.checkup.observers.optimizer_arguments import GroupRates, OptimizerArguments
from rislab.checkup.observers.perturbations import Perturbations
from rislab.checkup.observers.plateaus import PlateauModes
from rislab.checkup.observers.printed_evaluations import PrintedEvaluations
from rislab.checkup.observers.printed_losses import PrintedLosses
from rislab.checkup.observers.rank_differences import RankObserver
from rislab.checkup.observers.repetitions import ClassesOfBatches, EpochsWithoutSteps, RepeatedSeeds
from rislab.checkup.observers.resumes import LostState
from rislab.checkup.observers.row_orders import RowOrders
from rislab.checkup.observers.samplers import RepeatedOrder
from rislab.checkup.observers.saved_networks import SavedNetworks
from rislab.checkup.observers.shared_buffers import SharedBuffers
from rislab.checkup.observers.split_leakage import SplitLeakage
from rislab.checkup.observers.state_loading import OwnWeights
from rislab.checkup.observers.step_count import StepCount
from rislab.checkup.observers.term_scales import SumsBesideMeans
from rislab.checkup.observers.token_targets import TokenTargets
from rislab.checkup.observers.unregistered import UnregisteredTensors
from rislab.checkup.observers.unused_losses import DroppedLosses
from rislab.checkup.options import check_options
from rislab.checkup.probes.final_probes import FinalProbes
from rislab.checkup.recording.event_source import EventSource
from rislab.checkup.recording.events import LossEvent, Observer
from rislab.checkup.recording.gradient_samples import GradientSamples
from rislab.checkup.recording.interception import LOSSES
from rislab.checkup.recording.own_operations import unobserved
from rislab.checkup.recording.recorder import StepRecorder
from rislab.checkup.recording.trace import Trace
from rislab.checkup.recording.tracking import LoopObserver, TrackedOptimizer, unwrapped
from rislab.checkup.recording.windows import Declared, WatchedRun, watched_run
from rislab.checkup.rules import Code
from rislab.checkup.step_rules import (
    event_rules,
    gradient_rules,
    loss_report_rules,
    schedule_rules,
    use_rules,
    weight_rules,
    window_rules,
)
from rislab.errors import InputError, error_text

_P = ParamSpec("_P")
# Rules whose findings are mended at a loss.
OF_LOSSES = (Code.GRADIENT_SCALE, Code.DIRECTION)
# Faults of observers, and names that say less of the same.
SAYS_MORE = {
    "detached backbone": "detached backbone",
    "loss given as the epoch": "scheduler never stepped",
    "scheduler before the optimiser": "scheduler before the optimiser",
}
# Observers whose looks end with the first backwards.
OF_FIRST_BACKWARDS: tuple[type[Observer], ...] = (
    RowOrders,
    OneClass,
    GradientUse,
    LossBranches,
    GraphPatterns,
    AllPairs,
    ConstantTerms,
    DrawnSamples,
    LoweredEntropies,
    SumsBesideMeans,
    DroppedLosses,
)
# In the order in which their findings are listed.
RULE_FUNCTIONS: tuple[Callable[[WatchedRun], list[Finding]], ...] = (
    use_rules.only_frozen,
    use_rules.unused_forwards,
    event_rules.unused_losses,
    event_rules.number_formats,
    event_rules.nonfinite_losses,
    event_rules.evaluation_mode,
    window_rules.window_sizes,
    window_rules.batch_statistics,
    gradient_rules.nonfinite_gradients,
    gradient_rules.wrong_gradients,
    gradient_rules.unequal_terms,
    gradient_rules.divided_in_vain,
    use_rules.unscaled_terms,
    use_rules.running_sums,
    use_rules.terms_without_weight,
    use_rules.maximised_losses,
    use_rules.clipping_in_vain,
    use_rules.remade_optimizers,
    weight_rules.unmoved_weights,
    schedule_rules.learning_rates,
    schedule_rules.warm_up_never_ends,
    schedule_rules.scheduler_ticks,
    schedule_rules.runs_past_its_end,
    schedule_rules.hardly_begins,
    loss_report_rules.reported_loss,
)


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
        self._observers = standard_observers()
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
        findings = with_others(diagnose(self.trace, self.declared, reported), self._observers)
        return Findings([*findings, *self._failures]).in_cells()


def _of_accelerator(accelerator: Any, size: int | None, scaler: Any) -> tuple[int, Any]:
    """K and the gradient scaler of an Accelerator; K must be the declared one if there is one."""
    steps = getattr(accelerator, "gradient_accumulation_steps", None)
    if not isinstance(steps, int):
        raise InputError(f"accelerator is a {type(accelerator).__name__}; allowed: an Accelerator of accelerate")
    if size not in (None, steps):
        raise InputError(f"accumulation_steps is {size!r}; allowed: {steps}, that of the accelerator, or none at all")
    return steps, accelerator.scaler if scaler is None else scaler


def standard_observers() -> list[Observer]:
    """What watches a loop besides the recorders of its optimisers, in the order in which findings are listed."""
    steps = StepCount()
    targets, samplers, loaders = TokenTargets(), RepeatedOrder(), LoaderPasses(steps)
    return [
        steps,
        UnregisteredTensors(),
        OwnWeights(),
        WeightsSetBack(),
        RemadeScalers(),
        RemadeSchedulers(),
        LostState(),
        OptimizerArguments(),
        GroupRates(),
        samplers,
        RankObserver(samplers),
        MovingAverages(),
        DistantAverages(),
        Perturbations(),
        FrozenTensors(),
        Checkpoints(),
        LossArguments(),
        EvaluatedLogits(),
        RowOrders(),
        OneClass(),
        InputChanges(),
        GradientUse(),
        LossBranches(),
        GraphPatterns(),
        AllPairs(),
        Activations(steps),
        ConstantTerms(),
        NetworkModes(steps),
        RepeatedSeeds(),
        ClassesOfBatches(),
        EpochsWithoutSteps(steps),
        ClassWeights(),
        SplitLeakage(),
        SharedBuffers(),
        DrawnSamples(),
        LoweredEntropies(),
        SumsBesideMeans(),
        DroppedLosses(),
        PrintedLosses(loaders, steps),
        PrintedEvaluations(loaders, steps),
        SavedNetworks(steps),
        PlateauModes(),
        EarlyTicks(),
        loaders,
        targets,
        HandUpdates(),
        IdleStatements(),
        FinalProbes(targets),
    ]


def with_others(findings: list[Finding], observers: Sequence[Observer]) -> Findings:
    """Findings with those of other observers, unless they say less of the same."""
    stale = any(finding.name == "optimiser holds stale parameters" for finding in findings)
    others = [finding for one in observers for finding in _findings_of(type(one).__name__, one.findings)]
    more = {finding.name for finding in others if finding.severity == "fault"}
    less = {less for name, less in SAYS_MORE.items() if name in more}
    findings = [one for one in findings if one.name not in less]
    return Findings(
        [*findings, *(one for one in others if not (stale and one.name == "tensors that no optimiser holds"))]
    )


def _findings_of(name: str, rule: Callable[_P, list[Finding]], *args: _P.args, **named: _P.kwargs) -> list[Finding]:
    """What a rule or an observer finds; one that fails says so, and the others are asked all the same."""
    try:
        return rule(*args, **named)
    except Exception as error:
        return [_failure(name, error)]


def _failure(name: str, error: Exception) -> Finding:
    return as_note(Code.LOSSES, UNJUDGED, f"{name} failed: {type(error).__name__}: {error_text(error)}")


def diagnose(trace: Trace, declared: Declared, reported: Sequence[float] | None = None) -> Findings:
    """What is wrong with a recorded loop, by all rules in order; the arguments are those of watched_run()."""
    if trace.failure:
        return Findings([as_note(Code.LOSSES, UNJUDGED, f"the recording ended by {trace.failure}")])
    try:
        run = watched_run(trace, declared, reported)
    except Exception as error:
        return Findings([_failure("the comparison of windows", error)])
    first: dict[str, Finding] = {}
    if trace.merged.full:
        text = f"what came after {trace.step_count} steps was not recorded"
        first["full"] = as_note(Code.LOSSES, UNJUDGED, text)
    for rule in RULE_FUNCTIONS:
        for finding in _findings_of(rule.__name__, rule, run):
            key = f"{finding.name} {finding.evidence if finding.severity == 'note' else ''}"
            # Of one name, the first of the gravest stays.
            first[key] = min(first.get(key, finding), finding, key=lambda one: SEVERITIES.index(one.severity))
    return Findings(_at_losses(first.values(), trace))


def _at_losses(findings: Iterable[Finding], trace: Trace) -> list[Finding]:
    """Where a library runs the loop by one call, its line says less than that of the loss, which it calls."""
    inside: dict[str, str] = {}
    for batch in trace.micro_batches if trace.by_library else []:
        # Frames of a stack are told apart within their line too.
        for outer in ("", *(frame.rpartition("+")[0] for frame in batch.call_stack[1:])):
            inside.setdefault(outer, batch.where)
    return [replace(one, where=inside.get(one.where, one.where)) if one.code in OF_LOSSES else one for one in findings]


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
