"""What the loops of several optimisers in one process say of each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rislab.checkup.findings import Finding, as_fault, listed
from rislab.checkup.recording.tracking import TrackedOptimizer, unwrapped
from rislab.checkup.recording.windows import Declared, watched_run
from rislab.checkup.rules import Code

# Ticks of a scheduler, and backwards, after its optimiser has stepped for the last time.
TICKS = 3


def declared_of(tracked: TrackedOptimizer, loops: Sequence[TrackedOptimizer], size: int) -> Declared:
    """What is declared of a loop, without a K that is that of another stage, or of the main network.

    Args:
        tracked: the optimiser of the loop.
        loops: all of the process.
        size: K that is declared for the process, 1 if none is.
    """
    declared, others = tracked.declared, [one for one in loops if one is not tracked and one.turns]
    if size == 1 or not tracked.turns or not others or _most_windows(tracked) != 1:
        return declared
    steps = tracked.recorder.trace.taken_count
    for other in others:
        apart = tracked.turns[-1] < other.turns[0] or other.turns[-1] < tracked.turns[0]
        if _most_windows(other) == size and (apart or steps <= other.recorder.trace.taken_count):
            return replace(declared, accumulation_steps=None)
    return declared


def _most_windows(tracked: TrackedOptimizer) -> int:
    """How many micro-batches most windows of an optimiser have."""
    return watched_run(tracked.recorder.trace, replace(tracked.declared, accumulation_steps=None)).size


def has_recorded_steps(tracked: TrackedOptimizer) -> bool:
    """Whether a step of an optimiser was recorded."""
    return bool(tracked.recorder.trace.steps)


def schedule_goes_on(tracked: TrackedOptimizer, loops: Sequence[TrackedOptimizer]) -> bool:
    """Whether a later optimiser, as of a resumed run, has a schedule of the kind that begins where its own ends."""
    own, ticks = tracked.recorder.trace.schedule, tracked.recorder.trace.ticks or 0
    later = [one.recorder.trace.schedule for one in loops if one is not tracked]
    return own is not None and any(
        one is not None and (one.kind, one.length, one.begun) == (own.kind, own.length, own.begun + ticks)
        for one in later
    )


def stale_parameters(tracked: TrackedOptimizer, missed: Sequence[str]) -> list[Finding]:
    """The fault of an optimiser that no loss depends on, where a network is trained that no optimiser holds.

    Args:
        tracked: the optimiser.
        missed: names of tensors that got a gradient and are in no optimiser.
    """
    trace = tracked.recorder.trace
    if trace.micro_batches or not trace.detached_losses or trace.only_frozen or not missed:
        return []
    text = f"{len(missed)} trainable tensors got a gradient and are in no optimiser: {listed(missed)}"
    evidence = f"{text}; {trace.step_count} steps on others"
    return [as_fault(Code.WEIGHTS, "optimiser holds stale parameters", evidence)]


def scheduler_of_another(tracked: TrackedOptimizer, loops: Sequence[TrackedOptimizer]) -> list[Finding]:
    """The scheduler of an optimiser whose tensors another one, without a scheduler, steps on since."""
    trace = tracked.recorder.trace
    if not trace.steps:
        return []
    if tracked.ticks_before is not None and tracked.scheduler is not None:
        over = unwrapped(vars(tracked.scheduler).get("optimizer"), "optimizer") is not tracked.optimizer
        late, steps = (trace.ticks or 0) - tracked.ticks_before, trace.steps
    else:
        own = set(map(id, tracked.tensors()))
        later = [one for one in loops if one is not tracked and one.scheduler is None and has_recorded_steps(one)]
        successor = next((one for one in later if own <= set(map(id, one.tensors()))), None)
        over = successor is not None and sum(batch.backwards > 0 for batch in trace.left) >= TICKS
        late, steps = (trace.ticks or 0) - (trace.steps[-1].ticks or 0), (successor or tracked).recorder.trace.steps
    if not over or late < TICKS:
        return []
    text = f"{late} ticks of a scheduler came after another optimiser took over the tensors of its own, whose rates "
    return [as_fault(Code.SCHEDULER, "scheduler of another optimiser", text + "it does not set", steps[-1].where)]


def without_repetitions(findings: Sequence[Finding]) -> list[Finding]:
    """Findings of many optimisers that say the same in the same place, once."""
    first: dict[tuple[str, ...], Finding] = {}
    for finding in findings:
        evidence = finding.evidence if finding.severity == "note" else ""
        first.setdefault((finding.code, finding.name, finding.where, evidence), finding)
    return list(first.values())
