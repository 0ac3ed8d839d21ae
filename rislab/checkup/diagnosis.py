"""What observes a loop besides the recorders of its optimisers, what judges their records, and what both find.

A loop needs it when it is watched, and not when the checkup is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import ParamSpec

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
from rislab.checkup.observers.loose_tensors import LooseTensors
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
from rislab.checkup.observers.swallowed_terms import SwallowedTerms
from rislab.checkup.observers.term_scales import SumsBesideMeans
from rislab.checkup.observers.token_targets import TokenTargets
from rislab.checkup.observers.unread_answers import UnreadAnswers
from rislab.checkup.observers.unregistered import UnregisteredTensors
from rislab.checkup.observers.unused_losses import DroppedLosses
from rislab.checkup.probes.final_probes import FinalProbes
from rislab.checkup.recording.events import Observer
from rislab.checkup.recording.trace import Trace
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
from rislab.errors import error_text

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
    SwallowedTerms,
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


def standard_observers() -> list[Observer]:
    """What watches a loop besides the recorders of its optimisers, in the order in which findings are listed."""
    steps = StepCount()
    targets, samplers, loaders = TokenTargets(), RepeatedOrder(), LoaderPasses(steps)
    return [
        steps,
        UnregisteredTensors(),
        LooseTensors(),
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
        SwallowedTerms(),
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
        UnreadAnswers(steps),
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
