"""Rules about the schedule: its rates and ticks, beside the steps that were taken and the length it was made for."""

from __future__ import annotations

import itertools
from itertools import pairwise

from rislab.checkup.findings import Finding, as_fault, as_note, as_warning
from rislab.checkup.recording.merged_steps import StepNumbers
from rislab.checkup.recording.source_text import epochs_around_ticks, never_stepped_name
from rislab.checkup.recording.trace import Trace
from rislab.checkup.recording.windows import WatchedRun
from rislab.checkup.rules import Code

# Fewer steps show no curve.
CURVE = 20
# So many times its length, a schedule of epochs has run in batches.
OVER_AND_OVER = 8
# A rate of so little of the largest one moves nothing, in any number format.
NOTHING = 1e-9
# Schedules that multiply the rate by a factor now and then.
FALLING = ("ExponentialLR", "StepLR", "MultiStepLR")
# Schedules whose rates rise again, or fall late, by what they are.
PERIODIC = ("CyclicLR", "CosineAnnealingWarmRestarts", "OneCycleLR", "ReduceLROnPlateau")


def ticks_instead_of_steps(trace: Trace) -> str:
    """What was counted in a run without a step where the scheduler was stepped in place of the optimiser, else ""."""
    used = sum(batch.backwards > 0 for batch in trace.left)
    ticks = trace.ticks or 0
    return f"{used} losses with a backward, {ticks} ticks of the scheduler, 0 steps" if ticks >= used / 2 >= 1 else ""


def learning_rates(run: WatchedRun) -> list[Finding]:
    """Learning rates of 0, and schedules that end long before the training."""
    if runs_past_its_end(run):
        return []
    applied = _applied(run.trace)
    zero = [place for place, step in enumerate(applied) if step.rate == 0]
    findings = _rates_of_0(applied, zero, run) if zero else []
    rates = _rates(applied)
    lowest = [rate <= 1.001 * min(rates) for rate in rates]
    if zero or not rates or min(rates) > 0.05 * max(rates) or not lowest[-1]:
        return findings
    small = sum(rate < 1e-3 * max(rates) for rate in rates)
    if small > len(rates) / 2:
        text = f"{small} of {len(rates)} steps at less than 1/1000 of the largest rate, {max(rates):.2g}"
        last = sum(rate <= NOTHING * max(rates) for rate in rates)
        findings.append(_ends_early(text, last, run))
    elif sum(lowest) > len(lowest) / 2:
        text = f"{sum(lowest)} of {len(lowest)} steps at the lowest rate, {min(rates):.2g} of {max(rates):.2g}"
        epochs = _counted_in_epochs(run)
        aliases = ("epoch schedule stepped per batch",) if epochs else ()
        kind = as_fault if epochs else as_warning
        findings.append(kind(Code.LEARNING_RATE, "schedule ends early", text + epochs, aliases=aliases))
    return findings


def _counted_in_epochs(run: WatchedRun) -> str:
    """That the falls of a schedule are those of epochs, and its ticks those of batches; "" if they may be alike."""
    schedule, applied = run.trace.schedule, _applied(run.trace)
    if schedule is None or not schedule.last_fall or schedule.begun or not _each_step(applied):
        return ""
    last, ticks = schedule.last_fall, applied[-1].ticks or 0
    epochs = run.declared.epochs or epochs_around_ticks(applied[0].where.rpartition(":")[0], schedule.kind)
    # It would have ended within the epochs, had it counted them, and ended in the first few of so many steps.
    if not 1 < last <= epochs or ticks < max(OVER_AND_OVER * last, 2 * epochs):
        return ""
    return f"; {schedule.kind} falls at tick {last}, of {epochs} epochs, and ticked {ticks} times, within each of them"


def _rates_of_0(applied: list[StepNumbers], zero: list[int], run: WatchedRun) -> list[Finding]:
    """What is to be said of steps at a rate of 0: those at the end, a first one, and all others."""
    steps, name = len(applied), "learning rate 0 at the first step"
    ending = 0 if len(zero) == steps else sum(1 for _ in itertools.takewhile(lambda one: one.rate == 0, applied[::-1]))
    findings = []
    if ending >= max(CURVE, steps / 4):
        text = f"the last {ending} of {steps} steps were at a rate of 0"
        findings.append(_ends_early(text, ending, run))
    elif ending:
        text = f"the last {ending} of {steps} steps"
        findings.append(as_note(Code.LEARNING_RATE, "schedule ends in a rate of 0", text))
    others = zero[: len(zero) - ending]
    if not others:
        return findings
    text = f"learning rate 0 at {len(others)} of {steps} steps, the first at step {others[0] + 1}"
    aliases = ("warm-up counted in samples",)
    rare = len(others) <= max(1, steps / 8) and len(others) < steps
    # None after another: of a schedule that begins anew, too.
    if rare and all(later > one + 1 for one, later in itertools.pairwise(others)):
        note = f"{text}: a warm-up that begins at 0 loses one step"
        findings.append(as_note(Code.LEARNING_RATE, name, note, aliases))
    else:
        findings.append(as_fault(Code.LEARNING_RATE, name, text, applied[others[0]].where, aliases))
    return findings


def _ends_early(text: str, last: int, run: WatchedRun) -> Finding:
    """A fault where a schedule ended before half of the training, and left it at a rate of nothing.

    Args:
        text: the numbers.
        last: steps at the end whose rate moves nothing.
        run: that is judged.
    """
    schedule, applied = run.trace.schedule, _applied(run.trace)
    if schedule is not None and last >= max(CURVE, len(applied) / 2) and all(step.losses for step in applied[-last:]):
        length, ticks = schedule.length or 0, schedule.begun + (applied[-1].ticks or 0)
        # Weights may be frozen by a factor of 0, but neither by the end of a schedule that was made for fewer ticks,
        # nor by a rate that falls and falls.
        if 0 < 2 * length <= ticks or schedule.kind in FALLING:
            made = f"made for {length} ticks" if length else f"of kind {schedule.kind}"
            text += f"; the schedule, {made}, had {ticks}: a loss was computed for each of the last {last} steps, at "
            text += f"rates of at most {NOTHING:g} of the largest"
            return as_fault(Code.LEARNING_RATE, "schedule ends early", text)
    return as_warning(Code.LEARNING_RATE, "schedule ends early", text)


def scheduler_ticks(run: WatchedRun) -> list[Finding]:
    """A scheduler that ticks at other times than the optimiser steps."""
    steps, interval = run.trace.numbers(), run.declared.scheduler_interval
    applied = [step for step in steps if step.applied]
    if not run.declared.scheduler or not applied:
        return []
    # A tick after a step that was not recorded is none too many.
    late = min(run.trace.missed, steps[0].ticks or 0)
    ticks = [(step.ticks or 0) - late for step in steps]
    batches = sum(step.losses for step in steps[:-1])
    passed, where = ticks[-1] - ticks[0], applied[0].where
    counts = f"{ticks[-1]} ticks before step {len(ticks)}, {batches} micro-batches, {len(applied)} steps taken"
    if len(applied) > 1 and run.trace.ticks == steps[0].ticks:
        if run.trace.stopped or len({step.rate for step in applied}) > 1:
            # What moves the rates is another scheduler, as that of an average of weights, or the loop itself.
            return []
        held = _held_down(run)
        idle = _never_called(run, where)
        kind = as_fault if interval == "step" or len(run.reported or ()) > 1 or held or idle else as_warning
        text = f"{ticks[0]} ticks in {len(applied)} steps{held}{idle}"
        return [kind(Code.SCHEDULER, "scheduler never stepped", text, where)]
    if ticks[0] >= 1 and steps[0].applied:
        per_batch = ticks[0] >= steps[0].losses > 1
        name = "scheduler per micro-batch" if per_batch else "scheduler before the optimiser"
        return [as_fault(Code.SCHEDULER, name, f"{ticks[0]} ticks before the first step; {counts}", where)]
    if batches > len(ticks) - 1 > 0 and passed >= batches:
        return [as_fault(Code.SCHEDULER, "scheduler per micro-batch", counts, where)]
    before = [0, *itertools.accumulate(step.applied for step in steps[:-1])]
    ahead = [place for place, (tick, due) in enumerate(zip(ticks, before, strict=True)) if tick > due]
    if ahead:
        skipped = any(not step.applied for step in steps[: ahead[0] + 1])
        name = "schedule runs over skipped steps" if skipped else "scheduler per micro-batch"
        return [as_fault(Code.SCHEDULER, name, counts, where)]
    if interval == "step" and passed < before[-1]:
        text = f"{counts}, and it was declared to tick at each step"
        return [as_fault(Code.SCHEDULER, "schedule stepped per epoch", text, where)]
    if 0 < passed < before[-1]:
        text = f"{counts}: fewer ticks than steps, as of a schedule that counts epochs"
        return [as_note(Code.SCHEDULER, "schedule stepped per epoch", text)]
    return []


def _never_called(run: WatchedRun, where: str) -> str:
    """That nothing in the file that takes the steps calls a scheduler which never ticked; "" if something may."""
    schedule, trace = run.trace.schedule, run.trace
    if schedule is None or schedule.begun or trace.ticks or trace.crashed or len(_rates(_applied(trace))) < CURVE:
        return ""
    name = never_stepped_name(where.rpartition(":")[0], schedule.kind)
    return f", and nothing in the file calls step() of {name}" if name else ""


def _held_down(run: WatchedRun) -> str:
    """How a scheduler that never ticked has held the rate at the beginning of its warm-up, "" if it may not have."""
    trace, schedule, rates = run.trace, run.trace.schedule, _rates(_applied(run.trace))
    if schedule is None or schedule.begun or trace.ticks or trace.stopped or trace.crashed or not rates:
        return ""
    cycle = schedule.kind == "OneCycleLR"
    warm_up = schedule.length if cycle or schedule.kind == "LinearLR" else schedule.warm_up
    # A warm-up of few ticks counts epochs, and the run may be within the first of them.
    if not warm_up or not CURVE <= warm_up <= len(rates) or not (cycle or max(rates) < 0.9 * schedule.base):
        return ""
    top = "" if cycle else f" of {schedule.base:.2g}"
    return f": the warm-up of {schedule.kind}, made for {warm_up} ticks, left all of them at its first rate, " + (
        f"{max(rates):.2g}{top}"
    )


def runs_past_its_end(run: WatchedRun) -> list[Finding]:
    """A cosine that rises again, as it does after the ticks that it was made for."""
    schedule, applied = run.trace.schedule, _applied(run.trace)
    if schedule is None or not schedule.length or not schedule.rises_after or len(applied) < 2:
        return []
    length, ticks = schedule.length, schedule.begun + (applied[-1].ticks or 0)
    rates = _rates(applied)
    after = [rate for rate, step in zip(rates, applied, strict=True) if schedule.begun + (step.ticks or 0) > length]
    if ticks < 1.25 * length or max(after, default=0.0) < 2 * min(rates):
        return []
    text = (
        f"made for {length} ticks, it had {ticks} in {len(applied)} steps: the rates fell to {min(rates):.2g}, "
        f"and rose to {max(after):.2g} again"
    )
    if ticks < 2 * length or not _each_step(applied):
        return [as_warning(Code.SCHEDULER, "schedule runs past its end", text, applied[0].where)]
    aliases = ("schedule runs past its end",)
    epochs = run.declared.epochs or len(run.reported or ())
    certain = run.declared.scheduler_interval == "epoch" or (epochs and abs(epochs - length) <= 1)
    # Steps at a rate of 0 in the middle of a training are in nobody's plan.
    certain = certain or (ticks >= OVER_AND_OVER * length - 1 and min(rates) == 0)
    kind = as_fault if certain else as_warning
    return [kind(Code.SCHEDULER, "epoch schedule stepped per batch", text, applied[0].where, aliases)]


def hardly_begins(run: WatchedRun) -> list[Finding]:
    """A schedule as long as there were steps, or micro-batches, that got far fewer ticks."""
    trace, schedule, applied = run.trace, run.trace.schedule, _applied(run.trace)
    if schedule is None or not schedule.length or schedule.begun or trace.stopped or trace.crashed:
        return []
    length, ticks, steps = schedule.length, trace.ticks or 0, len(applied)
    batches = sum(step.losses for step in applied)
    if length < CURVE or not 0 < ticks <= length / 2:
        return []
    text = f"made for {length} ticks, it got {ticks} in all {steps} steps, of {batches} micro-batches"
    rates = _rates(applied)
    text = f"{text}: the rates went from {rates[0]:.2g} to {rates[-1]:.2g}"
    if abs(length - steps) <= 0.05 * steps and ticks < steps / 2:
        kind, aliases = as_fault if abs(length - steps) <= 1 else as_warning, ("schedule stepped per epoch",)
    elif batches >= 2 * steps and abs(length - batches) <= 0.05 * batches:
        # The first half of a run has as many micro-batches as the schedule has ticks, in windows of two.
        kind, aliases = as_warning, ("schedule counted in micro-batches",)
    else:
        return []
    return [kind(Code.SCHEDULER, "schedule hardly begins", text, applied[0].where, aliases)]


def warm_up_never_ends(run: WatchedRun) -> list[Finding]:
    """Rates that rise in all steps, and a warm-up that is longer than the whole schedule."""
    trace, schedule, applied = run.trace, run.trace.schedule, _applied(run.trace)
    if schedule is None or schedule.begun or schedule.kind in PERIODIC or not applied:
        return []
    name, where, steps = "warm-up never ends", applied[0].where, len(applied)
    name_below = "rate below the one asked for"
    ended = not trace.stopped and not trace.crashed
    rates = _rates(applied)
    if schedule.warm_up and schedule.length and schedule.warm_up > schedule.length:
        text = (
            f"a warm-up of {schedule.warm_up} ticks in a schedule of {schedule.length}: the rates never reach the top"
        )
        certain = ended and abs(schedule.warm_up - steps) <= 1
        kind = as_fault if certain else as_warning
        return [kind(Code.LEARNING_RATE, name, text, where, ("warm-up and total swapped",))]
    if not ended:
        return []
    if schedule.kind == "ConstantLR" and schedule.length and max(rates) < 0.99 * schedule.base:
        text = f"all {steps} steps at {max(rates):.2g}, where the optimiser was made with {schedule.base:.2g}"
        # Who wants a rate lower for a while says how much lower, and for how long.
        certain = schedule.unchosen and steps >= CURVE
        text += f": ConstantLR, of which nothing was chosen, keeps a third for {schedule.length} ticks" * certain
        return [(as_fault if certain else as_warning)(Code.LEARNING_RATE, name_below, text, where)]
    # A warm-up that was broken off may have come to any factor; one that fell again had its largest.
    falls = schedule.kind == "LambdaLR" and 0 < schedule.base < 1 and rates[-1] < max(rates)
    if falls and abs(max(rates) - schedule.base**2) <= 1e-6 * schedule.base**2:
        text = f"the largest rate of {steps} steps was {max(rates):.2g}, the square of the {schedule.base:.2g} that "
        text += "the optimiser was made with: the function of LambdaLR gives a rate, and is to give a factor"
        return [as_fault(Code.LEARNING_RATE, name_below, text, where)]
    if steps >= CURVE and _each_step(applied) and _rises_to_the_end(rates):
        text = f"the rates rose in all {steps} steps, from {rates[0]:.2g} to {rates[-1]:.2g}, and never fell"
        return [as_warning(Code.LEARNING_RATE, name, text, where, ("warm-up and total swapped",))]
    return []


def _applied(trace: Trace) -> list[StepNumbers]:
    """Steps whose rates are known; optimisers of other libraries say none."""
    return [step for step in trace.numbers() if step.applied and step.rate is not None]


def _rates(steps: list[StepNumbers]) -> list[float]:
    return [step.rate for step in steps if step.rate is not None]


def _each_step(applied: list[StepNumbers]) -> bool:
    """Whether the scheduler ticked once, or more often, between any two steps."""
    ticks = [step.ticks or 0 for step in applied]
    return all(after > before for before, after in pairwise(ticks))


def _rises_to_the_end(rates: list[float]) -> bool:
    """Whether rates rise from step to step, and not by one factor each time, as those of a search for a rate do."""
    factors = [after / before for before, after in pairwise(rates) if before > 0]
    rising = all(factor > 1 for factor in factors) and rates[-1] >= 2 * rates[0]
    return rising and max(factors) > 1.001 * min(factors)
